"""Several ranks, several readers, and which request may read after which lookup."""

from __future__ import annotations

from typing import Any

import pytest
from support.process import ServerProcess
from support.stock import Worker, fresh_model, fresh_request


def assert_nothing_is_pinned(server: ServerProcess) -> None:
    assert server.metric("lmcache_mp_l1_held_objects") == 0


@pytest.fixture
def ranks(client: Any) -> list[Worker]:
    """Two tensor-parallel workers of one engine."""
    model = fresh_model()
    return [Worker(client, model, world_size=2, rank=rank).register() for rank in range(2)]


def test_a_hit_needs_every_rank(ranks: list[Worker], tokens: list[int]) -> None:
    first, second = ranks
    first.store(tokens)
    assert first.hit(tokens) == 0, "lookup with rank 1 missing: expected no hit"
    second.store(tokens, end=32)
    assert first.hit(tokens) == 2, "lookup with rank 1 holding two chunks: expected two"
    second.store(tokens)
    assert first.hit(tokens) == 4


def test_each_rank_reads_its_own_bytes(ranks: list[Worker], server: ServerProcess, tokens: list[int]) -> None:
    for worker in ranks:
        worker.store(tokens)
    request = fresh_request()
    assert ranks[0].lookup(tokens, request) == 4
    for worker in ranks:
        assert worker.retrieve(tokens, request) == 4
    assert_nothing_is_pinned(server)
    ranks[0].end(request)


def test_several_readers_of_one_object(client: Any, server: ServerProcess, tokens: list[int]) -> None:
    model = fresh_model()
    readers = [Worker(client, model, readers=3).register() for _ in range(3)]
    readers[0].store(tokens)
    request = fresh_request()
    assert readers[0].lookup(tokens, request) == 4
    for reader in readers:
        assert server.metric("lmcache_mp_l1_held_objects") > 0
        assert reader.retrieve(tokens, request) == 4
    assert_nothing_is_pinned(server)


def test_release_drops_the_pins_of_every_reader(client: Any, server: ServerProcess, tokens: list[int]) -> None:
    worker = Worker(client, fresh_model(), readers=2).register()
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    worker.release(tokens, request)
    assert_nothing_is_pinned(server)


def test_partial_release(worker: Worker, server: ServerProcess, tokens: list[int]) -> None:
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    worker.release(tokens, request, end=16)
    assert server.metric("lmcache_mp_l1_held_objects") == 3
    assert worker.retrieve(tokens, request, start=16) == 3
    worker.end(request)


def test_releasing_twice_is_harmless(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    first, second = fresh_request(), fresh_request()
    assert worker.lookup(tokens, first) == 4
    assert worker.lookup(tokens, second) == 4
    worker.release(tokens, first)
    if not worker.try_retrieve(tokens, second):
        pytest.fail("the second request lost its leases to the first one's release")


@pytest.mark.ours
def test_double_release_keeps_the_pins_of_others(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    first, second = fresh_request(), fresh_request()
    assert worker.lookup(tokens, first) == 4
    assert worker.lookup(tokens, second) == 4
    worker.release(tokens, first)
    worker.release(tokens, first)
    assert worker.retrieve(tokens, second) == 4


@pytest.mark.ours
def test_what_is_there_is_read_without_a_lookup(worker: Worker, tokens: list[int]) -> None:
    """LMCache refuses it, and with it a retrieve after the read TTL."""
    worker.store(tokens)
    assert worker.retrieve(tokens, fresh_request()) == 4


def test_two_requests_read_the_same_range(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    first, second = fresh_request(), fresh_request()
    assert worker.lookup(tokens, first) == 4
    assert worker.lookup(tokens, second) == 4
    assert worker.context.prepare_retrieve(worker.key(tokens, first), worker.instance) is not None
    assert worker.context.prepare_retrieve(worker.key(tokens, second), worker.instance) is not None
    assert worker.context.commit_retrieve(worker.key(tokens, first), worker.instance) is True
    assert worker.context.commit_retrieve(worker.key(tokens, second), worker.instance) is True


@pytest.mark.ours
def test_concurrent_reads_leak_no_lease(worker: Worker, server: ServerProcess, tokens: list[int]) -> None:
    test_two_requests_read_the_same_range(worker, tokens)
    assert_nothing_is_pinned(server)


def test_two_writers_of_one_key(worker: Worker, client: Any, tokens: list[int]) -> None:
    other = Worker(client, worker.model).register()
    request = fresh_request()
    assert worker.prepare(tokens, request) == [0, 1, 2, 3]
    assert other.store(tokens) == [], "while another writes: expected nothing to write"
    assert worker.commit(tokens, request) is True
    request = fresh_request()
    assert other.lookup(tokens, request) == 4
    assert other.retrieve(tokens, request) == 4
    other.close()


def test_another_engine_reads_what_the_first_stored(worker: Worker, server: Any, tokens: list[int]) -> None:
    from support.stock import stock_client

    worker.store(tokens)
    client = stock_client(server.url)
    other = Worker(client, worker.model).register()
    request = fresh_request()
    assert other.lookup(tokens, request) == 4
    assert other.retrieve(tokens, request) == 4
    other.close()
    client.close()
