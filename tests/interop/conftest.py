"""Fixtures: servers that always go away, connections to them, prompts nobody else uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import stock
from support.process import REFERENCE, ServerProcess
from support.raw import RawConnection

_prompts = itertools.count(1000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REFERENCE:
        skip = pytest.mark.skip(reason="the reference does not do this")
        for item in items:
            if item.get_closest_marker("ours"):
                item.add_marker(skip)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One server with a shared-memory pool per test module."""
    with ServerProcess() as running:
        yield running
        running.assert_healthy()


@pytest.fixture(scope="module")
def pickle_server() -> Iterator[ServerProcess]:
    """One server without a pool per test module: bytes go through the socket."""
    with ServerProcess(shm_name="") as running:
        yield running
        running.assert_healthy()


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """Start further servers; all of them are gone after the test."""
    started: list[ServerProcess] = []

    def make(**settings: Any) -> ServerProcess:
        started.append(ServerProcess(**settings))
        return started[-1].start()

    yield make
    for running in started:
        running.close()


@pytest.fixture
def raw(server: ServerProcess) -> Iterator[RawConnection]:
    with server.connection() as connection:
        yield connection


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Any]:
    """The stock request client on the module's server."""
    opened = stock.stock_client(server.url)
    yield opened
    opened.close()


@pytest.fixture
def worker(client: Any) -> Iterator[stock.Worker]:
    """A registered stock worker of a model of its own."""
    registered = stock.Worker(client, stock.fresh_model()).register()
    yield registered
    registered.close()


@pytest.fixture
def tokens() -> list[int]:
    """Four chunks of tokens that no other test uses."""
    return stock.prompt(next(_prompts))


@pytest.fixture
def other_tokens() -> list[int]:
    return stock.prompt(next(_prompts))
