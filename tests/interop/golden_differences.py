"""Where we answer a recorded step differently than the reference, and why.

``test_golden_frames`` holds this table to be exact. When the server learns an operation that
is refused here, its rows go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.golden import NIL, Batch


@dataclass(frozen=True)
class Difference:
    """Step ``note`` is answered with ``answers`` (by client, then in order); none is silence."""

    note: str
    answers: list[Any]
    why: str


# -- answers --------------------------------------------------------------------
NO_SLOTS = {"context": {"slots": [], "chunk_indices": []}}
FAILED_READ = {"success": False, "data": b"", "context": {}}
REFUSED = [b"", False]
NO_POOL = {"shm_name": "", "pool_size": 0}
EVENTS = ["kv_event_stream"]
STORED = tuple(f"{i}: 1 stored" for i in range(1, 7))


def slots(*indices: int, length: int = 768, shape: tuple[int, ...] = (2, 16, 12)) -> dict[str, Any]:
    one = {"offset": "<in the pool>", "length": length, "shape": list(shape), "dtype": "float16"}
    return {"context": {"slots": [one] * len(indices), "chunk_indices": list(indices)}}


# -- reasons --------------------------------------------------------------------
ANSWERED = "a request that fails is answered with its failure value instead of silence"
UNKNOWN = "the first ping of an unknown instance is false, so that workers notice a restart"
UNSERVED = "copies by the server are not served yet: refused at once, and the engine computes"
OWN_EVENTS = "stores of engines are announced too, and the recording begins with the first subscription"
NO_BLEND = "blend and query stores are not served"
OLDER = "older clients' forms are understood"
DISCARDED = "a store left open by a worker that went is discarded, not published"
WHILE_THERE = "a retrieve without pins is served while its objects are in L1, so that a late one is not refused"
SHARE = "of L1 one client holds at most half with more than one request"
NOT_PINNED = "a retrieve that was not prepared, or has lost its pins, may have copied anything"
OWN_TOKENS = "a request id does not remember tokens of an earlier call"
ON_DEMAND = "space is freed on demand, for as many leading chunks as fit"
OWN_SHAPE = "objects of another size count as missing: the reader could not copy them"
UNCACHED = "an engine whose registration is refused runs without the cache instead of failing to start"


def read(count: int) -> dict[str, Any]:
    return {"success": True, "data": b"", "context": {"slots": slots(*range(count))["context"]["slots"]}}


OPERATIONS: dict[int, Difference] = {
    4: Difference("ping from an unknown instance", [False], UNKNOWN),
    27: Difference("prepare_retrieve without read locks fails", [read(2)], WHILE_THERE),
    35: Difference("commit_retrieve with nothing pending", [False], NOT_PINNED),
    64: Difference("subscribe_kv_events: first batch, then the client's ack", [Batch(6, STORED)], OWN_EVENTS),
    65: Difference("store: events are pushed on the open stream", [REFUSED], UNSERVED),
    68: Difference("query", [0], UNSERVED),
    69: Difference("retrieve into other blocks, skipping the first block", [REFUSED], UNSERVED),
    70: Difference("clear removes the chunks", [NIL, Batch(12, ("12: 6 removed",))], OWN_EVENTS),
    73: Difference("store with too few block ids is refused", [REFUSED], UNSERVED),
    74: Difference("store, one chunk all null blocks and one real", [REFUSED], UNSERVED),
    76: Difference("retrieve without a lookup fails but is answered", [REFUSED], UNSERVED),
    80: Difference("register with no tensors is not answered (client gives up)", [NIL], UNCACHED),
    81: Difference("unknown legacy id", [16], OLDER),
    82: Difference("get_experimental id of 0.5.3 and 0.5.4", [EVENTS], OLDER),
    85: Difference("too few payloads (clear as 0.5.5 sends it)", [NIL], OLDER),
    87: Difference("payload of the wrong type", [0], ANSWERED),
    88: Difference("payload is not msgpack", [0], ANSWERED),
    94: Difference("text that is no number where a plain int is declared", [NIL], ANSWERED),
    99: Difference("engine-driven call for an unregistered instance", [NO_SLOTS], ANSWERED),
    101: Difference("blend operation on a default server", [[0, False]], NO_BLEND),
    102: Difference("query-store operation that is not enabled", [NIL], ANSWERED),
    103: Difference(
        "server_module_call without plugins", [{"success": False, "payload": b"", "error": "<text>"}], ANSWERED
    ),
    104: Difference("subscribe with a bad page size", [NIL], ANSWERED),
    107: Difference("lookup without num_kv_readers (clients before 0.5.5)", [NIL], OLDER),
    108: Difference("prepare_store with worker_id null", [NO_SLOTS], ANSWERED),
    109: Difference("prepare_store with an unaligned range", [NO_SLOTS], ANSWERED),
    110: Difference("prepare_store past the token list", [NO_SLOTS], ANSWERED),
    111: Difference("register with an unknown dtype", [NO_POOL], UNCACHED),
    113: Difference("register with zero slots", [NO_POOL], UNCACHED),
    119: Difference("query: the abandoned chunk was published", [0], DISCARDED),
}

PICKLE: dict[int, Difference] = {
    10: Difference("commit_store with bytes that are not a pickle", [False], ANSWERED),
}

OPTIONAL: dict[int, Difference] = {
    1: Difference("blend: handshake, matching version", [[0, False]], NO_BLEND),
    2: Difference("blend: handshake, other version", [[0, False]], NO_BLEND),
    6: Difference("query store: get_experimental", [EVENTS], NO_BLEND),
    7: Difference("query store: register the query ring (a CPU server fails and does not answer)", [NIL], UNCACHED),
    8: Difference("query store: store two chunks (not registered: not answered)", [REFUSED], ANSWERED),
}

BIG = {"length": 64 << 20, "shape": (1, 16, 2 << 20)}

SCENARIOS: dict[int, Difference] = {
    12: Difference("rank 0 again: its locks are gone: prepare", [read(2)], WHILE_THERE),
    36: Difference("third read has no lock left: prepare", [read(1)], WHILE_THERE),
    48: Difference("and now none is left: prepare", [read(1)], WHILE_THERE),
    56: Difference("other tokens under f1: taken for the first ones, so nothing to write", [slots(0)], OWN_TOKENS),
    60: Difference(
        "after end_session the other tokens are seen", [NO_SLOTS],
        "the store of step 56 is still open: nothing else to write",
    ),
    67: Difference("chunk 0 is no longer locked: prepare", [read(1)], WHILE_THERE),
    69: Difference(
        "a range with unlocked chunks fails as a whole and drops one lock of each locked chunk in it: prepare",
        [read(4)], WHILE_THERE,
    ),
    71: Difference("so the rest is no longer readable: prepare", [read(2)], WHILE_THERE),
    94: Difference("prepare_store of five: all or nothing, so none", [slots(0, 1, 2, **BIG)], ON_DEMAND),
    95: Difference("its commit", [True], ON_DEMAND),
    96: Difference("three fit: prepare", [NO_SLOTS], "step 94 stored them"),
    97: Difference("three fit: commit", [False], "step 94 stored them"),
    101: Difference("nothing was evicted: 75% is under the watermark: result", [1], SHARE),
    103: Difference(
        "a fourth fits: prepare", [NO_SLOTS],
        "leases of earlier steps still hold a page of the last quarter, and a prompt does not evict itself",
    ),
    104: Difference("a fourth fits: commit", [False], "step 103 got no slot"),
    107: Difference(
        "at 100% an eviction pass ran; within the oldest batch the last chunk went first: result", [1],
        "nothing is evicted before space is needed; " + SHARE,
    ),
    108: Difference("which leaves room", [NO_SLOTS], "as step 103"),
    109: Difference("commit", [False], "step 108 got no slot"),
    115: Difference("lookup: result", [0], SHARE),
    116: Difference("instance 7 reads what 6 wrote: the slot has the writer's size", [FAILED_READ], OWN_SHAPE),
    117: Difference("commit", [False], NOT_PINNED),
    120: Difference("subscribe", [Batch(5)], OWN_EVENTS),
    123: Difference("engine-driven stores push nothing", [Batch(6, ("6: 1 stored",))], OWN_EVENTS),
    125: Difference("handle store of three chunks by worker 0", [REFUSED], UNSERVED),
    126: Difference("take a page of two", [], "step 125 stored nothing"),
    128: Difference(
        "a second subscription of the instance ends the first", [NIL, Batch(6, ("6: 1 stored",))], OWN_EVENTS,
    ),
    129: Difference("subscribe at a cursor ahead of the log", [Batch(6, lost=True)], OWN_EVENTS),
}  # fmt: skip

DIFFERENCES: dict[str, dict[int, Difference]] = {
    "frames_operations.json": OPERATIONS,
    "frames_operations_pickle.json": PICKLE,
    "frames_optional_operations.json": OPTIONAL,
    "frames_scenarios.json": SCENARIOS,
    "frames_vllm_lmcache_driven_cpu_shm.json": {
        9: Difference("store", [REFUSED], UNSERVED),
        12: Difference("query_prefetch_status", [0], UNSERVED),
        13: Difference("retrieve", [REFUSED], UNSERVED),
    },
    "frames_vllm_kv_events.json": {
        11: Difference("store", [REFUSED], UNSERVED),
        15: Difference("query_prefetch_status", [0], UNSERVED),
    },
}
