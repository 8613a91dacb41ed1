"""Every operation of the protocol, as the stock client sends it.

What the engine-driven operations do with bytes is in the other files; here each operation
answers with its own type, including those that this server does not implement.
"""

from __future__ import annotations

from typing import Any

import pytest
from lmcache.utils import EngineType
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.multiprocess.custom_types import BlockAllocationRecord
from lmcache.v1.multiprocess.protocols.server_module import ServerModuleCallRequest
from lmcache.v1.multiprocess.token_hasher import TokenHasher
from support.process import ServerProcess
from support.raw import OPERATIONS, RawConnection, decode, encode, key, registration
from support.stock import ANSWER_S, Worker, fresh_instance, fresh_model, fresh_request

EVENT = b"stub_ipc_handle"


# -- control ------------------------------------------------------------------
def test_noop(client: Any) -> None:
    assert client.noop().result(ANSWER_S) == "OK"


def test_get_chunk_size(client: Any, server: ServerProcess) -> None:
    assert client.get_chunk_size().result(ANSWER_S) == server.chunk_size


def test_get_experimental(client: Any) -> None:
    features = client.get_experimental().result(ANSWER_S)
    assert isinstance(features, list) and all(isinstance(name, str) for name in features)


def test_ping_of_a_prober_is_true(client: Any) -> None:
    assert client.ping(None).result(ANSWER_S) is True


def test_ping_of_a_registered_worker_is_true(client: Any, worker: Worker) -> None:
    assert client.ping(worker.instance).result(ANSWER_S) is True


@pytest.mark.ours
def test_first_ping_of_an_unknown_instance_is_false(client: Any) -> None:
    """This is how a worker notices a restart and registers again; the answer is false only once."""
    unknown = fresh_instance()
    assert client.ping(unknown).result(ANSWER_S) is False, "first ping of an unknown instance: expected false"
    assert client.ping(unknown).result(ANSWER_S) is True, "second ping: expected true"
    assert client.ping(unknown).result(ANSWER_S) is True


def test_report_block_allocation(client: Any) -> None:
    records = [BlockAllocationRecord("req-a", [1, 2, 3], [5, 6, 7]), BlockAllocationRecord("req-b", [], [])]
    assert client.report_block_allocation(1234, "m", records).result(ANSWER_S) is None


def test_end_session_of_an_unknown_request(client: Any) -> None:
    assert client.end_session("never-seen").result(ANSWER_S) is None


# -- lookups ------------------------------------------------------------------
def test_status_of_an_unknown_request_is_zero(client: Any) -> None:
    assert client.query_prefetch_status("never-seen").result(ANSWER_S) == 0
    assert client.wait_prefetch_status("never-seen", 1.0).result(ANSWER_S) == 0


def test_lookup_of_an_unregistered_model(client: Any, tokens: list[int]) -> None:
    unknown = Worker(client, fresh_model())
    request = fresh_request()
    client.lookup(unknown.key(tokens, request, worker_id=None), 1).result(ANSWER_S)
    assert client.query_prefetch_status(request).result(ANSWER_S) == 0


