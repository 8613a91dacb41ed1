"""The stock client over gRPC: beside ZMQ on one port, and through a stop of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import stock
from support.process import ServerProcess
from support.stock import ANSWER_S, Worker, fresh_model, fresh_request, prompt

pytestmark = pytest.mark.ours


def grpc_client(server: ServerProcess) -> Any:
    return stock.stock_client(f"grpc://127.0.0.1:{server.port}")


@pytest.fixture
def over_grpc(server: ServerProcess) -> Iterator[Any]:
    opened = grpc_client(server)
    yield opened
    opened.close()


def test_what_one_protocol_stores_the_other_finds(client: Any, over_grpc: Any, tokens: list[int]) -> None:
    model = fresh_model()
    writer, reader = Worker(over_grpc, model).register(), Worker(client, model).register()
    assert writer.store(tokens) == [0, 1, 2, 3]
    for worker in (writer, reader):
        request = fresh_request()
        assert worker.lookup(tokens, request) == 4
        assert worker.retrieve(tokens, request) == 4
    writer.close()
    reader.close()


def test_bytes_travel_in_messages_without_shared_memory(pickle_server: ServerProcess, tokens: list[int]) -> None:
    opened = grpc_client(pickle_server)
    worker = Worker(opened, fresh_model()).register()
    assert not worker.uses_shared_memory
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    worker.close()
    opened.close()


def test_unix_socket_serves_both(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    path = tmp_path / "requests"
    start(flags=("--listen", f"ipc://{path}"))
    for scheme in ("ipc", "grpc+unix"):
        opened = stock.stock_client(f"{scheme}://{path}")
        assert opened.noop().result(ANSWER_S) == "OK"
        opened.close()


def test_a_stop_raises_into_no_client(start: Callable[..., ServerProcess]) -> None:
    server = start()
    opened = grpc_client(server)
    assert opened.query_prefetch_status("unknown").result(ANSWER_S) == 0
    before = [opened.query_prefetch_status("unknown") for _ in range(500)]
    assert server.terminate() == 0
    after = opened.query_prefetch_status("unknown")
    answers = [query.result(0) for query in before if query.query()]
    assert answers and set(answers) == {0}
    assert not after.query(), "what was asked after the end waits for the next server"


def test_a_lookup_that_is_waited_for_is_answered_at_a_stop(
    start: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    files = {"type": "fs", "base_path": str(tmp_path)}
    model, tokens = fresh_model(), prompt(901)
    first = start(flags=("--l2-adapter", json.dumps(files)))
    filler = grpc_client(first)
    Worker(filler, model).register().store(tokens)
    assert first.terminate() == 0
    hangs = {"type": "fault_inject", "inner": files, "hang_rate": 1, "hang_seconds": 3600}
    server = start(flags=("--l2-adapter", json.dumps(hangs), "--shutdown-timeout", "4"))
    opened = grpc_client(server)
    worker, request = Worker(opened, model).register(), fresh_request()
    opened.lookup(worker.key(tokens, request, worker_id=None), 1).result(ANSWER_S)
    waits = opened.wait_prefetch_status(request, 600.0)
    assert opened.query_prefetch_status(request).result(ANSWER_S) is None
    server.terminate()
    assert waits.result(ANSWER_S) == 0
