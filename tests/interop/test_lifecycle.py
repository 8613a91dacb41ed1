"""Registration, unregistration, clear, and a full pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.process import ServerProcess
from support.stock import (
    ANSWER_S,
    Shape,
    Worker,
    as_bytes,
    fresh_instance,
    fresh_model,
    fresh_request,
    prompt,
    stock_client,
)


# -- registration -------------------------------------------------------------
def test_registering_again_changes_nothing(worker: Worker, client: Any, tokens: list[int]) -> None:
    first = client.register_kv_cache_engine_driven_context(worker.registration()).result(ANSWER_S)
    again = client.register_kv_cache_engine_driven_context(worker.registration(hidden_dim_size=999)).result(ANSWER_S)
    assert (again.shm_name, again.pool_size) == (first.shm_name, first.pool_size)
    assert worker.store(tokens) == [0, 1, 2, 3], "expected slots of the first registration's shape"
    assert worker.hit(tokens) == 4


def test_pool_has_the_configured_size(server: ServerProcess, client: Any, worker: Worker) -> None:
    answer = client.register_kv_cache_engine_driven_context(worker.registration()).result(ANSWER_S)
    assert answer.shm_name == server.pool_path.name
    assert answer.pool_size == int(server.l1_gib * 2**30)


def test_data_stays_after_the_last_unregistration(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    worker.unregister()
    assert worker.lookup(tokens, fresh_request()) == 0, "lookup of an unregistered model: expected no hit"
    again = Worker(client, worker.model).register()
    request = fresh_request()
    assert again.lookup(tokens, request) == 4
    assert again.retrieve(tokens, request) == 4
    again.close()


def test_unregistering_an_unknown_instance_succeeds(client: Any) -> None:
    assert client.unregister_kv_cache_engine_driven_context(fresh_instance()).result(ANSWER_S) is None


@pytest.mark.ours
def test_open_store_is_discarded_with_its_worker(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.prepare(tokens, fresh_request())
    worker.unregister()
    again = Worker(client, worker.model).register()
    assert again.hit(tokens) == 0, "an abandoned store: expected it never to become readable"
    assert again.store(tokens) == [0, 1, 2, 3], "expected the next worker to be able to write it"
    assert again.hit(tokens) == 4
    again.close()


@pytest.mark.ours
@pytest.mark.parametrize("change", [{"dtype_str": "float7"}, {"num_physical_slots": 0}, {"num_layers": -1}], ids=str)
def test_impossible_registration_is_harmless(
    server: ServerProcess, worker: Worker, tokens: list[int], change: dict[str, Any]
) -> None:
    """No answer would help this engine, so none is required; other clients must still be served."""
    other = stock_client(server.url)
    future = other.register_kv_cache_engine_driven_context(
        worker.registration(instance_id=fresh_instance(), **change)
    )
    assert worker.store(tokens) == [0, 1, 2, 3]
    assert worker.hit(tokens) == 4
    del future
    other.close()


# -- clearing -----------------------------------------------------------------
def test_clear_removes_unpinned_objects(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    client.clear().result(ANSWER_S)
    assert worker.hit(tokens) == 0


def test_clear_keeps_leased_and_staged_objects(
    worker: Worker, client: Any, tokens: list[int], other_tokens: list[int]
) -> None:
    worker.store(tokens)
    reading, writing = fresh_request(), fresh_request()
    assert worker.lookup(tokens, reading) == 4
    worker.prepare(other_tokens, writing)
    client.clear(False).result(ANSWER_S)
    assert worker.retrieve(tokens, reading) == 4
    assert worker.commit(other_tokens, writing) is True
    assert worker.hit(other_tokens) == 4


def test_forced_clear_removes_everything(
    worker: Worker, client: Any, tokens: list[int], other_tokens: list[int]
) -> None:
    worker.store(tokens)
    assert worker.lookup(tokens, fresh_request()) == 4
    writing = fresh_request()
    worker.prepare(other_tokens, writing)
    client.clear(True).result(ANSWER_S)
    assert worker.hit(tokens) == 0, "a leased chunk after a forced clear: expected it gone"
    assert worker.commit(other_tokens, writing) is True, "a commit after a forced clear: expected true"
    assert worker.hit(other_tokens) == 0, "and nothing published"


@pytest.mark.ours
def test_forced_clear_does_not_reuse_memory_being_read(
    client: Any, worker: Worker, tokens: list[int]
) -> None:
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    key = worker.key(tokens, request)
    views = worker.context.prepare_retrieve(key, worker.instance)
    assert views is not None
    client.clear(True).result(ANSWER_S)
    for seed in range(20):
        worker.store(prompt(500_000 + seed))
    for chunk, view in enumerate(views):
        expected = as_bytes(worker.expected(tokens, chunk))
        assert as_bytes(view) == expected, f"chunk {chunk} was overwritten while a worker was reading it"
    assert worker.context.commit_retrieve(key, worker.instance) is True


# -- a full pool --------------------------------------------------------------
BIG = Shape("float16", layers=2, hidden=512 * 1024)  # 32 MiB a chunk
SMALL_POOL = dict(l1_gib=0.125)  # four of them


@pytest.mark.ours
def test_full_pool_evicts_at_once(start: Callable[..., ServerProcess]) -> None:
    client = stock_client(start(**SMALL_POOL).url)
    worker = Worker(client, fresh_model(), BIG).register()
    old, new = prompt(1), prompt(2)
    assert worker.store(old, end=48) == [0, 1, 2]
    assert worker.store(new, end=32) == [0, 1], "a full pool: expected eviction on demand"
    assert worker.hit(new) == 2
    client.close()


@pytest.mark.ours
def test_oversized_store_keeps_the_leading_chunks(start: Callable[..., ServerProcess]) -> None:
    client = stock_client(start(**SMALL_POOL).url)
    worker = Worker(client, fresh_model(), BIG).register()
    long = prompt(3, 16 * 6)
    assert worker.store(long) == [0, 1, 2, 3], "six chunks into space for four: expected the leading four"
    request = fresh_request()
    assert worker.lookup(long, request) == 4
    assert worker.retrieve(long, request, end=64) == 4
    client.close()


@pytest.mark.ours
def test_leased_objects_are_not_evicted(start: Callable[..., ServerProcess]) -> None:
    server = start(**SMALL_POOL)
    client, other_client = stock_client(server.url), stock_client(server.url)
    worker = Worker(client, fresh_model(), BIG).register()
    other = Worker(other_client, fresh_model(), BIG).register()
    held, new = prompt(4), prompt(5)
    worker.store(held, end=48)
    request = fresh_request()
    assert worker.lookup(held, request, end=48) == 3
    assert other.store(new, end=64) == [0], "three of four chunks are leased: expected one to fit"
    assert worker.retrieve(held, request, end=48) == 3
    assert other.store(new, end=64) == [1, 2, 3], "after the read: expected the rest to fit"
    client.close()
    other_client.close()


@pytest.mark.ours
def test_least_recently_used_is_evicted_first(start: Callable[..., ServerProcess]) -> None:
    client = stock_client(start(**SMALL_POOL).url)
    worker = Worker(client, fresh_model(), BIG).register()
    first, second, third = prompt(6), prompt(7), prompt(8)
    worker.store(first, end=32)
    worker.store(second, end=32)
    request = fresh_request()
    worker.lookup(first, request, end=32)
    worker.retrieve(first, request, end=32)
    worker.end(request)
    assert worker.store(third, end=32) == [0, 1]
    assert worker.hit(first) == 2, "recently read: expected it to stay"
    assert worker.hit(second) == 0, "least recently used: expected it to go"
    client.close()
