"""Reports to a stock coordinator: registration, heartbeats, sizes, and the location of each object."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import stock
from support.process import ServerProcess, eventually, free_port, unique_name
from support.stock import Worker, fresh_model, fresh_request, prompt

# It imports half of LMCache first.
COORDINATOR_STARTUP_S = 240.0
REPORTED_WITHIN_S = 20.0
_PR_SET_PDEATHSIG = 1

pytestmark = pytest.mark.ours


class Coordinator:
    """``lmcache coordinator`` on a free port."""

    def __init__(self) -> None:
        self.port = free_port()
        handle, self._log_path = tempfile.mkstemp(prefix="coordinator-", suffix=".log")
        os.close(handle)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *flags: str) -> Coordinator:
        program = [str(Path(sys.executable).parent / "lmcache"), "coordinator", "--host", "127.0.0.1"]
        environment = dict(os.environ, LMCACHE_TRACK_USAGE="false", LMCACHE_DISABLE_BANNER="1")
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*program, "--port", str(self.port), "--chunk-size", "16", *flags], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env=environment,
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )  # fmt: skip
        eventually(self._answers, "a coordinator that answers", COORDINATOR_STARTUP_S, 0.2)
        return self

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, Path(self._log_path).read_text()
        try:
            return self.get("/healthz") is not None
        except OSError:
            return False

    def stop(self) -> None:
        """SIGKILL: the coordinator saves nothing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.stop()
        Path(self._log_path).unlink(missing_ok=True)

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def instances(self) -> list[str]:
        return [instance["instance_id"] for instance in self.get("/instances")["instances"]]

    def directory(self, worker: Worker, tokens: list[int]) -> list[dict[str, Any]]:
        asked = {"token_ids": tokens, "model_name": worker.model, "world_size": 1}
        return self.get("/directory/lookup", asked)["results"]

    def places(self, worker: Worker, tokens: list[int]) -> list[set[str]]:
        """The tiers and backends of each chunk."""
        return [{f"{p['tier']} {p['backend']}" for p in r["placements"]} for r in self.directory(worker, tokens)]


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    running = Coordinator()
    try:
        yield running.start()
    finally:
        running.close()


def flags(coordinator: Coordinator, instance: str, *more: str) -> tuple[str, ...]:
    return (
        "--instance-id", instance, "--coordinator-url", coordinator.url, "--coordinator-event-reporting",
        "--log-level", "info", "--coordinator-heartbeat-interval", "0.2", "--coordinator-event-flush-interval", "0.05", *more,
    )  # fmt: skip


def reported(condition: Callable[[], Any], expected: str) -> Any:
    return eventually(condition, expected, REPORTED_WITHIN_S)


def test_server_is_registered_while_it_runs(coordinator: Coordinator, start: Callable[..., ServerProcess]) -> None:
    name = unique_name("node")
    server = start(flags=flags(coordinator, name))
    reported(lambda: name in coordinator.instances(), "the server registered")
    known = next(i for i in coordinator.get("/instances")["instances"] if i["instance_id"] == name)
    assert (known["ip"], known["http_port"]) == ("127.0.0.1", server.http_port)
    assert server.metric("lmcache_mp_coordinator_registered") == 1
    assert server.terminate() == 0
    assert name not in coordinator.instances(), "after its shutdown: expected the server to be gone"


