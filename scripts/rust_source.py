"""Parses as much of Rust as the checks in this folder need."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

_SKIPPED = re.compile(
    r"""
    //[^\n]*                                  # a comment
  | /\*.*?\*/                                 # a block comment (nested ones are not used here)
  | \b[bc]?r(?P<hashes>\#*)".*?"(?P=hashes)   # a raw string
  | \b[bc]?"(?:\\.|[^"\\])*"                  # a string
  | "(?:\\.|[^"\\])*"
  | b?'(?:\\[^\n]|[^\\'\n])(?:[^'\n]{0,8})?'  # a character; a lifetime has no closing quote
    """,
    re.VERBOSE | re.DOTALL,
)
_LIFETIME = re.compile(r"'[a-z_]\w*(?!')")
_TEST_BLOCK = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? )?mod \w+ (\{)")
_FUNCTION = re.compile(r"\bfn (\w+)")


def rust_files() -> list[Path]:
    """The Rust files that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.rs"]
    listed = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True).stdout
    return sorted({path for name in listed.split("\0") if name and (path := REPOSITORY / name).exists()})


def code(text: str) -> str:
    """The text with comments, strings and characters blanked; lines stay where they are."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    return _SKIPPED.sub(blank, _LIFETIME.sub(blank, text)) if "'" in text else _SKIPPED.sub(blank, text)


def block_end(blanked: str, opening: int) -> int:
    """The position after the brace that closes the one at `opening`."""
    depth = 0
    for brace in re.finditer(r"[{}]", blanked[opening:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return opening + brace.end()
    return len(blanked)


def without_tests(blanked: str) -> str:
    """Blanked code without its blocks of unit tests."""
    while found := _TEST_BLOCK.search(blanked):
        end = block_end(blanked, found.start(1))
        blanked = blanked[: found.start()] + re.sub(r"[^\n]", " ", blanked[found.start() : end]) + blanked[end:]
    return blanked


@dataclass(frozen=True)
class Function:
    name: str
    line: int
    lines: int


def functions(blanked: str) -> list[Function]:
    """Every function with a body."""
    found = []
    for start in _FUNCTION.finditer(blanked):
        opening = re.compile(r"[{;]").search(blanked, start.end())
        if opening and opening[0] == "{":
            end = block_end(blanked, opening.start())
            first = blanked.count("\n", 0, start.start()) + 1
            found.append(Function(start[1], first, blanked.count("\n", 0, end) + 2 - first))
    return found
