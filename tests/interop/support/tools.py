"""The stock tools, unmodified: several command lines in one process, because importing torch takes seconds.

As a program it reads a JSON list of command lines, ``[MODULE, WORD...]``, and prints for each how it ended
and its output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLI = "lmcache.cli.main"
VIEWER = "lmcache.tools.mp_status_viewer"


@dataclass(frozen=True)
class Ran:
    """How a tool ended, and its standard output."""

    status: int
    stdout: str

    @property
    def json(self) -> Any:
        """Its JSON output (``--format json``), after any other text."""
        start = self.stdout.find("{\n")
        assert start >= 0, f"expected JSON in: {self.stdout}"
        return json.JSONDecoder().raw_decode(self.stdout[start:])[0]


def run(*commands: list[str], timeout_s: float = 300.0) -> list[Ran]:
    """Run these one after the other."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__))], input=json.dumps(commands), capture_output=True, text=True,
        timeout=timeout_s, check=False, env=dict(os.environ, LMCACHE_DISABLE_BANNER="1", LMCACHE_LOG_LEVEL="ERROR"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [Ran(**ran) for ran in json.loads(done.stdout.splitlines()[-1])]


def _run_one(module: str, words: list[str]) -> dict[str, Any]:
    sys.argv = [module, *words]
    output = io.StringIO()
    status: Any = 0
    with contextlib.redirect_stdout(output):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as ended:
            status = ended.code or 0
    return {"status": status if isinstance(status, int) else 1, "stdout": output.getvalue()}


if __name__ == "__main__":
    print("\n" + json.dumps([_run_one(module, words) for module, *words in json.load(sys.stdin)]), flush=True)
    os._exit(0)  # whatever threads a tool has left behind
