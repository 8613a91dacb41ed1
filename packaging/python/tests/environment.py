"""A new Python environment with the wheel, and the processes started from it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def wheel() -> Path:
    """The wheel to test: LARDER_WHEEL, or the newest one that ``make wheel`` has made."""
    named = os.environ.get("LARDER_WHEEL")
    found = [Path(named)] if named else sorted((REPOSITORY / "dist").glob("larder_kv-*.whl"), key=os.path.getmtime)
    if not found or not found[-1].is_file():
        raise RuntimeError("there is no wheel: run 'make wheel', or name one in LARDER_WHEEL")
    return found[-1]


class Environment:
    """An empty environment in ``folder``; ``on_top`` lets it see the packages of this interpreter's too."""

    def __init__(self, folder: Path, *, on_top: bool = False) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True, symlinks=True)
        if on_top:
            site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
            (site / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def larder(self) -> Path:
        return self.folder / "bin" / "larder"

    def install(self) -> Environment:
        self._pip("install", "--no-deps", "--no-index", str(wheel()))
        return self

    def uninstall(self) -> None:
        self._pip("uninstall", "--yes", "larder-kv")

    def files(self) -> set[str]:
        """Every file in it."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def _pip(self, *words: str) -> None:
        # -B: pip must not write compiled modules, which would count as files left behind.
        command = [self.python, "-B", "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"pip {' '.join(words)}: {done.stdout}{done.stderr}"


def running(program: Path) -> list[int]:
    """The ids of the processes that run this file."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "exe").samefile(program):
                    found.append(int(entry.name))
            except OSError:
                pass  # it has just ended, or is not ours to look at
    return found
