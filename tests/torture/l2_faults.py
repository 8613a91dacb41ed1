"""L2 fails under a server that must keep serving.

Three parts, all through the whole server, with checksums on:

- **The storage fails as a whole** and comes back: directory replaced, permission lost, disk full, the
  I/O hangs. `/readyz` reports what an operator must repair after one operation, and is ready again once the
  storage is back; nothing is restarted.
- **Files are damaged**: cut short, bits flipped, removed. What is damaged is a miss, exactly; what is
  stored again is whole again.
- **Single operations fail** by the `fault_inject` adapter: errors, hangs, short reads, flipped bits,
  torn writes, all at once.

In all of them every request ends within its deadline, no byte is wrong, and once every client is gone nothing
is pinned. Without checksums a flipped bit in the payload cannot be detected, so there is no part without
them; short files are always detected by their length.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import l2_damage
import mpb_wire as wire
import traffic
from l2_crowd import Crowd, client_of
from l2_store import Directory
from report import Report
from support.process import ServerProcess, eventually

L1_GIB = 0.015625  # 16 MiB, less than half of what the prompts take
DISK_MIB = 96
SHOWN_S = 3.0  # from the end of an operation to the answer of /readyz: only the time of the two calls
SETTLE_S = 20.0
RECOVERY_S = 45.0  # a backend that was left alone is asked again after 30 s at the latest

LOADED = "lmcache_mp_l2_prefetch_load_completed_chunks_total"
LOAD_FAILURES = "lmcache_mp_l2_load_failure_chunks_total"
STORE_FAILURES = "lmcache_mp_l2_store_failure_chunks_total"
PENDING = "lmcache_mp_l2_store_pending_objects"
USAGE = "lmcache_mp_l2_usage_bytes"

# Must be zero once every client is gone.
HELD = (
    "lmcache_mp_lookup_leases", "lmcache_mp_active_stores", "lmcache_mp_active_retrieves", "lmcache_mp_sessions",
    "lmcache_mp_quarantined_objects", "lmcache_mp_l1_staging_bytes", "lmcache_mp_l1_unlinked_objects",
    "lmcache_mp_active_prefetch_jobs", "lmcache_mp_waiting_prefetch_jobs", PENDING,
    "lmcache_mp_num_inflight_l2_stores", "lmcache_mp_num_inflight_l2_loads",
    "lmcache_mp_inflight_load_memory_usage_bytes", "lmcache_mp_inflight_store_memory_usage_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The storage fails as a whole, and which directions show it after one operation.

    ``throughout``: no operation can succeed in these directions, so they show it until it is over.
    """

    name: str
    during: Callable[[], AbstractContextManager[None]]
    reads: bool
    writes: bool
    throughout: bool = True
    misses: bool = False  # its objects are misses, although reads work

    def directions(self) -> list[str]:
        return ["reads"] * self.reads + ["writes"] * self.writes


