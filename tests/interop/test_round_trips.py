"""Bytes in, the same bytes out: stores, lookups and retrieves of the stock client."""

from __future__ import annotations

from typing import Any

import pytest
from support.process import ServerProcess
from support.stock import Shape, Worker, fresh_model, fresh_request, prompt, stock_client

SHAPES = [
    Shape("bfloat16"),
    Shape("float16", planes=2),
    Shape("float32", layers=3, hidden=24, planes=2),
    Shape("int8", layers=1, hidden=5),
    Shape("uint8", layers=2, hidden=132),
]


def names(shape: Shape) -> str:
    return f"{shape.dtype}-{'x'.join(map(str, shape.sizes))}"


@pytest.mark.parametrize("shape", SHAPES, ids=names)
def test_shared_memory_round_trip(client: Any, tokens: list[int], shape: Shape) -> None:
    worker = Worker(client, fresh_model(), shape).register()
    assert worker.uses_shared_memory, "registration: expected a shared-memory pool"
    assert worker.lookup(tokens, fresh_request()) == 0, "lookup before the store: expected no hit"
    assert worker.store(tokens) == [0, 1, 2, 3]
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    worker.end(request)
    worker.close()


@pytest.mark.parametrize("shape", SHAPES, ids=names)
def test_pickle_round_trip(pickle_server: ServerProcess, tokens: list[int], shape: Shape) -> None:
    client = stock_client(pickle_server.url)
    worker = Worker(client, fresh_model(), shape).register()
    assert not worker.uses_shared_memory, "registration: expected no pool with an empty --shm-name"
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4
    worker.end(request)
    client.close()


def test_pickle_store_keeps_valid_chunks(
    pickle_server: ServerProcess, tokens: list[int], other_tokens: list[int]
) -> None:
    client = stock_client(pickle_server.url)
    worker = Worker(client, fresh_model()).register()
    key = worker.key(tokens, fresh_request(), 0, 32)
    only_first = [worker.expected(tokens, 0)]
    assert worker.context.commit_store(key, worker.instance, only_first) is False, "a missing chunk: expected false"
    assert worker.hit(tokens) == 1, "the chunk that came is kept"
    key = worker.key(other_tokens, fresh_request(), 0, 32)
    misshapen = [worker.expected(other_tokens, 0), worker.expected(other_tokens, 1)[:, :8].clone()]
    assert worker.context.commit_store(key, worker.instance, misshapen) is False, "a misshapen chunk: expected false"
    assert worker.hit(other_tokens) == 1
    client.close()


@pytest.mark.ours
def test_invalid_pickle_is_refused_with_an_answer(pickle_server: ServerProcess, tokens: list[int]) -> None:
    client = stock_client(pickle_server.url)
    worker = Worker(client, fresh_model()).register()
    key = worker.key(tokens, fresh_request())
    assert client.commit_store(key, worker.instance, b"junk").result(5) is False
    assert client.commit_store(key, worker.instance, b"cos\nsystem\n(S'false'\ntR.").result(5) is False
    client.close()


def test_partial_chunks_are_never_stored(worker: Worker) -> None:
    ragged = prompt(1, 70)
    assert worker.store(ragged) == [0, 1, 2, 3]
    request = fresh_request()
    assert worker.lookup(ragged, request, end=70) == 4, "lookup: expected whole chunks only"
    worker.retrieve(ragged, request)


def test_only_missing_chunks_get_slots(worker: Worker, tokens: list[int]) -> None:
    assert worker.store(tokens, start=16, end=32) == [1]
    assert worker.store(tokens) == [0, 2, 3]
    assert worker.store(tokens) == []
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4


def test_a_gap_ends_the_hit(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens, end=16)
    worker.store(tokens, start=32)
    assert worker.hit(tokens) == 1


def test_the_end_of_the_key_limits_the_hit(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    assert worker.hit(tokens, end=48) == 3
    assert worker.hit(tokens, end=47) == 2
    assert worker.hit(tokens[:15], end=15) == 0


def test_the_tail_alone_can_be_retrieved(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request, start=32) == 2
    worker.release(tokens, request, end=32)
    worker.end(request)


def test_prompts_share_their_common_prefix(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    branch = tokens[:32] + [t + 1 for t in tokens[32:]]
    request = fresh_request()
    assert worker.lookup(branch, request) == 2, "lookup: expected the common prefix to hit"
    assert worker.retrieve(branch, request, end=32) == 2
    assert worker.store(branch) == [2, 3]


def test_salts_are_separate(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    tenant = Worker(client, worker.model, salt="tenant-a").register()
    assert tenant.hit(tokens) == 0
    assert tenant.store(tokens) == [0, 1, 2, 3]
    for reader in (worker, tenant):
        request = fresh_request()
        assert reader.lookup(tokens, request) == 4
        assert reader.retrieve(tokens, request) == 4
    tenant.close()


def test_models_are_separate(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    other = Worker(client, fresh_model()).register()
    assert other.hit(tokens) == 0
    other.close()


def test_uncommitted_stores_are_invisible(worker: Worker, tokens: list[int]) -> None:
    request = fresh_request()
    assert worker.prepare(tokens, request) == [0, 1, 2, 3]
    assert worker.hit(tokens) == 0, "lookup before the commit: expected no hit"
    assert worker.store(tokens) == [], "a second writer: expected nothing to write"
    assert worker.commit(tokens, request) is True
    assert worker.hit(tokens) == 4


def test_a_second_commit_has_nothing_to_publish(worker: Worker, tokens: list[int]) -> None:
    request = fresh_request()
    worker.prepare(tokens, request)
    assert worker.commit(tokens, request) is True
    assert worker.commit(tokens, request) is False
    assert worker.hit(tokens) == 4


def test_a_long_prompt(server: ServerProcess, client: Any) -> None:
    worker = Worker(client, fresh_model(), Shape(layers=1, hidden=2)).register()
    long = prompt(7, 32_768)
    assert len(worker.store(long)) == 2048
    request = fresh_request()
    assert worker.lookup(long, request) == 2048
    assert worker.retrieve(long, request) == 2048
    worker.end(request)
    worker.close()


@pytest.mark.ours
def test_reused_request_id_keeps_no_tokens(
    worker: Worker, tokens: list[int], other_tokens: list[int]
) -> None:
    request = fresh_request()
    assert worker.store(tokens, request) == [0, 1, 2, 3]
    assert worker.store(other_tokens, request) == [0, 1, 2, 3], (
        "other tokens under the same request id: expected new chunks"
    )
    for either in (tokens, other_tokens):
        reader = fresh_request()
        assert worker.lookup(either, reader) == 4
        assert worker.retrieve(either, reader) == 4
