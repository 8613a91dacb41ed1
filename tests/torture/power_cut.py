"""The machine loses power while the server writes to L2, many times, on ext4 and XFS.

L2 is a file system in an image that lies on an XFS with reflinks. A clone of the image is what the disk holds
at that moment; mounting it replays its journal, as the next start of the machine would. On every clone:

- under ``always`` and ``batch`` each file of an object is whole, byte for byte;
- under ``none`` files may hold other bytes, and a server over them must serve none of these.

A server is started over each clone with damaged files, and over some others, and reads all prompts.
It needs root, loop devices, and ``mkfs.ext4`` and ``mkfs.xfs``; where they are missing it is skipped with a line that says so.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mpb_wire as wire
import traffic
from l2_store import Directory
from report import Report
from support.process import ServerProcess

GEOMETRY = wire.Geometry("powercut", layers=1, hidden=4096, chunk_size=traffic.CHUNK_TOKENS)  # 256 KiB a chunk
L1_GIB = 0.03125
CAPACITY_GIB = 0.0625  # below what the prompts take, so that objects are always written
READ_EVERY = 25  # clones without damage over which a server is started all the same
STORES = 4  # prompts stored between two clones

LOADED = "lmcache_mp_l2_prefetch_load_completed_chunks_total"
DAMAGED = "lmcache_mp_l2_damaged_chunks_total"

# How to make an image, and to mount it or its clone.
FILE_SYSTEMS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], "loop,commit=1"),
    "xfs": (["mkfs.xfs", "-q"], "loop,nouuid"),
}
POLICIES = ("always", "batch", "none")


def call(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def obstacle() -> str | None:
    """Why this cannot run here."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [tool for tool in ("mkfs.ext4", "mkfs.xfs", "losetup") if shutil.which(tool) is None]
    return f"it needs {', '.join(missing)}" if missing else None


@contextmanager
def mounted(image: Path, at: Path, options: str) -> Iterator[None]:
    at.mkdir(exist_ok=True)
    call("mount", "-o", options, image, at)
    try:
        yield
    finally:
        call("umount", at)


@dataclass
class Campaign:
    """One policy on one file system."""

    top: Path
    kind: str
    policy: str
    seed: int
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("clones", "files", "damaged files", "clones served", "chunks served", "found damaged by the server"), 0
        )
    )

    @property
    def outer(self) -> Path:
        return self.top / "outer"

    @property
    def options(self) -> str:
        return FILE_SYSTEMS[self.kind][1]

    def adapter(self, directory: Path) -> tuple[str, str]:
        fields = {"type": "fs", "base_path": str(directory), "sync": self.policy, "max_capacity_gb": CAPACITY_GIB}
        return "--l2-adapter", json.dumps(fields)

    def server(self, directory: Path) -> ServerProcess:
        flags = self.adapter(directory)
        expected = ("WARN .*checksum",) if self.policy == "none" else ()
        return ServerProcess(chunk_size=traffic.CHUNK_TOKENS, l1_gib=L1_GIB, flags=flags, expected_log=expected)

    def run(self, clones: int) -> None:
        image = self.outer / "image"
        call("truncate", "-s", "512M", image)
        call(*FILE_SYSTEMS[self.kind][0], image)
        with mounted(image, self.top / "l2", self.options):
            taken = self._store(image, self.top / "l2", clones)
        image.unlink()
        for number, clone in enumerate(taken):
            with mounted(clone, self.top / "look", self.options):
                self._look(number, self.top / "look" / "kv")
            clone.unlink()

    def _store(self, image: Path, mount: Path, clones: int) -> list[Path]:
        """Stores, and takes clones of the image meanwhile."""
        taken: list[Path] = []
        over = threading.Event()

        def sync() -> None:
            # What else runs on the machine makes the journal go on.
            while not over.is_set():
                subprocess.run(["sync", "-f", str(mount)], check=True)

        syncing = threading.Thread(target=sync)
        with self.server(mount / "kv") as server:
            client = traffic.Client(server.url, 0.0, self.seed, geometry=GEOMETRY)
            rng = random.Random(self.seed)
            syncing.start()
            try:
                while len(taken) < clones:
                    for prompt in rng.sample(range(traffic.PROMPTS), STORES):
                        client.store(prompt)
                    clone = self.outer / f"clone{len(taken)}"
                    call("cp", "--reflink=always", image, clone)
                    taken.append(clone)
            finally:
                over.set()
                syncing.join()
                client.close()
        return taken

    def _look(self, number: int, kv: Path) -> None:
        """Examines the files of a clone, and what a server makes of them."""
        self.counters["clones"] += 1
        if not kv.is_dir():
            return
        directory = Directory(kv, GEOMETRY)
        stored = list(directory.objects())
        damaged = [one.path.name for one in stored if not directory.is_whole(one)]
        self.counters["files"] += len(stored)
        self.counters["damaged files"] += len(damaged)
        if damaged and self.policy != "none":
            raise AssertionError(f"clone {number}: {len(damaged)} of {len(stored)} files are damaged: {damaged[:3]}")
        if not damaged and (number + 1) % READ_EVERY:
            return
        self.counters["clones served"] += 1
        with self.server(kv) as server:
            client = traffic.Client(server.url, 0.0, number, geometry=GEOMETRY)
            for prompt in range(traffic.PROMPTS):
                client.read(prompt)  # raises an error if a byte is wrong
            client.close()
            self.counters["chunks served"] += int(server.metric(LOADED))
            self.counters["found damaged by the server"] += int(server.metric(DAMAGED))


def run(clones: int, seed: int) -> Report:
    report = Report(f"power lost while L2 is written ({clones} times for each policy and file system)")
    if reason := obstacle():
        report.counters["skipped"] = reason
        return report
    with tempfile.TemporaryDirectory(prefix="larder-power-cut-") as name:
        top = Path(name)
        call("truncate", "-s", "6G", top / "outer.image")
        call("mkfs.xfs", "-q", "-m", "reflink=1", top / "outer.image")
        try:
            with mounted(top / "outer.image", top / "outer", "loop,discard"):
                _campaigns(top, clones, seed, report)
        except subprocess.CalledProcessError as error:
            if not report.counters:
                report.counters["skipped"] = f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}"
            else:
                report.problems.append(f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}")
    return report


def _campaigns(top: Path, clones: int, seed: int, report: Report) -> None:
    for kind in FILE_SYSTEMS:
        for policy in POLICIES:
            campaign = Campaign(top, kind, policy, seed)
            try:
                campaign.run(clones)
            except (AssertionError, wire.CheckError) as error:
                report.problems.append(f"{kind}, {policy}: {type(error).__name__}: {error}")
            report.counters |= {f"{kind}, {policy}: {name}": value for name, value in campaign.counters.items()}