def test_directory_lists_the_location_of_each_object(
    coordinator: Coordinator, start: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    name = unique_name("node")
    adapter = json.dumps({"type": "fs", "base_path": str(tmp_path)})
    server = start(flags=flags(coordinator, name, "--l2-adapter", adapter))
    client = stock.stock_client(server.url)
    worker, tokens = Worker(client, fresh_model()).register(), prompt(501)
    worker.store(tokens)
    both = {"l1 dram", "l2 fs"}
    reported(lambda: coordinator.places(worker, tokens) == [both] * 4, "all chunks in both tiers")
    sizes = coordinator.get(f"/instances/{name}/usage")
    used = {(m["tier"], m["backend"]): (m["used_bytes"], m["capacity_bytes"]) for m in sizes["modules"]}
    object_bytes = worker.shape.layers * worker.shape.slots * worker.shape.hidden * 2
    assert used == {("l1", "dram"): (4 * object_bytes, int(server.l1_gib * 2**30)), ("l2", "fs"): (4 * object_bytes, 0)}

    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    worker.end(request)
    reported(lambda: all(r["access_count"] == 1 for r in coordinator.directory(worker, tokens)), "an access of each")

    client.clear(False).result(10)
    reported(lambda: coordinator.places(worker, tokens) == [{"l2 fs"}] * 4, "the chunks gone from memory")
    keys = [r["key"] for r in coordinator.directory(worker, tokens)[2:]]
    answer = server.http("/cache/objects", "DELETE", json.dumps({"keys": keys, "tier": "l2"}).encode())
    assert json.loads(answer.body)["deleted"] == 2
    reported(lambda: coordinator.places(worker, tokens) == [{"l2 fs"}] * 2 + [set()] * 2, "two deleted from L2")
    assert server.metric("lmcache_mp_coordinator_lost_events_total") == 0
    server.terminate()
    # L1 is gone with the server; the files of L2 remain.
    assert coordinator.places(worker, tokens)[:2] == [{"l2 fs"}] * 2
    client.close()


@pytest.mark.expect_log("WARN .*coordinator")
def test_coordinator_may_start_late_and_stop(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    coordinator, name = Coordinator(), unique_name("node")
    adapter = json.dumps({"type": "fs", "base_path": str(tmp_path / "l2")})
    server = start(flags=flags(coordinator, name, "--l2-adapter", adapter))
    client = stock.stock_client(server.url)
    worker, tokens = Worker(client, fresh_model()).register(), prompt(502)
    worker.store(tokens)
    both, checkpoint, copy = {"l1 dram", "l2 fs"}, tmp_path / "checkpoint", tmp_path / "copy"
    kept = ("--checkpoint-path", str(checkpoint), "--checkpoint-interval", "0.2")
    reported(lambda: server.metric("lmcache_mp_coordinator_failures_total") >= 3, "several attempts")
    assert worker.hit(tokens) == 4, "without a coordinator: expected the server to keep serving"
    try:
        coordinator.start(*kept)
        reported(lambda: coordinator.places(worker, tokens) == [both] * 4, "the pending reports")
        written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        reported(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > written, "a checkpoint with all that")
        copy.write_bytes(checkpoint.read_bytes())
        keys = [r["key"] for r in coordinator.directory(worker, tokens)[3:]]
        server.http("/cache/objects", "DELETE", json.dumps({"keys": keys, "tier": "l1"}).encode())
        gone_from_l1 = [both] * 3 + [{"l2 fs"}]
        reported(lambda: coordinator.places(worker, tokens) == gone_from_l1, "the removal of the last chunk from L1")
        coordinator.stop()
        failures = server.metric("lmcache_mp_coordinator_failures_total")
        reported(lambda: server.metric("lmcache_mp_coordinator_failures_total") > failures, "a failed call")
        later = prompt(503)
        worker.store(later)
        # It restores the state from before the last chunk was evicted.
        checkpoint.write_bytes(copy.read_bytes())
        coordinator.start(*kept)
        reported(lambda: name in coordinator.instances(), "the server registered again")
        reported(lambda: coordinator.places(worker, later) == [both] * 4, "the chunks stored during the outage")
        reported(lambda: coordinator.places(worker, tokens) == gone_from_l1, "the actual locations")
        coordinator.stop()
        checkpoint.unlink()
        coordinator.start()
        reported(lambda: coordinator.places(worker, tokens) == gone_from_l1, "a full resync")
        reported(lambda: coordinator.places(worker, later) == [both] * 4, "a full resync")
        sizes = coordinator.get(f"/instances/{name}/usage")
        assert sizes["declared_capacity"], "after a restart: expected the capacities again"
        warnings = server.log_lines(" WARN ", "coordinator")
        assert len(warnings) == 3, f"one warning for each outage, not {warnings}"
    finally:
        coordinator.close()
        client.close()


@pytest.mark.expect_log("WARN .*coordinator")
def test_server_stops_in_time_without_its_coordinator(start: Callable[..., ServerProcess]) -> None:
    server = start(flags=flags(Coordinator(), unique_name("node")))
    assert server.terminate(timeout_s=10.0) == 0
