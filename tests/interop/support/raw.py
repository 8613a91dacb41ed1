"""Raw requests: a DEALER socket, MessagePack frames, and cache keys as plain maps.

Nothing here imports LMCache, so a fault in the stock client cannot hide one in the server.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import zmq

OPERATIONS = {
    "register_kv_cache": 1, "unregister_kv_cache": 2, "register_q_cache": 3, "unregister_q_cache": 4,
    "store_q": 5, "store": 6, "retrieve": 7, "lookup": 8, "query_prefetch_status": 9,
    "wait_prefetch_status": 10, "free_lookup_locks": 12, "end_session": 13,
    "register_kv_cache_engine_driven_context": 14, "unregister_kv_cache_engine_driven_context": 15,
    "prepare_store": 16, "commit_store": 17, "prepare_retrieve": 18, "commit_retrieve": 19,
    "clear": 20, "get_chunk_size": 21, "ping": 22, "report_block_allocation": 23, "noop": 24,
    "cb_register_rope": 25, "cb_unregister_rope": 26, "cb_retrieve_pre_computed": 27,
    "cb_unified_lookup": 28, "p2p_lookup_and_lock": 29, "p2p_query_lookup_results": 30,
    "p2p_unlock_objects": 31, "get_experimental": 32, "cb_protocol_handshake": 33,
}  # fmt: skip

ANSWER_S = 10.0

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


def key(
    model: str, tokens: list[int], start: int, end: int, request_id: str, worker_id: int | None = 0, **fields: Any
) -> dict[str, Any]:
    """A cache key, field by field in the order of the stock client."""
    base = {
        "model_name": model, "world_size": 1, "worker_id": worker_id, "token_ids": tokens, "start": start,
        "end": end, "request_id": request_id, "cache_salt": "", "request_configs": None, "num_kv_readers": 1,
    }  # fmt: skip
    return base | fields


def registration(instance_id: int, model: str, **fields: Any) -> dict[str, Any]:
    """An engine-driven registration: one plane of ``[2 layers, 16 slots, 8]`` float16."""
    base = {
        "instance_id": instance_id, "model_name": model, "world_size": 1, "block_size": 4, "num_layers": 2,
        "hidden_dim_size": 8, "dtype_str": "float16", "use_mla": True, "num_physical_slots": 16,
    }  # fmt: skip
    return base | fields


class RawConnection:
    """One DEALER socket, as every stock client opens one."""

    def __init__(self, url: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.connect(url)
        self._uids = itertools.count()

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close(0)
        self._context.term()

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def send(self, operation: str | int, *payloads: Any) -> bytes:
        """Send one request; the uid frame it carries."""
        uid = encode(next(self._uids))
        code = OPERATIONS.get(operation, operation) if isinstance(operation, str) else operation
        self.send_frames(uid, encode(code), *(encode(p) for p in payloads))
        return uid

    def poll(self, timeout_s: float) -> list[bytes] | None:
        """The next message, or None if none comes in time."""
        return self.socket.recv_multipart() if self.socket.poll(int(timeout_s * 1000)) else None

    def receive(self, timeout_s: float = ANSWER_S) -> list[bytes]:
        message = self.poll(timeout_s)
        assert message is not None, f"expected a message within {timeout_s} s, the server stayed silent"
        return message

    def call(self, operation: str | int, *payloads: Any, timeout_s: float = ANSWER_S) -> Any:
        """Send one request and return its answer, which must be the next message."""
        uid = self.send(operation, *payloads)
        message = self.poll(timeout_s)
        assert message is not None, f"{operation}: expected an answer within {timeout_s} s, the server stayed silent"
        assert message[0] == uid, f"{operation}: expected an answer to uid {uid.hex()}, got {message[0].hex()}"
        assert len(message) in (2, 3), f"{operation}: expected at most one result frame, got {len(message) - 2}"
        return decode(message[2]) if len(message) == 3 else None
