"""Clients that keep storing and reading while L2 fails; each request has a deadline."""

from __future__ import annotations

import threading
import time
from typing import Any

import mpb_wire as wire
import traffic

LOOKUP_S = 32.0  # the server answers a lookup within 30 s, with what is there by then
REQUEST_S = 5.0  # nothing else waits for L2


class DeadlineMissed(AssertionError):
    """A request got no answer within its deadline."""


class Timed:
    """A raw client whose calls have deadlines."""

    def __init__(self, client: wire.RawClient) -> None:
        self.client = client
        self.slowest: dict[str, float] = {}

    def call(self, operation: str, *payloads: bytes, timeout_s: float = 0.0) -> Any:
        limit = LOOKUP_S if operation == "wait_prefetch_status" else REQUEST_S
        began = time.monotonic()
        try:
            return self.client.call(operation, *payloads, timeout_s=limit)
        except TimeoutError:
            raise DeadlineMissed(f"{operation}: no answer within {limit:.0f} s") from None
        finally:
            took = time.monotonic() - began
            self.slowest[operation] = max(self.slowest.get(operation, 0.0), took)

    def close(self) -> None:
        self.client.close()


def client_of(url: str, seed: int, pause_s: float = 0.0) -> traffic.Client:
    client = traffic.Client(url, pause_s, seed, wait_s=LOOKUP_S)
    client.worker.c = Timed(client.worker.c)
    return client


class Crowd:
    """A few clients in threads. Use as a context manager; then see ``counts``, ``problems``, ``slowest``."""

    def __init__(self, url: str, seed: int, size: int = 3) -> None:
        self.problems: list[str] = []
        self.counts = traffic.Counts()
        self.slowest: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(url, seed * 1000 + i), name=f"crowd-{i}", daemon=True)
            for i in range(size)
        ]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LOOKUP_S + 4 * REQUEST_S)
        self.problems += [f"{thread.name} is stuck" for thread in self._threads if thread.is_alive()]

    def go_on(self, seconds: float) -> None:
        """Keep them working, unless one has found a fault."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.problems:
            self._stop.wait(0.05)

    def _run(self, url: str, seed: int) -> None:
        client = client_of(url, seed, pause_s=0.001)
        try:
            while not self._stop.is_set():
                client.one_operation()
            client.close()
        except Exception as error:  # the creator of the crowd reports it
            self.problems.append(f"{type(error).__name__}: {error}")
            self._stop.set()
        with self._lock:
            self.counts += client.counts
            for operation, took in client.worker.c.slowest.items():
                self.slowest[operation] = max(self.slowest.get(operation, 0.0), took)
