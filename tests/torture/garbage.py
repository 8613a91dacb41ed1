"""Connections that send invalid data at every layer while a correct client is served."""

from __future__ import annotations

import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import traffic
import zmq
from report import Report
from support.process import ServerProcess
from support.raw import OPERATIONS, encode, key, registration

CONNECTIONS = 64
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x29\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER" + b"\x08Identity" + bytes(4)
RSS_GROWTH_MIB = 256
SLOWEST_MS = 2000

# Left out: legal requests that delete what the correct client stored.
_FORBIDDEN_NAMES = ("clear", "unregister_kv_cache_engine_driven_context")
_FORBIDDEN = {OPERATIONS[name] for name in _FORBIDDEN_NAMES}


def _deletes(frames: list[bytes]) -> bool:
    """Whether damage has turned a request into one of those: a lost frame moves the next one up."""
    try:
        operation = msgspec.msgpack.decode(frames[1])
    except (IndexError, ValueError, msgspec.MsgspecError):
        return False
    return any(operation == forbidden for forbidden in (*_FORBIDDEN, *_FORBIDDEN_NAMES))


class Fuzz:
    """Random bytes, frames and values."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def stream(self) -> bytes:
        """Bytes for a fresh TCP connection: from random to almost valid."""
        kind = self.rng.randrange(5)
        if kind == 0:
            return self.rng.randbytes(self.rng.randrange(1, 2000))
        if kind == 1:
            return GREETING[: self.rng.randrange(len(GREETING))]
        if kind == 2:
            return GREETING + self.rng.randbytes(self.rng.randrange(500))
        if kind == 3:
            return GREETING + self._mutated(READY)
        return GREETING + READY + b"".join(self._frame() for _ in range(self.rng.randrange(1, 30)))

    def _mutated(self, data: bytes) -> bytes:
        raw = bytearray(data)
        for _ in range(self.rng.randrange(1, 4)):
            raw[self.rng.randrange(len(raw))] = self.rng.randrange(256)
        return bytes(raw)

    def _frame(self) -> bytes:
        body = self.rng.randbytes(self.rng.randrange(300))
        flags = self.rng.choice((0, 1, 1, 1, 4, 6, self.rng.randrange(256)))
        if flags & 2:
            return bytes([flags]) + len(body).to_bytes(8, "big") + body
        return bytes([flags, len(body) & 255]) + body[:255]

    def request(self) -> list[bytes]:
        """Frames for an established connection: any operation, payloads with small errors."""
        while _deletes(frames := self._request()):
            pass
        return frames

    def _request(self) -> list[bytes]:
        frames = [encode(self.rng.getrandbits(20)), encode(self.rng.randrange(-1, 45))]
        frames += [self._payload() for _ in range(self.rng.randrange(6))]
        if self.rng.random() < 0.1:
            del frames[self.rng.randrange(len(frames))]
        return frames

    def _payload(self) -> bytes:
        raw = encode(self.rng.choice((self._key, self._registration, self._value))())
        return self._mutated(raw) if self.rng.random() < 0.2 else raw

    def _key(self) -> dict[str, Any]:
        tokens = [self.rng.getrandbits(16) for _ in range(64)]
        return self._damaged(key("garbage", tokens, 0, 64, f"g{self.rng.randrange(20)}", self.rng.choice((0, None))))

    def _registration(self) -> dict[str, Any]:
        return self._damaged(registration(self.rng.randrange(20), "garbage"))

    def _damaged(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self.rng.random() < 0.6:
            fields[self.rng.choice(list(fields))] = self._value()
        return fields

    def _value(self, depth: int = 0) -> Any:
        kind = self.rng.randrange(8 if depth < 4 else 6)
        if kind == 0:
            return self.rng.choice((0, 1, -1, 7, 2**31, 2**63 - 1, -(2**63), 2**64 - 1))
        if kind == 1:
            return self.rng.choice((None, True, False, 0.5, float("nan"), float("inf")))
        if kind == 2:
            return self.rng.randbytes(self.rng.randrange(40))
        if kind == 3:
            return "x" * self.rng.randrange(300)
        if kind == 4:
            return self.rng.randrange(30)
        if kind == 5:
            return msgspec.msgpack.Ext(self.rng.randrange(-128, 128), self.rng.randbytes(self.rng.randrange(30)))
        if kind == 6:
            return [self._value(depth + 1) for _ in range(self.rng.randrange(5))]
        return {self.rng.choice(("a", "offset", "end", "shapes")): self._value(depth + 1) for _ in range(3)}


def _bytes_sender(server: ServerProcess, fuzz: Fuzz, stop: threading.Event, sent: list[int]) -> None:
    """Repeatedly open a connection, send an invalid stream and close."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=2) as peer:
                peer.settimeout(0.05)
                for _ in range(fuzz.rng.randrange(1, 4)):
                    peer.sendall(fuzz.stream())
                    sent[0] += 1
                peer.recv(65536)
        except OSError:
            pass  # refused, closed and silent are all acceptable


