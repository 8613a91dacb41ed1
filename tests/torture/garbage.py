"""Connections that send invalid data at every layer while correct clients are served."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import statistics
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import traffic
import zmq
from report import Report
from support.process import ServerProcess
from support.raw import OPERATIONS, RawConnection, encode, key, registration

# Threads that open connections and send bytes; every fourth speaks HTTP.
STREAM_SENDERS = 32
# Processes that send requests, and the connections of each.
REQUEST_SENDERS = 2
REQUEST_CONNECTIONS = 16
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


class HttpFuzz:
    """HTTP requests: valid reads, wrong methods, damaged bodies and heads, and bytes that are none."""

    PATHS = (
        "/", "/overview", "/healthcheck", "/livez", "/readyz", "/status", "/workers", "/cache/stats", "/version",
        "/config", "/config/adapters", "/cache/objects", "/cache/prefetches", "/cache/prefetches/r", "/cache/whatif",
        "/cache/checksums", "/quota", "/quota/s", "/metrics", "/env", "/threads", "/loglevel", "/nothing", "/%00",
        "/../etc/passwd", "/page/../../x", "/reconfigure/fs/l2/status",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def request(self) -> bytes:
        kind = self.rng.randrange(8)
        if kind == 0:
            return self.rng.randbytes(self.rng.randrange(1, 3000))
        method = "GET" if kind < 6 else self.rng.choice(("HEAD", "OPTIONS", "PATCH", "POST", "TRACE", "X" * 30))
        path = self.rng.choice(self.PATHS)
        if self.rng.random() < 0.3:
            path += "?" + "&".join(f"{self._word()}={self._word()}" for _ in range(self.rng.randrange(1, 6)))
        body = self._body() if method == "POST" else b""
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {self._length(body)}"]
        head += [f"{self._word()}: {self._word()}" for _ in range(self.rng.choice((0, 0, 1, 90)))]
        raw = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body
        return raw[: self.rng.randrange(len(raw))] if self.rng.random() < 0.05 else raw

    def _word(self) -> str:
        chars = self.rng.choice(("abcxyz", "0123456789-", "%00%ff%2e", "\x80\xff;,="))
        return "".join(self.rng.choice(chars) for _ in range(self.rng.choice((1, 3, 8, 300))))

    def _length(self, body: bytes) -> int | str:
        return self.rng.choice((len(body), len(body), len(body), 0, -1, 1 << 62, "x"))

    def _body(self) -> bytes:
        # Keys of nothing: what the correct clients have stored stays.
        return self.rng.choice(
            (b"", b"{}", b"[]", b'{"keys": [' + b"[" * 5000, b'{"request_id": "r", "token_ids": [1, -1, 1e9]}',
             self.rng.randbytes(self.rng.randrange(2000)))
        )  # fmt: skip


@dataclass
class Load:
    """What the senders send: for a time, or until so many requests and HTTP requests are sent."""

    seconds: float = 5.0
    requests: int = 0
    http_requests: int = 0
    sent: Counter[str] = field(default_factory=Counter)

    def is_done(self, began: float) -> bool:
        if self.requests or self.http_requests:
            return self.sent["requests"] >= self.requests and self.sent["http"] >= self.http_requests
        return time.monotonic() - began >= self.seconds


def _yield_to_measured_clients() -> None:
    """Lower the priority of this thread: what is measured is the server, not the wait for a processor."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _bytes_sender(server: ServerProcess, seed: int, stop: threading.Event, load: Load) -> None:
    """Repeatedly open a connection, send an invalid stream and close."""
    _yield_to_measured_clients()
    fuzz = Fuzz(seed)
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=2) as peer:
                peer.settimeout(0.05)
                for _ in range(fuzz.rng.randrange(1, 4)):
                    peer.sendall(fuzz.stream())
                    load.sent["streams"] += 1
                peer.recv(65536)
        except OSError:
            pass  # refused, closed and silent are all acceptable


def _request_sender(url: str, seed: int, stop: Any, sent: Any) -> None:
    """Send damaged requests over several valid connections in turn, and read the answers."""
    _yield_to_measured_clients()
    fuzz = Fuzz(seed)
    with ExitStack() as opened:
        connections = [opened.enter_context(RawConnection(url)) for _ in range(REQUEST_CONNECTIONS)]
        while not stop.is_set():
            for connection in connections:
                for _ in range(16):
                    try:
                        connection.socket.send_multipart(fuzz.request(), zmq.DONTWAIT)
                        sent.value += 1
                    except zmq.Again:
                        break
                while connection.poll(0) is not None:
                    pass


