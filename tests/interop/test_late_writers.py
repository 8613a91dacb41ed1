"""A worker's process that is frozen in the middle of its copies, while others fill L1, and goes on later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.frozen import CHUNK_BYTES, CHUNKS, Copier, content
from support.process import ServerProcess, eventually

pytestmark = [pytest.mark.ours, pytest.mark.expect_log("much of L1 waits for workers")]

L1_CHUNKS = 32
TTLS = ("--l1-write-ttl-seconds=1", "--l1-read-ttl-seconds=1")


@pytest.fixture
def server(start: Callable[..., ServerProcess]) -> ServerProcess:
    return start(l1_gib=L1_CHUNKS * CHUNK_BYTES / 2**30, flags=TTLS)


@pytest.fixture
def other(server: ServerProcess) -> Iterator[Copier]:
    """An engine that goes on."""
    worker = Copier(server.url, str(server.pool_path), "model", 8)
    yield worker
    worker.connection.close()


@pytest.fixture
def frozen(server: ServerProcess, other: Copier) -> Iterator[subprocess.Popen[str]]:
    """A worker that is stopped within a store of prompt 1 and a retrieve of prompt 2."""
    assert other.store(2, "before") == CHUNKS
    process = subprocess.Popen(
        [sys.executable, "-m", "support.frozen", server.url, str(server.pool_path), "model"],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().split() == [str(CHUNKS), str(CHUNKS)]
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _fill(other: Copier, prompts: range) -> None:
    for prompt in prompts:
        other.store(prompt, f"fill-{prompt}")


def _expire(server: ServerProcess) -> None:
    """Wait until the transfers of the frozen worker are past their TTLs."""
    eventually(lambda: server.metric("lmcache_mp_active_stores") == 0, "the store to expire")
    eventually(lambda: server.metric("lmcache_mp_active_retrieves") == 0, "the retrieve to expire")


def test_what_a_thawed_worker_writes_reaches_no_reader(
    server: ServerProcess, other: Copier, frozen: subprocess.Popen[str]
) -> None:
    _expire(server)
    _fill(other, range(100, 140))  # several times all of L1, so that each free slot is used
    assert server.metric("lmcache_mp_quarantined_objects") >= CHUNKS
    frozen.send_signal(signal.SIGCONT)
    print(file=frozen.stdin, flush=True)
    assert frozen.stdout.readline().split() == ["False", "False"], "commits after the TTL, with the objects gone"
    found = {prompt: other.read(prompt, f"read-{prompt}") for prompt in range(100, 140)}
    wrong = [p for p, chunks in found.items() if any(got != content(p, i) for i, got in enumerate(chunks))]
    assert not wrong, f"prompts {wrong}: expected the bytes that were stored"
    assert sum(map(len, found.values())) >= L1_CHUNKS // 2
    assert other.read(1, "read-1") == [], "the frozen worker's store was never committed"


def test_memory_of_a_frozen_worker_comes_back_when_it_ends(
    server: ServerProcess, other: Copier, frozen: subprocess.Popen[str]
) -> None:
    _expire(server)
    _fill(other, range(100, 110))
    assert server.metric("lmcache_mp_quarantined_objects") >= CHUNKS
    frozen.kill()
    eventually(lambda: server.metric("lmcache_mp_quarantined_objects") == 0, "all memory to be usable again", 20)
    _fill(other, range(200, 200 + L1_CHUNKS // CHUNKS))
    assert [len(other.read(p, f"r{p}")) for p in range(204, 208)] == [CHUNKS] * 4
