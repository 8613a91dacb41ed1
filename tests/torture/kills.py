"""Clients killed at random moments of their stores and retrieves, while others verify."""

from __future__ import annotations

import multiprocessing
import random
import time
from typing import Any

import traffic
from report import Report
from support.process import ServerProcess

# What killed clients held must be free within this time of the last kill.
TTL_S = 5
RECOVERY_S = 60.0
FLAGS = (
    f"--session-ttl-seconds={TTL_S}", f"--l1-read-ttl-seconds={TTL_S}", f"--l1-write-ttl-seconds={TTL_S}",
    "--worker-reap-timeout-seconds=30", "--worker-registration-grace-seconds=30",
)  # fmt: skip

# Gauges that must be back to zero once every client is gone.
HELD = (
    "lmcache_mp_lookup_leases", "lmcache_mp_peer_leases", "lmcache_mp_active_stores", "lmcache_mp_active_retrieves",
    "lmcache_mp_sessions", "lmcache_mp_workers", "lmcache_mp_connections", "lmcache_mp_quarantined_objects",
    "lmcache_mp_l1_staging_bytes", "lmcache_mp_l1_unlinked_objects",
)  # fmt: skip

VERIFIERS = 3
FDS_SLACK = 2


class Killing:
    """Starts clients and kills them, one after the other."""

    def __init__(self, url: str, seed: int) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["traffic"])
        self.url = url
        self.rng = random.Random(seed)
        self.problems: list[str] = []
        self.killed = 0

    def kill_one(self) -> None:
        ready = self.context.Semaphore(0)
        victim = self.context.Process(target=traffic.victim, args=(self.url, self.rng.getrandbits(30), ready))
        victim.start()
        if not ready.acquire(timeout=20):
            self.problems.append("a client could not register within 20 s")
        time.sleep(self.rng.random() * 0.05)
        victim.kill()
        victim.join()
        if victim.exitcode == 3:
            self.problems.append("a client about to be killed read wrong bytes")
        elif victim.exitcode == 4:
            self.problems.append("a client about to be killed got a wrong answer")
        self.killed += 1
        victim.close()


def run(kills: int, seed: int) -> Report:
    report = Report(f"clients killed ({kills})")
    with ServerProcess(chunk_size=traffic.CHUNK_TOKENS, l1_gib=traffic.POOL_GIB, flags=FLAGS) as server:
        fds_before = server.open_files()
        killing = Killing(server.url, seed)
        counts, problems = _under_watch(killing, kills)
        report.problems += sorted(set(killing.problems)) + problems
        report.counters |= {"clients killed": killing.killed, **vars(counts)}
        report.require(counts.chunks_verified > 0, "the verifiers verified nothing")
        _given_back(server, fds_before, report)
        server.assert_healthy()
    return report


def _under_watch(killing: Killing, kills: int) -> tuple[traffic.Counts, list[str]]:
    """Kill while verifiers run; their counts and what they found wrong."""
    context = killing.context
    stop, results = context.Event(), context.Queue()
    watchers = [
        context.Process(target=traffic.verifier, args=(killing.url, seed, stop, results)) for seed in range(VERIFIERS)
    ]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(kills):
            killing.kill_one()
        stop.set()
        found = [results.get(timeout=60) for _ in watchers]
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join(30)
            if watcher.is_alive():
                watcher.kill()
    counts = sum((c for c, _ in found), traffic.Counts())
    return counts, [f"verifier: {problem}" for _, problem in found if problem]


def _given_back(server: ServerProcess, fds_before: int, report: Report) -> None:
    """Wait until everything that killed clients held is free again, or report what is not."""
    began = time.monotonic()
    while True:
        held = _held(server)
        fds = server.open_files() - fds_before
        if not any(held.values()) and fds <= FDS_SLACK:
            break
        if time.monotonic() - began > RECOVERY_S:
            report.problems += [f"{name} is still {value:g}" for name, value in held.items() if value]
            report.require(fds <= FDS_SLACK, f"{fds} more files open than at the start")
            break
        time.sleep(0.25)
    report.counters |= {"all given back after (s)": round(time.monotonic() - began, 1), "files open, gained": fds}


def _held(server: ServerProcess) -> dict[str, float]:
    samples: dict[str, Any] = {}
    for name, value in server.metrics().items():
        base = name.split("{")[0]
        if base in HELD:
            samples[base] = samples.get(base, 0.0) + value
    missing = [name for name in HELD if name not in samples]
    assert not missing, f"/metrics lacks {missing}"
    return samples
