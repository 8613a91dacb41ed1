"""Fixtures: servers that are stopped after the test, connections to them, and prompts of one test only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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


def _patterns(nodes: list[pytest.Item]) -> tuple[str, ...]:
    """The patterns of the markers `expect_log` of these tests and their modules."""
    return tuple(pattern for node in nodes for marker in node.iter_markers("expect_log") for pattern in marker.args)


def _patterns_of_module(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return _patterns([item for item in request.session.items if item.path == request.node.path])


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One server with a shared-memory pool per test module."""
    with ServerProcess(expected_log=_patterns_of_module(request)) as running:
        yield running
        running.assert_healthy()


@pytest.fixture(scope="module")
def pickle_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One server without a pool per test module: bytes go through the socket."""
    with ServerProcess(shm_name="", expected_log=_patterns_of_module(request)) as running:
        yield running
        running.assert_healthy()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., ServerProcess]]:
    """Start further servers; all of them are stopped after the test."""
    expected = _patterns([request.node])
    with ExitStack() as servers:

        def make(**settings: Any) -> ServerProcess:
            server = ServerProcess(expected_log=expected, **settings)
            servers.callback(server.close)
            return server.start()

        yield make


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
    """A registered stock worker with its own model."""
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
