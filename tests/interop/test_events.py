"""The event stream, followed by the unmodified client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import stock
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_model, fresh_request, prompt

EVENTS_WITHIN_S = 10.0
# The reference announces no stores that engines make themselves.
ours = pytest.mark.ours


class Follower:
    """A thread that iterates over the stock client's stream, as the vLLM connector does."""

    def __init__(self, client: Any, instance: int, model: str, cursor: int = 0) -> None:
        self.stream = client.subscribe_kv_events(instance, model, cursor, 1024)
        self.batches: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for batch in self.stream:
            self.batches.put(batch)
        self.batches.put("end")

    def next(self) -> Any:
        return self.batches.get(timeout=EVENTS_WITHIN_S)

    def events(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            found += self.next().events
        return found

    def close(self) -> None:
        self.stream.close()
        self._thread.join(EVENTS_WITHIN_S)
        assert not self._thread.is_alive(), "a closed stream: expected its reader to end"


@pytest.fixture
def follow(client: Any) -> Iterator[Callable[..., Follower]]:
    opened: list[Follower] = []

    def make(worker: Worker, **settings: Any) -> Follower:
        opened.append(Follower(settings.pop("client", client), worker.instance, worker.model, **settings))
        return opened[-1]

    yield make
    for follower in opened:
        follower.close()


def subscribers(server: ServerProcess) -> int:
    return int(server.metric("lmcache_mp_kv_events_subscribers"))


def test_the_feature_is_announced(client: Any) -> None:
    assert "kv_event_stream" in client.get_experimental().result(10)


@ours
def test_stores_and_removals_reach_the_client(follow: Callable[..., Follower], worker: Worker, tokens: list[int]) -> None:
    follower = follow(worker)
    first = follower.next()
    assert first.enabled and not first.events, "the first batch: expected at once, and empty"
    worker.store(tokens)
    stored = follower.events(4)
    assert [e.kind for e in stored] == ["stored"] * 4
    assert [list(e.token_ids) for e in stored] == [tokens[i : i + 16] for i in range(0, 64, 16)]
    hashes = [e.block_hashes[0] for e in stored]
    assert [e.parent_block_hash for e in stored] == [None, *hashes[:-1]]
    assert {(e.medium, e.model_name) for e in stored} == {("CPU", worker.model)}
    worker.client.clear(False).result(10)
    removed = follower.events(1)
    assert [e.kind for e in removed] == ["removed"]
    assert {h for e in removed for h in e.block_hashes} == set(hashes)


@ours
def test_chunk_is_announced_when_all_ranks_stored_it(
    client: Any, follow: Callable[..., Follower], tokens: list[int]
) -> None:
    model = fresh_model()
    ranks = [Worker(client, model, world_size=2, rank=rank).register() for rank in range(2)]
    follower = follow(ranks[0])
    follower.next()
    ranks[0].store(tokens)
    ranks[1].store(tokens, end=32)
    assert len(follower.events(2)) == 2
    with pytest.raises(queue.Empty):
        follower.batches.get(timeout=0.2)


@ours
def test_late_subscriber_gets_a_snapshot(follow: Callable[..., Follower], worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    assert len(follow(worker).next().events) == 4


def test_events_of_other_models_are_filtered(
    client: Any, follow: Callable[..., Follower], worker: Worker, tokens: list[int]
) -> None:
    other = Worker(client, fresh_model()).register()
    follower = follow(worker)
    follower.next()
    other.store(tokens)
    with pytest.raises(queue.Empty):
        follower.batches.get(timeout=0.3)


def test_a_second_subscription_ends_the_first(follow: Callable[..., Follower], worker: Worker) -> None:
    first = follow(worker)
    first.next()
    second = follow(worker)
    assert second.next().enabled
    assert first.next() == "end"


@ours
def test_subscription_ends_with_its_connection(server: ServerProcess, worker: Worker) -> None:
    closing = stock.stock_client(server.url)
    before = subscribers(server)
    follower = Follower(closing, stock.fresh_instance(), worker.model)
    follower.next()
    assert subscribers(server) == before + 1
    closing.close()
    eventually(lambda: subscribers(server) == before, "the subscription gone with its connection")


@ours
def test_l2_events_have_their_own_medium(start: Callable[..., ServerProcess], tmp_path: Any) -> None:
    adapter = f'{{"type": "fs", "base_path": "{tmp_path}"}}'
    server = start(flags=("--l2-adapter", adapter))
    client = stock.stock_client(server.url)
    worker = Worker(client, fresh_model()).register()
    tokens = prompt(77)
    follower = Follower(client, worker.instance, worker.model)
    follower.next()
    worker.store(tokens)
    seen: dict[str, set[bytes]] = {"CPU": set(), "STORAGE": set()}
    while len(seen["STORAGE"]) < 4:
        for event in follower.next().events:
            assert event.kind == "stored"
            seen[event.medium] |= set(event.block_hashes)
    assert seen["CPU"] == seen["STORAGE"]
    worker.end(fresh_request())
    follower.close()
    client.close()


@ours
def test_without_a_log_there_is_no_stream(start: Callable[..., ServerProcess]) -> None:
    server = start(flags=("--kv-event-log-size", "0"))
    client = stock.stock_client(server.url)
    assert client.get_experimental().result(10) == []
    follower = Follower(client, 1, "m")
    assert follower.next().enabled is False
    assert follower.next() == "end"
    client.close()


# Last: a server that stops under the stock client can leave the client's one thread stuck.
@ours
def test_restart_changes_the_incarnation(start: Callable[..., ServerProcess]) -> None:
    server = start()
    client = stock.stock_client(server.url)
    worker = Worker(client, fresh_model()).register()
    follower = Follower(client, worker.instance, worker.model)
    before = follower.next().incarnation
    server.restart()
    assert follower.next() == "end", "a connection that is lost: expected its stream to end"
    again = Follower(client, worker.instance, worker.model)
    batch = again.next()
    assert batch.enabled and batch.incarnation != before
    again.close()
    client.close()
