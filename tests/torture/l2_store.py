"""A directory of L2 files, checked without the server: expected and actual content.

Names and contents are computed from the prompts, without asking the server.
"""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mpb_wire as wire
import traffic

SUFFIX, UNFINISHED = ".data", ".tmp"


@dataclass(frozen=True)
class Stored:
    """One object in the directory."""

    path: Path
    prompt: int
    chunk: int


class Directory:
    """The files of one geometry's prompts in one directory."""

    def __init__(self, path: Path, geometry: wire.Geometry) -> None:
        self.path = path
        self.geometry = geometry
        self._known = {
            wire.l2_file_name(geometry.model, chunk_hash): (prompt, chunk)
            for prompt, tokens in enumerate(traffic.PROMPT_SET)
            for chunk, chunk_hash in enumerate(wire.chunk_hashes(tokens.tokens, geometry.chunk_size))
        }

    def objects(self) -> Iterator[Stored]:
        for entry in os.scandir(self.path):
            if entry.name.endswith(SUFFIX):
                assert entry.name in self._known, f"a file of no prompt: {entry.path}"
                yield Stored(Path(entry.path), *self._known[entry.name])

    def object_bytes(self) -> int:
        """The size of the objects, as ``du --apparent-size`` shows it."""
        return sum(stored.path.stat().st_size for stored in self.objects())

    def unfinished(self) -> list[str]:
        return [entry.name for entry in os.scandir(self.path) if entry.name.endswith(UNFINISHED)]

    def is_whole(self, stored: Stored) -> bool:
        """Whether the file has the bytes that belong to its name."""
        size = self.geometry.object_bytes
        content = bytearray(stored.path.read_bytes())
        if len(content) != size:
            return False
        at = ctypes.addressof((ctypes.c_char * size).from_buffer(content))
        return wire.mem_equal(at, traffic.DATA.chunk_addr(stored.prompt, stored.chunk, size), size)

    def sample(self, rng: random.Random, fraction: float) -> list[Stored]:
        return [stored for stored in self.objects() if rng.random() < fraction]