def _http_sender(server: ServerProcess, seed: int, stop: threading.Event, load: Load) -> None:
    """Send HTTP requests, valid and not, several over one connection where the server keeps it open."""
    _yield_to_measured_clients()
    fuzz = HttpFuzz(seed)
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.http_port), timeout=2) as peer:
                peer.settimeout(0.2)
                for _ in range(fuzz.rng.randrange(1, 6)):
                    peer.sendall(fuzz.request())
                    load.sent["http"] += 1
                    if not peer.recv(1 << 20):
                        break
        except OSError:
            pass


def _prober(url: str, stop: Any, results: Any) -> None:
    """Another engine's scheduler: the time of each of its calls in ms."""
    times: list[float] = []
    try:
        with RawConnection(url) as connection:
            tokens = list(range(64))
            calls = 0
            while not stop.is_set():
                calls += 1
                request = f"probe-{calls}"
                for call in (
                    ("ping", None),
                    ("lookup", key("probe", tokens, 0, 64, request, None), 1),
                    ("query_prefetch_status", request),
                    ("end_session", request),
                ):
                    began = time.perf_counter()
                    connection.call(*call)
                    times.append(1e3 * (time.perf_counter() - began))
                time.sleep(0.005)
        results.put((times, None))
    except Exception as error:  # the parent reports it
        results.put((times, f"{type(error).__name__}: {error}"))


def run(load: Load, seed: int) -> Report:
    report = Report("invalid data from many connections")
    expected = ("WARN .*worker not served", "WARN .*client not served", "WARN .*half-?.open", "WARN .*refused: ")
    with ServerProcess(chunk_size=traffic.CHUNK_TOKENS, l1_gib=traffic.POOL_GIB, expected_log=expected) as server:
        fds_before, rss_before = server.open_files(), server.resident_mib()
        counts = _serve_among(server, load, seed, report)
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


def _serve_among(server: ServerProcess, load: Load, seed: int, report: Report) -> traffic.Counts:
    """Run correct clients, each in its own process, among the others; return the counts of the one that copies."""
    context = multiprocessing.get_context("forkserver")
    done, results, probed = context.Event(), context.Queue(), context.Queue()
    good = context.Process(target=traffic.verifier, args=(server.url, seed, done, results, 0.0))
    prober = context.Process(target=_prober, args=(server.url, done, probed))
    good.start()
    prober.start()
    sent = [context.Value("Q", 0, lock=False) for _ in range(REQUEST_SENDERS)]
    senders = [
        context.Process(target=_request_sender, args=(server.url, seed + i, done, count)) for i, count in enumerate(sent)
    ]
    stop = threading.Event()
    threads = [
        threading.Thread(target=_bytes_sender if i % 4 else _http_sender, args=(server, seed + i, stop, load), daemon=True)
        for i in range(STREAM_SENDERS)
    ]
    began = time.monotonic()
    for sender in (*senders, *threads):
        sender.start()
    largest = 0.0
    while good.is_alive() and not load.is_done(began):  # it only ends early if something is wrong
        good.join(0.2)
        largest = max(largest, server.resident_mib())
        load.sent["requests"] = sum(count.value for count in sent)
    stop.set()
    done.set()
    counts, problem = results.get(timeout=60)
    times, probe_problem = probed.get(timeout=60)
    for sender in (good, prober, *senders, *threads):
        sender.join(10)
    report.problems += [f"a correct client: {p}" for p in (problem, probe_problem) if p]
    report.counters |= {f"invalid {name} sent": count for name, count in load.sent.items()}
    report.counters |= {"resident memory, largest (MiB)": round(largest), "probe calls": len(times)}
    if len(times) > 1:
        p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        report.counters["probe calls, median and p99 (ms)"] = f"{p50:.2f} {p99:.2f}"
    return counts


def _settles(server: ServerProcess, fds_before: int, within_s: float = 40.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if server.open_files() - fds_before <= 2:
            return True
        time.sleep(0.1)
    return False
