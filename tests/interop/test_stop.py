"""A server with stuck work stops in time, logs one line about it, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support import stock
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_model, prompt

pytestmark = [pytest.mark.ours, pytest.mark.expect_log("WARN .*4 objects", "WARN .*second signal")]


@pytest.fixture
def stuck(start: Callable[..., ServerProcess], tmp_path: Path) -> Callable[[str], ServerProcess]:
    """A server with this shutdown timeout, four chunks of which are on their way to an L2 that never answers."""

    def make(timeout_s: str) -> ServerProcess:
        files = {"type": "fs", "base_path": str(tmp_path)}
        hangs = {"type": "fault_inject", "inner": files, "hang_rate": 1, "hang_seconds": 3600}
        flags = ("--l2-adapter", json.dumps(hangs), "--shutdown-timeout", timeout_s, "--log-level", "info")
        server = start(flags=flags)
        client = stock.stock_client(server.url)
        Worker(client, fresh_model()).register().store(prompt(601))
        assert server.metric("lmcache_mp_l2_store_pending_objects") == 4
        client.close()
        return server

    return make


def test_stuck_work_is_counted_in_one_line_at_exit(stuck: Callable[[str], ServerProcess]) -> None:
    server = stuck("1")
    assert server.terminate() == 0
    [line] = server.log_lines(" WARN ")
    assert "4 objects" in line and "L2" in line, line
    assert not server.pool_path.exists(), "after the end: expected the shared memory to be gone"


def test_second_signal_exits_at_once(stuck: Callable[[str], ServerProcess]) -> None:
    server = stuck("3600")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in server.log(), "the server to begin to stop")
    assert server.terminate() == 1, "a cut-short end has a status of its own"
