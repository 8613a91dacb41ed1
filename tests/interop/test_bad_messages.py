"""Invalid messages: the server keeps running, answers what it can, and keeps serving other clients."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from support.process import ServerProcess
from support.raw import RawConnection, encode, key, registration
from support.stock import ANSWER_S, Worker, fresh_instance, fresh_model, fresh_request

pytestmark = [pytest.mark.ours, pytest.mark.expect_log("WARN .*client not served")]


@pytest.fixture(autouse=True)
def others_stay_served(server: ServerProcess, worker: Worker, tokens: list[int]) -> Iterator[None]:
    """After each test, a worker that registered before it can still store and read back."""
    yield
    server.assert_healthy()
    assert worker.store(tokens) == [0, 1, 2, 3]
    request = fresh_request()
    assert worker.lookup(tokens, request) == 4
    assert worker.retrieve(tokens, request) == 4


def still_answers(raw: RawConnection) -> None:
    """The connection that sent the invalid message stays usable, with no stale answer on it."""
    uid = raw.send("noop")
    assert raw.receive() == [uid, encode(24), encode("OK")]


UNDECODABLE = {
    "one frame": [encode(1)],
    "one empty frame": [b""],
    "two empty frames": [b"", b""],
    "operation is not MessagePack": [encode(1), b"\xc1"],
    "operation is a float": [encode(1), encode(24.0)],
    "operation is a map": [encode(1), encode({})],
    "operation is unknown": [encode(1), encode(9999)],
    "operation is negative": [encode(1), encode(-1)],
    "operation name is unknown": [encode(1), encode("no_such_operation")],
    "retired operation": [encode(1), encode(11)],
    "stream control for nothing": [encode(1), b"", b"ack"],
    "unknown stream control": [encode(1), b"", b"\xff\xfe"],
    "very deep nesting": [encode(1), encode(9), b"\x91" * 100_000 + b"\xc0"],
    "a list that claims four billion entries": [encode(1), encode(9), b"\xdd\xff\xff\xff\xff"],
    "bytes that claim four gigabytes": [encode(1), encode(9), b"\xc6\xff\xff\xff\xff"],
}


@pytest.mark.parametrize("frames", UNDECODABLE.values(), ids=UNDECODABLE.keys())
def test_undecodable_messages_are_dropped(raw: RawConnection, frames: list[bytes]) -> None:
    raw.send_frames(*frames)
    uid = raw.send("noop")
    message = raw.receive()
    if message[0] != uid:
        assert message[:2] == frames[:2], f"expected silence or an answer to the bad request, got {message!r}"
        message = raw.receive()
    assert message[2] == encode("OK")


def test_many_frames(server: ServerProcess, raw: RawConnection) -> None:
    """A message with too many frames may close its own connection, and no other."""
    raw.send_frames(encode(1), encode(24), *[b"\xc0"] * 500)
    with server.connection() as good:
        still_answers(good)


ILL_TYPED: dict[str, tuple[int, list[bytes], list[bytes]]] = {
    "status query without payload": (9, [], [encode(0)]),
    "status query with two payloads": (9, [encode("r"), encode("r")], [encode(0)]),
    "status query of a number": (9, [encode(17)], [encode(0)]),
    "status query that is not MessagePack": (9, [b"\xc1"], [encode(0)]),
    "lookup of a list": (8, [encode([1, 2]), encode(1)], []),
    "release of text": (12, [encode("key"), encode(1)], []),
    "store without an instance": (16, [encode(key("m", [1], 0, 0, "r"))], None),
    "commit of nil": (17, [encode(None), encode(1), encode(b"")], [encode(False)]),
    "commit of text": (17, [encode(key("m", [1], 0, 0, "r")), encode(1), encode("text")], [encode(False)]),
    "retrieve of nil": (18, [encode(None), encode(1)], None),
    "ping of text": (22, [encode("17")], None),
    "server-driven store of nothing": (6, [], [encode([b"", False])]),
}


@pytest.mark.parametrize("case", ILL_TYPED.values(), ids=ILL_TYPED.keys())
def test_ill_typed_requests_are_answered_or_dropped(raw: RawConnection, case: tuple[int, list[bytes], Any]) -> None:
    """An undecodable payload may be dropped; any answer is the failure value."""
    operation, payloads, failure = case
    bad, good = encode("bad"), encode("good")
    raw.send_frames(bad, encode(operation), *payloads)
    raw.send_frames(good, encode(24))
    messages = [raw.receive()]
    while messages[-1][0] != good:
        messages.append(raw.receive())
    answers = [m for m in messages if m[0] == bad]
    assert len(answers) <= 1, f"expected at most one answer, got {answers!r}"
    if answers and failure is not None:
        assert answers[0][2:] == failure, f"expected the failure value {failure!r}, got {answers[0][2:]!r}"


# -- requests that decode but cannot be served ----------------------------------
EMPTY_STORE = {"context": {"slots": [], "chunk_indices": []}}
FAILED_READ = {"success": False, "data": b"", "context": {}}


def test_unknown_instances_get_failure_values_at_once(raw: RawConnection, tokens: list[int]) -> None:
    unknown, k = fresh_instance(), key("unregistered", tokens, 0, 64, "u0")
    assert raw.call("prepare_store", k, unknown, timeout_s=1) == EMPTY_STORE
    assert raw.call("commit_store", k, unknown, b"", timeout_s=1) is False
    assert raw.call("prepare_retrieve", k, unknown, timeout_s=1) == FAILED_READ
    assert raw.call("commit_retrieve", k, unknown, timeout_s=1) is False
    assert raw.call("unregister_kv_cache_engine_driven_context", unknown, timeout_s=1) is None
    assert raw.call("store", k, unknown, [[1] * 16], b"stub_ipc_handle", timeout_s=1) == [b"", False]
    assert raw.call("retrieve", k, unknown, [[1] * 16], b"stub_ipc_handle", 0, timeout_s=1) == [b"", False]


BAD_KEYS: dict[str, dict[str, Any]] = {
    "unaligned end": {"end": 30},
    "unaligned start": {"start": 8},
    "end past the tokens": {"end": 80},
    "end before start": {"start": 32, "end": 16},
    "huge end": {"end": 2**62},
    "no worker": {"worker_id": None},
    "worker outside the world": {"worker_id": 7},
    "world of size 0": {"world_size": 0},
    "token beyond 32 bits": {"token_ids": [2**33] * 64},
    "negative token": {"token_ids": [-1] * 64},
    "model name with @": {"model_name": "a@b"},
}

# The stock client's own key type refuses these, so only a foreign client can send them.
UNDECODABLE_KEYS: dict[str, dict[str, Any]] = {
    "negative start": {"start": -16},
    "negative worker": {"worker_id": -1},
    "salt with a slash": {"cache_salt": "a/b"},
    "endless salt": {"cache_salt": "s" * 129},
    "tokens as text": {"token_ids": "abc"},
    "no request id": {"request_id": None},
}


@pytest.mark.parametrize("change", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_inconsistent_keys(raw: RawConnection, tokens: list[int], change: dict[str, Any]) -> None:
    model, instance = fresh_model(), fresh_instance()
    raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
    k = key(model, tokens, 0, 64, fresh_request()) | change
    assert raw.call("prepare_store", k, instance, timeout_s=2) == EMPTY_STORE
    assert raw.call("commit_store", k, instance, b"", timeout_s=2) is False
    assert raw.call("prepare_retrieve", k, instance, timeout_s=2) == FAILED_READ


@pytest.mark.parametrize("change", UNDECODABLE_KEYS.values(), ids=UNDECODABLE_KEYS.keys())
def test_undecodable_keys(raw: RawConnection, tokens: list[int], change: dict[str, Any]) -> None:
    """Silence is allowed; slots are not."""
    model, instance = fresh_model(), fresh_instance()
    raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
    uid = raw.send("prepare_store", key(model, tokens, 0, 64, fresh_request()) | change, instance)
    message = raw.poll(0.2)
    assert message is None or message == [uid, encode(16), encode(EMPTY_STORE)]


@pytest.mark.parametrize("readers", [-1, 2**40])
def test_invalid_reader_counts(raw: RawConnection, tokens: list[int], readers: int) -> None:
    model, instance, request = fresh_model(), fresh_instance(), fresh_request()
    raw.call("register_kv_cache_engine_driven_context", registration(instance, model))
    raw.call("lookup", key(model, tokens, 0, 64, request, None, num_kv_readers=readers), 1)
    assert isinstance(raw.call("query_prefetch_status", request), int)


def test_registration_larger_than_memory(raw: RawConnection, tokens: list[int]) -> None:
    model, instance = fresh_model(), fresh_instance()
    raw.send(
        "register_kv_cache_engine_driven_context",
        registration(instance, model, hidden_dim_size=2**60, num_layers=2**30),
    )
    raw.poll(0.3)  # silence is as good as an answer here
    raw.send("prepare_store", key(model, tokens, 0, 64, "h0"), instance)
    message = raw.poll(5)
    assert message is None or message[2:] == [encode(EMPTY_STORE)]


# -- below the messages -----------------------------------------------------------
def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5)


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
STREAMS = {
    "nothing": b"",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a greeting": GREETING[:20],
    "an old greeting": b"\x01\x00",
    "another mechanism": GREETING.replace(b"NULL", b"PLAI"),
    "a frame of one terabyte": GREETING + b"\x02" + (2**40).to_bytes(8, "big"),
    "a command of one terabyte": GREETING + b"\x06" + (2**40).to_bytes(8, "big"),
    "traffic before the handshake": GREETING + b"\x00\x01\x01" * 50,
    "noise": random.Random(1).randbytes(4096),
    "a greeting and noise": GREETING + random.Random(2).randbytes(4096),
}


@pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS.keys())
def test_broken_streams(server: ServerProcess, data: bytes) -> None:
    with connect(server) as peer:
        peer.sendall(data)
        with server.connection() as good:
            still_answers(good)


def test_half_open_connections_do_not_block_new_clients(server: ServerProcess) -> None:
    peers = [connect(server) for _ in range(200)]
    with server.connection() as good:
        still_answers(good)
    for peer in peers:
        peer.close()


def test_a_large_message_is_served_or_refused(server: ServerProcess) -> None:
    with server.connection() as greedy:
        greedy.send("query_prefetch_status", os.urandom(8 << 20).hex())
        greedy.poll(5)
    with server.connection() as good:
        still_answers(good)


def test_client_that_never_reads(server: ServerProcess, client: Any) -> None:
    with server.connection() as deaf:
        for _ in range(20_000):
            try:
                deaf.socket.send_multipart([encode(1), encode(21)], zmq.DONTWAIT)
            except zmq.Again:
                break
        assert client.ping(None).result(ANSWER_S) is True