def test_a_lookup_result_is_consumed_once(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    request = fresh_request()
    client.lookup(worker.key(tokens, request, worker_id=None), 1).result(ANSWER_S)
    assert client.query_prefetch_status(request).result(ANSWER_S) == 4
    assert client.query_prefetch_status(request).result(ANSWER_S) == 0
    assert client.wait_prefetch_status(request, 0.1).result(ANSWER_S) == 0


def test_free_lookup_locks_without_a_lookup(worker: Worker, client: Any, tokens: list[int]) -> None:
    assert client.free_lookup_locks(worker.key(tokens, "nothing", worker_id=None), 1).result(ANSWER_S) is None


def test_free_lookup_locks_of_an_empty_range(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    worker.release(tokens, request, start=32, end=32)
    assert worker.retrieve(tokens, request) == 4, "an empty release: expected it to release nothing"


def test_an_unconsumed_lookup_can_be_released(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    request = fresh_request()
    client.lookup(worker.key(tokens, request, worker_id=None), 1).result(ANSWER_S)
    worker.release(tokens, request)
    assert client.query_prefetch_status(request).result(ANSWER_S) == 0, (
        "released before the query: expected it consumed"
    )


def test_opaque_request_settings_are_accepted(worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    settings = {"lmcache.max_offload_tokens": 32, "nested": {"a": [1, None, 2.5]}}
    assert worker.lookup(tokens, fresh_request(), request_configs=settings) == 4


# -- peer to peer -------------------------------------------------------------
def object_keys(model: str, tokens: list[int]) -> list[ObjectKey]:
    rank = ObjectKey.ComputeKVRank(1, 0, 1, 0)
    return [ObjectKey(h, model, rank) for h in TokenHasher(16, "blake3").compute_chunk_hashes(tokens)]


def p2p_lookup(client: Any, keys: list[ObjectKey], layouts: dict[int, MemoryLayoutDesc]) -> Any:
    lookup = client.p2p_lookup_and_lock(keys, layouts).result(ANSWER_S)
    assert isinstance(lookup, int), f"p2p_lookup_and_lock: expected an id, got {lookup!r}"
    return lookup


def test_peers_find_objects_in_the_pool(worker: Worker, client: Any, tokens: list[int]) -> None:
    worker.store(tokens)
    torch = pytest.importorskip("torch")
    layouts = {0: MemoryLayoutDesc([torch.Size(worker.shape.sizes)], [torch.float16])}
    keys = object_keys(worker.model, tokens)
    lookup = p2p_lookup(client, [*keys, ObjectKey(bytes(32), worker.model, keys[0].kv_rank)], layouts)
    found = client.p2p_query_lookup_results(lookup).result(ANSWER_S)
    assert [slot.size for slot in found] == [512, 512, 512, 512, 0]
    assert found[4].offset == -1, "a missing object: expected offset -1"
    assert client.p2p_query_lookup_results(lookup).result(ANSWER_S) is None, "a consumed id: expected no result"
    assert client.p2p_unlock_objects(keys).result(ANSWER_S) is None


def test_peers_may_ask_for_nothing(client: Any) -> None:
    lookup = p2p_lookup(client, [], {})
    assert list(client.p2p_query_lookup_results(lookup).result(ANSWER_S)) == []


# -- what is not served (yet): a failure value at once, never silence ----------
@pytest.mark.ours
def test_server_module_call_returns_the_reason(client: Any) -> None:
    answer = client.server_module_call(ServerModuleCallRequest(method="x.y", payload=b"z")).result(ANSWER_S)
    assert answer.success is False and answer.error


@pytest.mark.ours
def test_server_driven_transfers_are_refused(client: Any, tokens: list[int]) -> None:
    unknown = Worker(client, fresh_model())
    key_ = unknown.key(tokens, fresh_request())
    for answer in (
        client.store(key_, unknown.instance, [[1] * 16], EVENT),
        client.retrieve(key_, unknown.instance, [[1] * 16], EVENT, 0),
        client.store_q(key_, unknown.instance, [[1] * 16], EVENT),
        client.cb_retrieve_pre_computed(key_, [], [[1] * 16], unknown.instance, EVENT),
    ):
        assert tuple(answer.result(ANSWER_S)) == (b"", False)


def test_unregistering_unknown_instances(client: Any) -> None:
    assert client.unregister_kv_cache(fresh_instance()).result(ANSWER_S) is None


@pytest.mark.ours
def test_optional_operations_return_their_empty_value(client: Any, tokens: list[int]) -> None:
    unknown = Worker(client, fresh_model())
    scheduler_key = unknown.key(tokens, fresh_request(), worker_id=None)
    assert client.unregister_q_cache(fresh_instance()).result(ANSWER_S) is None
    assert client.cb_unregister_rope(fresh_instance()).result(ANSWER_S) is None
    assert list(client.cb_reorder_plan(scheduler_key, 0, 100).result(ANSWER_S)) == []
    lookup = client.cb_unified_lookup(scheduler_key, 1).result(ANSWER_S)
    assert lookup is None or lookup.prefix_coverage_tokens == 0
    version, match = client.cb_protocol_handshake(1).result(ANSWER_S)
    assert isinstance(version, int) and isinstance(match, bool)


def test_engine_registration_by_handles_never_breaks_others(client: Any, server: ServerProcess, worker: Worker) -> None:
    """Refused or not, this connection and all others stay usable."""
    client.register_kv_cache(fresh_instance(), [], "m", 1, EngineType.VLLM, {}, [])
    assert client.noop().result(ANSWER_S) == "OK"
    assert client.ping(worker.instance).result(ANSWER_S) is True


@pytest.mark.ours
def test_lmcache_driven_worker_is_refused_at_once(client: Any, tokens: list[int]) -> None:
    """The reference is silent in such a case, and its engine waits for five minutes."""
    at_once_s = 1.0
    engine = Worker(client, fresh_model())
    registered = client.register_kv_cache(engine.instance, [], engine.model, 1, EngineType.VLLM, {}, [])
    assert registered.result(at_once_s) is None
    key_ = engine.key(tokens, fresh_request())
    for answer in (
        client.store(key_, engine.instance, [[1] * 16], EVENT),
        client.retrieve(key_, engine.instance, [[1] * 16], EVENT, 0),
    ):
        assert tuple(answer.result(at_once_s)) == (b"", False)
    assert client.ping(engine.instance).result(at_once_s) is True, "else it would register again and again"


# -- names ---------------------------------------------------------------------
def test_operations_are_accepted_by_name(raw: RawConnection, tokens: list[int]) -> None:
    model, instance = fresh_model(), fresh_instance()

    def by_name(operation: str, *payloads: Any) -> Any:
        assert operation in OPERATIONS
        raw.send_frames(encode("uid"), encode(operation), *(encode(p) for p in payloads))
        message = raw.receive()
        assert message[:2] == [encode("uid"), encode(operation)]
        return message[2:]

    by_name("register_kv_cache_engine_driven_context", registration(instance, model))
    by_name("prepare_store", key(model, tokens, 0, 64, "n0"), instance)
    by_name("commit_store", key(model, tokens, 0, 64, "n0"), instance, b"")
    by_name("lookup", key(model, tokens, 0, 64, "n1", None), 1)
    assert by_name("query_prefetch_status", "n1") == [b"\x04"]
    by_name("prepare_retrieve", key(model, tokens, 0, 64, "n1"), instance)
    assert by_name("commit_retrieve", key(model, tokens, 0, 64, "n1"), instance) == [b"\xc3"]
    assert by_name("end_session", "n1") == []
    assert by_name("unregister_kv_cache_engine_driven_context", instance) == []
    assert by_name("get_chunk_size") == [b"\x10"]
