"""Faults of the directory, the disk, the I/O threads and the files under a server."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from l2_store import Directory, Stored

NOBODY = 65534
IO_THREADS = "larder-l2-fs"


# -- a separate disk ---------------------------------------------------------
@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[bool]:
    """Mount a tmpfs of that size on ``path`` if permitted; yields whether it is mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "larder-torture", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


# -- faults that begin and end ----------------------------------------------------
@contextmanager
def directory_replaced(path: Path) -> Iterator[None]:
    """Replace the directory by a file, and restore it at the end."""
    away = path.with_name("away")
    path.rename(away)
    path.touch()
    try:
        yield
    finally:
        path.unlink()
        away.rename(path)


@contextmanager
def permission(path: Path, mode: int) -> Iterator[None]:
    """Set the mode of the directory; the server runs as ``NOBODY``, not root."""
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(0o755)


@contextmanager
def files_unreadable(path: Path) -> Iterator[None]:
    """The existing files can be found, but not opened."""
    files = [file for file in path.iterdir() if file.suffix == ".data"]
    for file in files:
        file.chmod(0)
    try:
        yield
    finally:
        for file in files:
            with suppress(FileNotFoundError):
                file.chmod(0o644)


@contextmanager
def disk_full(disk: Path) -> Iterator[None]:
    """Fill the disk to the last page."""
    ballast = disk / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    pass
        yield
    finally:
        ballast.unlink()


@contextmanager
def threads_stopped(pid: int) -> Iterator[None]:
    """Stop the threads that do file I/O, as a disk that does not answer would.

    Begin it while they are idle: then they hold no lock, as a thread in a system call holds none.
    """
    threads = [
        int(task.name)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if (task / "comm").read_text().strip() == IO_THREADS
    ]
    assert threads, f"the server has no threads called {IO_THREADS}"
    stopped: list[int] = []
    try:
        for thread in threads:
            _ptrace(_SEIZE, thread)
            stopped.append(thread)
            _ptrace(_INTERRUPT, thread)
            os.waitpid(thread, _WALL)
        yield
    finally:
        for thread in stopped:
            _ptrace(_DETACH, thread)


_SEIZE, _INTERRUPT, _DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of thread {thread}: {os.strerror(number)}")


def may_stop_threads() -> bool:
    """Whether a child's thread can be stopped on this machine."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        _ptrace(_SEIZE, sleeper.pid)
        return True
    except OSError:
        return False
    finally:
        sleeper.kill()
        sleeper.wait()


# -- damage to single files -----------------------------------------------------------
@dataclass(frozen=True)
class Damage:
    """One kind of damage to the file of an object."""

    name: str
    do: Callable[[Stored, random.Random], None]

    def spread(self, directory: Directory, rng: random.Random, fraction: float) -> list[Stored]:
        """Damage a fraction of the files; returns the damaged ones."""
        victims = directory.sample(rng, fraction)
        for victim in victims:
            self.do(victim, rng)
        return victims


def _cut(stored: Stored, rng: random.Random) -> None:
    os.truncate(stored.path, rng.randrange(stored.path.stat().st_size))


def _flip(stored: Stored, rng: random.Random) -> None:
    with open(stored.path, "r+b") as file:
        at = rng.randrange(os.fstat(file.fileno()).st_size)
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << rng.randrange(8)]), at)


def _remove(stored: Stored, _: random.Random) -> None:
    stored.path.unlink()


CUT, FLIPPED, REMOVED = Damage("files cut short", _cut), Damage("bits flipped", _flip), Damage("files removed", _remove)


def keep_spreading(directory: Directory, rng: random.Random, until: float) -> int:
    """Damage files while clients store and read; returns how many."""
    done = 0
    while time.monotonic() < until:
        damage = rng.choice((CUT, FLIPPED, REMOVED))
        for stored in directory.sample(rng, 0.02):
            try:
                damage.do(stored, rng)
                done += 1
            except (FileNotFoundError, ValueError):
                pass  # the server has just removed or replaced it, or it is empty already
        time.sleep(0.02)
    return done
