"""Replaying recorded conversations of stock clients with the reference server.

A recording is a list of steps; a step is what clients sent (``c2s``) and what they were
answered (``s2c``). Replaying sends the same frames from one DEALER socket per recorded client
and collects the answers in the same form, so that the two can be compared.

Values that depend on the run are mapped before comparing: the pool's name, slot offsets (any
aligned place inside the pool is as good as another), ids of peer lookups, the event stream's
incarnation and free text of errors. Everything else must be equal byte for byte, uid and operation frames included.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .process import ServerProcess
from .raw import OPERATIONS, RawConnection, decode, encode

VECTORS = Path(__file__).parents[3] / "crates/wire/tests/vectors"

ANSWER_S = 5.0
SILENCE_S = 0.3
ALIGNMENT = 4096

NIL = "<no result>"

PEER_LOOKUP = encode(OPERATIONS["p2p_lookup_and_lock"])
PEER_RESULTS = encode(OPERATIONS["p2p_query_lookup_results"])


@dataclass
class Message:
    client: int
    sent: bool
    frames: list[bytes]


@dataclass
class Step:
    number: int
    note: str
    messages: list[Message]
    flags: tuple[str, ...] = ()

    @property
    def answers(self) -> list[Message]:
        return [m for m in self.messages if not m.sent]


@dataclass
class Recording:
    name: str
    chunk_size: int
    steps: list[Step]


@dataclass
class Outcome:
    """The answers of one step, by client and then in order of arrival, in comparable form."""

    answers: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, messages: list[Message], pool_bytes: int) -> Outcome:
        ordered = sorted(messages, key=lambda m: m.client)  # stable: keeps each client's order
        return cls([comparable(m.frames, pool_bytes) for m in ordered])


def load(name: str) -> Recording:
    content = json.loads((VECTORS / name).read_text())
    if "steps" in content:
        steps = [
            Step(i, s["note"], [_message(m) for m in s["messages"]], tuple(s.get("server_flags", ())))
            for i, s in enumerate(content["steps"])
        ]
        return Recording(name, content["chunk_size"], steps)
    chunk_size = int(content["server_flags"][content["server_flags"].index("--chunk-size") + 1])
    return Recording(name, chunk_size, _steps_of_a_flow(content["messages"]))


def _message(record: dict[str, Any]) -> Message:
    return Message(record["client"], record["dir"] == "c2s", [bytes.fromhex(f) for f in record["frames"]])


def _steps_of_a_flow(records: list[dict[str, Any]]) -> list[Step]:
    """One step per request with the answers to it; what is pushed belongs to the step before."""
    steps: list[Step] = []
    open_requests: dict[tuple[int, bytes], Step] = {}
    for record in records:
        message = _message(record)
        request = (message.client, message.frames[0])
        if message.sent:
            steps.append(Step(len(steps), record["decoded"]["op"] or "stream control", [message]))
            if message.frames[1]:
                open_requests[request] = steps[-1]
        else:
            open_requests.pop(request, steps[-1]).messages.append(message)
    return steps


# -- comparing ------------------------------------------------------------------
def comparable(frames: list[bytes], pool_bytes: int) -> Any:
    """The result of one answer with run-dependent values mapped, or its exact bytes in words."""
    if len(frames) == 2:
        return NIL
    plain = decode(frames[2])
    if frames[1] == PEER_LOOKUP:
        return "<lookup id>"
    mapped = _mapped(plain, pool_bytes)
    exact = mapped == plain and encode(plain) != frames[2]
    return {"bytes": frames[2].hex(), "value": mapped} if exact else mapped


def _mapped(value: Any, pool_bytes: int) -> Any:
    if isinstance(value, list):
        return [_mapped(v, pool_bytes) for v in value]
    if not isinstance(value, dict):
        return value
    out = {k: _mapped(v, pool_bytes) for k, v in value.items()}
    size = value.get("length", value.get("size"))
    if "offset" in value and value["offset"] >= 0:
        inside = value["offset"] % ALIGNMENT == 0 and value["offset"] + size <= pool_bytes
        out["offset"] = "<in the pool>" if inside else f"<outside the pool: {value['offset']}>"
    if value.get("shm_name"):
        out["shm_name"] = "<pool>"
    if "incarnation" in value:
        out["incarnation"] = "<incarnation>"
    if value.get("error"):
        out["error"] = "<text>"
    if value.get("data"):
        out["data"] = _tensors(value["data"])
    return out


def _tensors(pickled: bytes) -> list[Any]:
    """The chunks inside an answer of the pickle fallback."""
    return [[str(t.dtype), list(t.shape), t.contiguous().flatten().tolist()] for t in pickle.loads(pickled)]


@dataclass(frozen=True)
class Batch:
    """A batch of events in short form, equal to any batch with the same content."""

    next_cursor: int
    events: tuple[str, ...] = ()
    lost: bool = False

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Batch:
        words = tuple(f"{e['seq']}: {len(e['block_hashes'])} {e['kind']}" for e in answer["events"])
        return cls(answer["next_cursor"], words, answer["lost"])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, dict) and "events" in other:
            other = Batch.of(other)
        mine = (self.next_cursor, self.events, self.lost)
        return isinstance(other, Batch) and mine == (other.next_cursor, other.events, other.lost)

    __hash__ = None  # type: ignore[assignment]


# -- replaying --------------------------------------------------------------------
class Replay:
    """One pass over a recording against a running server."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._clients: dict[int, RawConnection] = {}
        self._asked: dict[int, set[tuple[bytes, bytes]]] = defaultdict(set)
        self._segments: set[Path] = set()
        self._peer_lookups: list[bytes] = []  # by recorded id: ids count from 0 there
        self.pool_bytes = int(server.l1_gib * 2**30)

    def close(self) -> None:
        for connection in self._clients.values():
            connection.close()
        for segment in self._segments:
            segment.unlink(missing_ok=True)

    def step(self, step: Step, answers_expected: int | None = None) -> Outcome:
        """Send what the step sends; collect its answers.

        ``answers_expected`` is given where we know to differ from the recording: then nothing
        is awaited before everything was sent.
        """
        received: list[Message] = []
        for message in step.messages:
            if message.sent:
                self._send(message)
            elif answers_expected is None:
                received += self._take(message.client, ANSWER_S)
        if answers_expected is not None:
            received += self._gather(answers_expected)
        if len(received) == 0 or answers_expected is not None:
            received += self._gather(1, SILENCE_S)
        for message in received:
            self._check_echo(step, message)
            if message.frames[1] == PEER_LOOKUP:
                self._peer_lookups.append(message.frames[2])
        return Outcome.of(received, self.pool_bytes)

    def _send(self, message: Message) -> None:
        if message.client not in self._clients:
            self._clients[message.client] = self._server.connection()
        if len(message.frames) > 1 and message.frames[1]:
            self._asked[message.client].add((message.frames[0], message.frames[1]))
        self._provide_segments(message)
        self._clients[message.client].send_frames(*self._with_our_ids(message.frames))

    def _with_our_ids(self, frames: list[bytes]) -> list[bytes]:
        """Replace the recorded id of a peer lookup by the id of this run."""
        recorded = decode(frames[2]) if frames[1:2] == [PEER_RESULTS] else None
        known = isinstance(recorded, int) and recorded < len(self._peer_lookups)
        return [*frames[:2], self._peer_lookups[recorded]] if known else frames

    def _provide_segments(self, message: Message) -> None:
        """An empty file in place of the client's shared memory that the recorded handles name."""
        if message.frames[1:2] != [encode(OPERATIONS["register_kv_cache"])]:
            return
        for handle in decode(message.frames[3]):
            described = decode(handle.data)
            path = Path("/dev/shm") / described["shm_name"].lstrip("/")
            if path.name:
                path.touch(mode=0o600)
                os.truncate(path, described["nbytes"])
                self._segments.add(path)

    def _take(self, client: int, timeout_s: float) -> list[Message]:
        frames = self._clients[client].poll(timeout_s) if client in self._clients else None
        return [] if frames is None else [Message(client, False, frames)]

    def _gather(self, count: int, timeout_s: float = ANSWER_S) -> list[Message]:
        received: list[Message] = []
        deadline = time.monotonic() + timeout_s
        while len(received) < count and time.monotonic() < deadline:
            for client in self._clients:
                received += self._take(client, 0.01)
        return received

    def _check_echo(self, step: Step, message: Message) -> None:
        echoed = (message.frames[0], message.frames[1])
        assert echoed in self._asked[message.client], (
            f"step {step.number} ({step.note}): client {message.client} got an answer to"
            f" {[f.hex() for f in echoed]}, which it never asked"
        )


def describe(outcome: Outcome) -> str:
    if not outcome.answers:
        return "silence"
    return " then ".join(_short(a) for a in outcome.answers)


def _short(answer: Any) -> str:
    if isinstance(answer, dict) and "events" in answer:
        answer = Batch.of(answer)
    text = answer if isinstance(answer, str) else repr(answer)
    return text if len(text) < 400 else text[:400] + "..."


__all__ = ["NIL", "Batch", "Outcome", "Recording", "Replay", "Step", "comparable", "describe", "load"]
