"""The hook alone: which commands it replaces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from larder_kv import autostart, binary

STOCK = ["/venv/bin/python", "-m", "lmcache.v1.multiprocess.http_server", "--host", "localhost", "--port", "5555"]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Records the calls of `exec`."""
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.setattr(binary, "find_binary", lambda: "/venv/bin/larder")
    yield calls


def start(monkeypatch: pytest.MonkeyPatch, command: list[str], **variables: str) -> None:
    monkeypatch.setattr(sys, "orig_argv", command)
    for name in ("LARDER_AUTOSTART", "LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    autostart.take_over()


@pytest.mark.parametrize("yes", ["1", "true", "YES", " on "])
def test_server_command_is_replaced(monkeypatch: pytest.MonkeyPatch, executed: list[Any], yes: str) -> None:
    start(monkeypatch, STOCK, LARDER_AUTOSTART=yes)
    [(path, command, environment)] = executed
    assert path == "/venv/bin/larder"
    assert command == [path, "server", "--host", "localhost", "--port", "5555"]
    assert environment["LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS"] == "60"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("no", ["", "0", "false", "off", "no", "perhaps"])
def test_nothing_happens_unless_enabled(monkeypatch: pytest.MonkeyPatch, executed: list[Any], no: str) -> None:
    start(monkeypatch, STOCK, LARDER_AUTOSTART=no)
    start(monkeypatch, STOCK)
    assert executed == []


@pytest.mark.parametrize(
    "command",
    [
        ["python"],
        ["python", "-c", "import lmcache.v1.multiprocess.http_server"],
        ["python", "-m", "lmcache.v1.multiprocess.server", "--port", "5555"],
        ["python", "-m", "lmcache.v1.multiprocess.http_server_too"],
        ["python", "-u", "-m", "lmcache.v1.multiprocess.http_server"],
        ["python", "script.py", "-m", "lmcache.v1.multiprocess.http_server"],
        ["python", "-m"],
    ],
)
def test_other_commands_are_unchanged(monkeypatch: pytest.MonkeyPatch, executed: list[Any], command: list[str]) -> None:
    start(monkeypatch, command, LARDER_AUTOSTART="1")
    assert executed == []


def test_explicit_idle_timeout_is_kept(monkeypatch: pytest.MonkeyPatch, executed: list[Any]) -> None:
    start(monkeypatch, STOCK, LARDER_AUTOSTART="1", LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS="5")
    [(_, _, environment)] = executed
    assert environment["LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS"] == "5"


def test_missing_binary_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "DISTRIBUTION", "larder-kv-absent")
    with pytest.raises(SystemExit) as ended:
        start(monkeypatch, STOCK, LARDER_AUTOSTART="1")
    assert ended.value.code == (
        "larder: LARDER_AUTOSTART is set, and the server cannot be started: "
        "the binary is missing: install larder-kv-absent from its wheel"
    )
