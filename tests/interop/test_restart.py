"""Restarts under live clients, and ownership of the shared-memory pool."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import ServerProcess, eventually, unique_name
from support.raw import key, registration
from support.stock import ANSWER_S, Shape, Worker, fresh_instance, fresh_model, fresh_request, prompt, stock_client

pytestmark = pytest.mark.ours

EMPTY_STORE = {"context": {"slots": [], "chunk_indices": []}}


# -- the pool ---------------------------------------------------------------------
def test_pool_is_private_and_removed_with_the_server(start: Callable[..., ServerProcess]) -> None:
    server = start()
    status = server.pool_path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == int(server.l1_gib * 2**30)
    assert server.terminate() in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert not server.pool_path.exists(), "after SIGTERM: expected the pool to be removed"


def test_sigterm_is_prompt_with_open_transfers(start: Callable[..., ServerProcess]) -> None:
    server = start()
    client = stock_client(server.url)
    worker = Worker(client, fresh_model()).register()
    worker.store(prompt(1))
    worker.lookup(prompt(1), fresh_request())
    worker.prepare(prompt(2), fresh_request())
    began = time.monotonic()
    server.terminate()
    assert time.monotonic() - began < 5, "SIGTERM with leases and reservations open: expected an end within 5 s"
    assert not server.pool_path.exists()
    client.close()


def test_pending_write_back_is_stored_before_exit(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    server = start(flags=("--l2-adapter", json.dumps({"type": "fs", "base_path": str(tmp_path)})))
    client = stock_client(server.url)
    worker = Worker(client, fresh_model(), shape=Shape(hidden=1024)).register()
    stored = worker.store(prompt(3, 512 * server.chunk_size))  # 32 MiB, much more than can be on the disk by now
    assert server.terminate() == 0
    assert len(list(tmp_path.glob("*.data"))) == len(stored) == 512
    client.close()


def test_an_empty_name_means_no_pool(start: Callable[..., ServerProcess]) -> None:
    before = set(os.listdir("/dev/shm"))
    start(shm_name="")
    new = [f for f in set(os.listdir("/dev/shm")) - before if f.startswith("lmcache_l1_pool")]
    assert not new, f"expected no pool file, found {new}"


def test_a_second_server_with_the_same_name_refuses(start: Callable[..., ServerProcess]) -> None:
    first = start()
    second = ServerProcess(shm_name=first.shm_name, expected_log=("ERROR",)).spawn()
    try:
        eventually(lambda: not second.alive(), "the second server to refuse to start")
        assert second.process.returncode not in (0, None)
        named = [line for line in second.log().splitlines() if first.shm_name in line]
        assert len(named) == 1, f"expected one line that names the pool, got:\n{second.log()}"
    finally:
        second.kill()  # `close` would remove the pool of the first
    assert first.pool_path.exists(), "the first server's pool must survive the attempt"
    first.assert_healthy()
    client = stock_client(first.url)
    worker = Worker(client, fresh_model()).register()
    assert worker.store(prompt(3)) == [0, 1, 2, 3]
    assert worker.hit(prompt(3)) == 4
    client.close()


def test_killed_server_does_not_block_a_restart(start: Callable[..., ServerProcess]) -> None:
    server = start()
    server.kill()
    again = start(shm_name=server.shm_name)
    client = stock_client(again.url)
    worker = Worker(client, fresh_model()).register()
    assert worker.hit(prompt(4)) == 0
    assert worker.store(prompt(4)) == [0, 1, 2, 3]
    assert worker.hit(prompt(4)) == 4
    client.close()


def test_a_stale_pool_of_another_size_is_reclaimed(start: Callable[..., ServerProcess]) -> None:
    name = unique_name()
    small = start(shm_name=name, l1_gib=0.125)
    small.kill()
    larger = start(shm_name=name, l1_gib=0.25)
    assert larger.pool_path.stat().st_size == 2**28


def test_a_busy_port_is_refused_in_one_line(start: Callable[..., ServerProcess]) -> None:
    first = start()
    second = ServerProcess(port=first.port, expected_log=("ERROR",)).spawn()
    try:
        eventually(lambda: not second.alive(), "a server on a busy port to end")
        assert second.process.returncode not in (0, None)
        assert str(first.port) in second.log(), f"expected the port to be named:\n{second.log()}"
        assert not second.pool_path.exists(), "a server that could not start must leave no pool"
    finally:
        second.close()


BAD_FLAGS = [
    ("--port", "70000"), ("--chunk-size", "0"), ("--l1-size-gb", "0"), ("--eviction-ratio", "-1"),
    ("--eviction-trigger-watermark", "7"), ("--hash-algorithm", "builtin"), ("--no-such-flag", "1"),
]  # fmt: skip


@pytest.mark.parametrize("flag, value", BAD_FLAGS, ids=[f[0] for f in BAD_FLAGS])
def test_a_wrong_flag_is_refused_at_once(flag: str, value: str) -> None:
    server = ServerProcess(flags=(f"{flag}={value}",), expected_log=("ERROR",)).spawn()
    try:
        eventually(lambda: not server.alive(), f"{flag} {value} to be refused", timeout_s=3)
        assert server.process.returncode == 2, f"expected exit status 2, got {server.process.returncode}"
        assert flag in server.log(), f"expected a line that names {flag}:\n{server.log()}"
        assert not server.pool_path.exists()
    finally:
        server.close()


# -- restarts ------------------------------------------------------------------------
def test_worker_registers_again_after_a_restart(start: Callable[..., ServerProcess]) -> None:
    server, tokens = start(), prompt(5)
    client = stock_client(server.url)
    worker = Worker(client, fresh_model()).register()
    worker.store(tokens)
    assert client.ping(worker.instance).result(ANSWER_S) is True
    server.restart()
    assert client.ping(worker.instance).result(ANSWER_S) is False, "the first ping after a restart: expected false"
    worker.register()
    assert client.ping(worker.instance).result(ANSWER_S) is True
    assert worker.hit(tokens) == 0, "memory is gone after a restart: expected no hit"
    assert worker.store(tokens) == [0, 1, 2, 3]
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    client.close()


def test_no_slots_for_a_worker_of_the_previous_process(start: Callable[..., ServerProcess]) -> None:
    """It still maps the old pool, so until it registers again it must get no slots."""
    server, tokens = start(), prompt(6)
    model, instance = fresh_model(), fresh_instance()
    with server.connection() as raw:
        raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
        server.restart()
        k = key(model, tokens, 0, 64, "r0")
        assert raw.call("prepare_store", k, instance, timeout_s=3) == EMPTY_STORE
        assert raw.call("commit_store", k, instance, b"", timeout_s=1) is False
        assert raw.call("prepare_retrieve", k, instance, timeout_s=1)["success"] is False


def test_a_restart_is_quick(start: Callable[..., ServerProcess]) -> None:
    server = start()
    server.kill()
    began = time.monotonic()
    server.start()
    assert time.monotonic() - began < 2, "from start to the first answered ping: expected well under 2 s"


def test_client_started_first_waits_for_the_server(start: Callable[..., ServerProcess]) -> None:
    server = start()
    server.kill()
    with server.connection() as early:
        uid = early.send("get_chunk_size")
        server.start()
        assert early.receive()[0] == uid
