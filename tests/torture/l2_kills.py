"""The server is killed while it writes back to L2, many times over the same directory.

After each restart: every file is whole, byte for byte; what a client reads is right; the usage that
the server reports is what is on disk; and nothing unfinished stays behind. Between two kills some of
the files are deleted, so that there is always something to write.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

import mpb_wire as wire
import traffic
from l2_store import Directory
from report import Report
from support.process import ServerProcess, eventually

GEOMETRY = wire.Geometry("l2kills", layers=1, hidden=8192, chunk_size=traffic.CHUNK_TOKENS)  # 512 KiB a chunk
L1_GIB = 0.0625
STORES = 8  # prompts stored before each kill: 24 MiB to write back
READS = 4  # prompts read after each restart
KILL_WITHIN_S = 0.03
SETTLE_S = 10.0
CAPACITY_GIB = 0.125

USAGE = "lmcache_mp_l2_usage_bytes"
LOADED = "lmcache_mp_l2_prefetch_load_completed_chunks_total"

ADAPTERS = {
    "fs": {"type": "fs"},
    "fs_native with a capacity": {
        "type": "fs_native",
        "max_capacity_gb": CAPACITY_GIB,
        "eviction": {"eviction_policy": "LRU"},
    },
}


class Killing:
    """One directory and the server over it."""

    def __init__(self, name: str, folder: Path, report: Report, seed: int) -> None:
        path = folder / name.replace(" ", "-")
        path.mkdir(mode=0o700)
        adapter = ADAPTERS[name] | {"base_path": str(path)}
        self.capacity = int(CAPACITY_GIB * 2**30) if "max_capacity_gb" in adapter else None
        self.name, self.report = name, report
        self.directory = Directory(path, GEOMETRY)
        self.rng = random.Random(f"{name}-{seed}")
        flags = ("--l2-adapter", json.dumps(adapter))
        self.server = ServerProcess(chunk_size=traffic.CHUNK_TOKENS, l1_gib=L1_GIB, flags=flags)
        self.counters = dict.fromkeys(
            ("kills", "unfinished files found after a kill", "files checked", "chunks read from L2 and checked"), 0
        )

    def round(self) -> None:
        self.server.start()
        self._check()
        client = traffic.Client(self.server.url, 0.0, self.rng.getrandbits(30), geometry=GEOMETRY)
        there = sorted({stored.prompt for stored in self.directory.objects()})
        for prompt in self.rng.sample(there, min(READS, len(there))):
            client.read(prompt)
        self.counters["chunks read from L2 and checked"] += client.counts.chunks_verified
        prepared = [client.prepare(prompt) for prompt in self.rng.sample(range(traffic.PROMPTS), STORES)]
        for key, slots in prepared:
            if slots:
                client.worker.c.send("commit_store", key, client.instance, wire.enc(b""))
        time.sleep(self.rng.random() * KILL_WITHIN_S)
        self.server.kill()
        client.worker.c.close()
        client.worker.shm.close()
        self.counters["kills"] += 1
        self._look()
        self._thin_out()

    def _look(self) -> None:
        """Check the files that the killed server left."""
        self.counters["unfinished files found after a kill"] += len(self.directory.unfinished())
        for stored in self.directory.objects():
            self.counters["files checked"] += 1
            if not self.directory.is_whole(stored):
                number = self.counters["kills"]
                raise AssertionError(f"{self.name}: after kill {number} {stored.path} is not what was stored")

    def _thin_out(self) -> None:
        for stored in self.directory.sample(self.rng, 0.3):
            stored.path.unlink()

    def _check(self) -> None:
        """Check the usage that the new server reports."""
        directory, found = self.directory, {}

        def settled() -> bool:
            found["on disk"], found["reported"] = directory.object_bytes(), int(self.server.metric(USAGE))
            found["unfinished"] = directory.unfinished()
            within = self.capacity is None or found["on disk"] <= self.capacity
            return found["on disk"] == found["reported"] and not found["unfinished"] and within

        expected = f"{self.name}: after kill {self.counters['kills']} usage as on disk, nothing unfinished"
        try:
            eventually(settled, expected, SETTLE_S, every_s=0.005)
        except AssertionError as error:
            raise AssertionError(f"{error}; {found}; server log:\n{self.server.log()[-2000:]}") from None


def run(kills: int, seed: int) -> Report:
    report = Report(f"server killed during write-back ({kills})")
    with tempfile.TemporaryDirectory(prefix="larder-torture-l2-") as folder:
        killings = [Killing(name, Path(folder), report, seed) for name in ADAPTERS]
        try:
            for number in range(kills):
                killings[number % len(killings)].round()
            for killing in killings:
                killing.server.start()
                killing._check()
                killing.server.assert_healthy()
        except Exception as error:
            report.problems.append(f"{type(error).__name__}: {error}")
        finally:
            for killing in killings:
                killing.server.close()
        for killing in killings:
            report.counters |= {f"{killing.name}: {name}": value for name, value in killing.counters.items()}
        reads = [killing.counters["chunks read from L2 and checked"] for killing in killings]
        report.require(all(reads), "no object was read back from L2")
        caught = sum(killing.counters["unfinished files found after a kill"] for killing in killings)
        report.require(caught > 0, "no kill found a file half written: the kills prove nothing")
    return report