def _request_sender(server: ServerProcess, fuzz: Fuzz, stop: threading.Event, sent: list[int]) -> None:
    """Send damaged requests over a valid connection, and read the answers."""
    with server.connection() as connection:
        while not stop.is_set():
            try:
                connection.socket.send_multipart(fuzz.request(), zmq.DONTWAIT)
                sent[0] += 1
            except zmq.Again:
                pass
            while connection.poll(0.001) is not None:
                pass


def run(seconds: float, seed: int) -> Report:
    report = Report(f"invalid data from {CONNECTIONS} connections")
    expected = ("WARN .*worker not served", "WARN .*half-?.open", "WARN .*refused: ")
    with ServerProcess(chunk_size=traffic.CHUNK_TOKENS, l1_gib=traffic.POOL_GIB, expected_log=expected) as server:
        fds_before, rss_before = server.open_files(), server.resident_mib()
        counts = _serve_among(server, seconds, seed, report)
        report.counters |= {f"correct client: {name}": value for name, value in vars(counts).items()}
        report.require(counts.chunks_verified > 0, "the correct client verified nothing")
        report.require(
            counts.slowest_ms < SLOWEST_MS, f"the correct client waited {counts.slowest_ms} ms for one operation"
        )
        growth = server.resident_mib() - rss_before
        report.counters["resident memory, gained (MiB)"] = round(growth)
        report.require(growth < RSS_GROWTH_MIB, f"resident memory grew by {growth:.0f} MiB")
        report.require(_settles(server, fds_before), f"{server.open_files() - fds_before} more files open than before")
        try:
            server.assert_healthy()
        except AssertionError as error:
            report.problems.append(str(error))
    return report


def _serve_among(server: ServerProcess, seconds: float, seed: int, report: Report) -> traffic.Counts:
    """Run a correct client, in its own process, among the others; return its counts."""
    context = multiprocessing.get_context("forkserver")
    done, results = context.Event(), context.Queue()
    good = context.Process(target=traffic.verifier, args=(server.url, seed, done, results, 0.0))
    good.start()
    stop = threading.Event()
    streams, requests = [0], [0]
    threads = []
    for i in range(CONNECTIONS):
        target: Callable[..., None] = _bytes_sender if i % 2 else _request_sender
        sent = streams if i % 2 else requests
        threads.append(threading.Thread(target=target, args=(server, Fuzz(seed + i), stop, sent), daemon=True))
    for thread in threads:
        thread.start()
    good.join(seconds)  # it only ends early if something is wrong
    stop.set()
    done.set()
    counts, problem = results.get(timeout=60)
    good.join(10)
    for thread in threads:
        thread.join(10)
    if problem:
        report.problems.append(f"the correct client: {problem}")
    report.counters |= {"invalid streams sent": streams[0], "damaged requests sent": requests[0]}
    return counts


def _settles(server: ServerProcess, fds_before: int, within_s: float = 40.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if server.open_files() - fds_before <= 2:
            return True
        time.sleep(0.1)
    return False
