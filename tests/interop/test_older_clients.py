"""The dialects of clients before 0.5.6 that still work: fewer payloads, fewer fields."""

from __future__ import annotations

import pytest
from support.process import ServerProcess
from support.raw import RawConnection, decode, encode, key, registration
from support.stock import fresh_instance, fresh_model, fresh_request

pytestmark = pytest.mark.ours


def without(structure: dict, *fields: str) -> dict:
    return {name: value for name, value in structure.items() if name not in fields}


def test_clear_without_a_payload(raw: RawConnection) -> None:
    """As 0.5.5 and before send it."""
    assert raw.call("clear", timeout_s=2) is None


def test_get_experimental_under_its_former_id(raw: RawConnection) -> None:
    """0.5.3 and 0.5.4 call it 40 and stall for 300 s at start without an answer."""
    uid = raw.send(40)
    message = raw.receive(2)
    assert message[:2] == [uid, encode(40)], "expected the operation echoed as it came"
    assert isinstance(decode(message[2]), list)


def test_registration_without_physical_slots(raw: RawConnection) -> None:
    old = without(registration(fresh_instance(), fresh_model()), "num_physical_slots")
    assert raw.call("register_kv_cache_engine_driven_context", old)["pool_size"] > 0


@pytest.mark.parametrize("tp_size, reads", [(1, 1), (4, 4)])
def test_lookup_without_a_reader_count(
    raw: RawConnection, server: ServerProcess, tokens: list[int], tp_size: int, reads: int
) -> None:
    """Before 0.5.5 the server derived the readers: tp_size above the world size means that many."""
    model, instance, request = fresh_model(), fresh_instance(), fresh_request()
    raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
    old = without(key(model, tokens, 0, 64, request), "num_kv_readers", "request_configs")
    raw.call("prepare_store", old, instance)
    assert raw.call("commit_store", old, instance, b"") is True
    raw.call("lookup", old | {"worker_id": None}, tp_size)
    assert raw.call("query_prefetch_status", request) == 4
    for _ in range(reads):
        assert server.metric("lmcache_mp_l1_held_objects") == 4
        assert raw.call("prepare_retrieve", old, instance)["success"] is True
        assert raw.call("commit_retrieve", old, instance) is True
    assert server.metric("lmcache_mp_l1_held_objects") == 0


def test_release_without_a_reader_count(raw: RawConnection, server: ServerProcess, tokens: list[int]) -> None:
    model, instance, request = fresh_model(), fresh_instance(), fresh_request()
    raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
    old = without(key(model, tokens, 0, 64, request), "num_kv_readers", "request_configs")
    raw.call("prepare_store", old, instance)
    raw.call("commit_store", old, instance, b"")
    raw.call("lookup", old | {"worker_id": None}, 1)
    assert raw.call("query_prefetch_status", request) == 4
    raw.call("free_lookup_locks", old | {"worker_id": None}, 1)
    assert server.metric("lmcache_mp_l1_held_objects") == 0