class Rig:
    """A server over one directory, and a client."""

    def __init__(self, server: ServerProcess, path: Path, seed: int, report: Report) -> None:
        self.server, self.report, self.seed = server, report, seed
        self.directory = Directory(path, traffic.GEOMETRY)
        self.rng = random.Random(seed)
        self.client = client_of(server.url, seed)
        self.counts = traffic.Counts()
        self.slowest: dict[str, float] = {}

    # -- inspection ------------------------------------------------------------
    def reasons(self) -> list[str]:
        """The reasons that /readyz lists; none if its status is 200."""
        answer = self.server.http("/readyz")
        reasons = json.loads(answer.body)["reasons"]
        assert (answer.status == 200) == (not reasons), f"/readyz: status {answer.status} with reasons {reasons}"
        return reasons

    def shows(self, direction: str) -> bool:
        return any(f": {direction} " in reason for reason in self.reasons())

    def ready_again(self, fault: str, ended: float) -> None:
        """Wait until /readyz returns 200, and note how long that took since ``ended``."""
        eventually(lambda: not self.reasons(), f"{fault} is over: /readyz returns 200", RECOVERY_S, 0.05)
        self.report.counters.setdefault(f"{fault}: ready again after (s)", round(time.monotonic() - ended, 2))

    def settle(self, what: str) -> None:
        """Wait until nothing is pinned or pending."""

        def held() -> dict[str, float]:
            sums = dict.fromkeys(HELD, 0.0)
            for name, value in self.server.metrics().items():
                base = name.split("{")[0]
                if base in sums:
                    sums[base] += value
            return {name: value for name, value in sums.items() if value}

        try:
            eventually(lambda: not held(), f"{what}: nothing is held", SETTLE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; held: {held()}") from None

    # -- actions -----------------------------------------------------------------
    def clear(self) -> None:
        self.client.worker.c.call("clear")

    def written_back(self) -> None:
        eventually(lambda: self.server.metric(PENDING) == 0, "everything stored or given up", SETTLE_S)

    def store_all(self) -> None:
        """Store every prompt and write it to L2. L1 is empty before and after."""
        self.clear()
        for prompt in range(traffic.PROMPTS):
            self.client.store(prompt)
            if prompt % 16 == 15:
                self.written_back()  # else L1 evicts objects before they are written
        self.written_back()
        self.clear()

    def broken(self) -> list[str]:
        """Files that are wrong or missing."""
        files = list(self.directory.objects())
        missing = traffic.PROMPTS * traffic.CHUNKS - len(files)
        return [f"{missing} files are missing"] * bool(missing) + [
            stored.path.name for stored in files if not self.directory.is_whole(stored)
        ]

    def fill(self) -> None:
        """Every prompt is in L2 whole, and L1 is empty."""
        self.store_all()
        broken = self.broken()
        assert not broken, f"after storing every prompt: {broken[:5]}"

    def heal(self) -> None:
        """The same where files have been damaged, in the largest number of rounds needed.

        A flipped bit is found when the object is loaded, and that takes all the chunks before it.
        """
        for _ in range(traffic.CHUNKS + 1):
            self.store_all()
            for prompt in range(traffic.PROMPTS):
                self.client.read(prompt)
        self.fill()

    def forget(self, prompt: int) -> None:
        """Remove a prompt from L2, and everything from L1."""
        for stored in self.directory.objects():
            if stored.prompt == prompt:
                stored.path.unlink()
        self.clear()

    def crowd(self) -> Crowd:
        self.seed += 1
        return Crowd(self.server.url, self.seed)

    def take(self, crowd: Crowd, what: str) -> None:
        """Add the findings of a crowd to the report."""
        self.report.problems += [f"{what}: {problem}" for problem in crowd.problems]
        self.counts += crowd.counts
        for operation, took in crowd.slowest.items():
            self.slowest[operation] = max(self.slowest.get(operation, 0.0), took)

    def finish(self) -> None:
        counts = self.counts + self.client.counts
        self.report.require(counts.chunks_verified > 0, "nothing was read")
        self.report.counters |= {name: value for name, value in vars(counts).items() if name != "slowest_ms"}
        slowest = sorted(self.slowest.items(), key=lambda item: -item[1])[:3]
        self.report.counters["slowest requests (s)"] = ", ".join(f"{name} {took:.2f}" for name, took in slowest)
        self.client.close()
        self.server.assert_healthy()


# -- the storage fails as a whole ----------------------------------------------------
def outage(rig: Rig, fault: Fault, seconds: float) -> None:
    """One fault, until the server has recovered from it."""
    old, new = rig.rng.sample(range(traffic.PROMPTS), 2)
    rig.fill()
    rig.forget(new)
    assert not rig.reasons(), f"{fault.name}: before it, /readyz lists {rig.reasons()}"
    with fault.during():
        found = rig.client.read(old)
        expected = 0 if fault.reads or fault.misses else traffic.CHUNKS
        assert found == expected, f"{fault.name}: a lookup found {found} chunks, expected {expected}"
        eventually(lambda: rig.shows("reads") == fault.reads, f"{fault.name}: reads on /readyz: {fault.reads}", SHOWN_S)
        rig.client.store(new)
        if fault.writes:
            rig.written_back()
            eventually(lambda: rig.shows("writes"), f"{fault.name}: writes on /readyz", SHOWN_S)
        with rig.crowd() as crowd:
            until = time.monotonic() + seconds
            while time.monotonic() < until and not crowd.problems:
                hidden = [direction for direction in fault.directions() if not rig.shows(direction)]
                assert not (fault.throughout and hidden), f"{fault.name}: meanwhile /readyz did not show {hidden}"
                crowd.go_on(0.1)
    rig.take(crowd, f"during {fault.name}")
    ended = time.monotonic()
    if not fault.reads:
        rig.ready_again(fault.name, ended)  # without any store in between
    with rig.crowd() as crowd:
        rig.ready_again(fault.name, ended)
        crowd.go_on(seconds / 2)
    rig.take(crowd, f"after {fault.name}")
    rig.settle(f"after {fault.name}")
    rig.forget(new)
    rig.client.store(new)
    rig.written_back()
    rig.clear()
    loaded = rig.server.metric(LOADED)
    found = rig.client.read(new)
    assert found == traffic.CHUNKS, f"after {fault.name}: {found} chunks of a prompt stored since then"
    assert rig.server.metric(LOADED) == loaded + traffic.CHUNKS, f"after {fault.name}: expected the chunks from L2"


def outages(rig: Rig, disk: Path | None) -> Iterator[Fault]:
    path = rig.directory.path
    yield Fault("directory replaced", lambda: l2_damage.directory_replaced(path), reads=True, writes=True)
    if rig.server.user is not None or os.geteuid() != 0:
        yield Fault("no permission", lambda: l2_damage.permission(path, 0o000), reads=True, writes=True)
        yield Fault("read-only", lambda: l2_damage.permission(path, 0o555), reads=False, writes=True)
        yield Fault("files unreadable", lambda: l2_damage.files_unreadable(path), reads=False, writes=False, misses=True)
    if disk is not None:
        # The oldest objects make room for new ones.
        yield Fault("disk full", lambda: l2_damage.disk_full(disk), reads=False, writes=False)
    else:
        rig.report.counters["disk full"] = "left out: needs the right to mount a tmpfs"
    if l2_damage.may_stop_threads():
        yield Fault("I/O hangs", lambda: l2_damage.threads_stopped(rig.server.pid), reads=True, writes=False)
    else:
        rig.report.counters["I/O hangs"] = "left out: needs the right to stop threads (ptrace)"


# -- files are damaged ------------------------------------------------------------------
def damage_files(rig: Rig, damage: l2_damage.Damage) -> None:
    """Exactly the damaged objects are misses, and storing them again repairs them."""
    rig.fill()
    victims = damage.spread(rig.directory, rig.rng, 0.2)
    for prompt in range(traffic.PROMPTS):
        damaged = [stored.chunk for stored in victims if stored.prompt == prompt]
        found, expected = rig.client.read(prompt), min(damaged, default=traffic.CHUNKS)
        assert found == expected, f"{damage.name}, prompt {prompt}, chunks {damaged}: {found} found, not {expected}"
    assert not rig.reasons(), f"{damage.name}: a miss is no failure, /readyz lists {rig.reasons()}"
    rig.report.counters[damage.name] = len(victims)
    rig.fill()
    for prompt in range(traffic.PROMPTS):
        found = rig.client.read(prompt)
        assert found == traffic.CHUNKS, f"{damage.name}, then stored again: {found} chunks of prompt {prompt}"


def damage_under_traffic(rig: Rig, seconds: float) -> None:
    with rig.crowd() as crowd:
        done = l2_damage.keep_spreading(rig.directory, rig.rng, time.monotonic() + seconds)
    rig.take(crowd, "files damaged under traffic")
    rig.report.counters["files damaged under traffic"] = done
    rig.report.require(done > 0, "no file was damaged under traffic")
    rig.settle("after files were damaged under traffic")
    rig.heal()


# -- the parts -----------------------------------------------------------------------------
@contextmanager
def rig_over(folder: Path, adapter: dict, report: Report, seed: int) -> Iterator[Rig]:
    """A server over ``folder/l2``, not as root where possible."""
    user = l2_damage.NOBODY if os.geteuid() == 0 else None
    path = folder / "l2"
    path.mkdir()
    folder.chmod(0o755)
    if user is not None:
        for each in (folder, path):
            os.chown(each, user, user)
    text = json.dumps(adapter).replace("{directory}", str(path))
    server = ServerProcess(
        chunk_size=traffic.CHUNK_TOKENS,
        l1_gib=L1_GIB,
        flags=("--l2-adapter", text),
        user=user,
        expected_log=("WARN .*(L2|checksum)",),
    )
    with server:
        rig = Rig(server, path, seed, report)
        try:
            yield rig
            rig.finish()
        except (AssertionError, wire.CheckError, OSError) as error:
            log = "\n".join(server.log().splitlines()[-20:])
            report.problems.append(f"{type(error).__name__}: {error}\nthe server's log ends:\n{log}")


def storage_fails(seconds: float, seed: int) -> Report:
    """``seconds`` of traffic in each outage; everything together takes about 15 times as long."""
    report = Report("L2 storage fails and comes back, files are damaged")
    with tempfile.TemporaryDirectory(prefix="larder-torture-l2-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        disk = folder / "disk"
        disk.mkdir()
        adapter = {"type": "fs", "base_path": "{directory}", "checksum": True}
        with l2_damage.small_disk(disk, DISK_MIB) as mounted, rig_over(disk, adapter, report, seed) as rig:
            for fault in outages(rig, disk if mounted else None):
                outage(rig, fault, seconds)
            for damage in (l2_damage.CUT, l2_damage.FLIPPED, l2_damage.REMOVED):
                damage_files(rig, damage)
            damage_under_traffic(rig, 2 * seconds)
            rig.report.require(rig.server.metric(STORE_FAILURES) > 0, "no store failed: the faults prove nothing")
    return report


def operations_fail(seconds: float, seed: int) -> Report:
    report = Report("L2 operations fail, hang and corrupt data")
    inner = {"type": "fs", "base_path": "{directory}", "checksum": True}
    adapter = {
        "type": "fault_inject", "inner": inner, "seed": seed, "rate": 0.01, "error_rate": 0.05, "hang_rate": 0.0005,
        "hang_seconds": 3, "short_read_rate": 0.02, "bit_flip_rate": 0.05, "torn_write_rate": 0.05,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="larder-torture-l2-") as name:
        with rig_over(Path(name), adapter, report, seed) as rig:
            with rig.crowd() as crowd:
                crowd.go_on(seconds)
            rig.take(crowd, "operations fail")
            rig.settle("after operations failed")
            _check_files(rig)
    return report


def _check_files(rig: Rig) -> None:
    """The faults have happened, and every file is short or whole, never wrong."""
    size = rig.directory.geometry.object_bytes
    full = [stored for stored in rig.directory.objects() if stored.path.stat().st_size == size]
    wrong = [stored.path.name for stored in full if not rig.directory.is_whole(stored)]
    assert not wrong, f"files that are not what was stored: {wrong[:5]}"
    caught = len(rig.server.log_lines(" WARN ", "checksum"))
    rig.report.counters |= {
        "loads that failed": int(rig.server.metric(LOAD_FAILURES)),
        "loads with flipped bits that were caught": caught,
        "chunks loaded": int(rig.server.metric(LOADED)),
        "files": len(full),
    }
    rig.report.require(caught > 0, "no flipped bit was caught: the faults prove nothing")

