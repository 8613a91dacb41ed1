"""Clients of the torture: they store and retrieve shared prompts and check every byte.

All clients draw from one small set of prompts, so that they write what others read and the
pool keeps evicting. Payload bytes follow from (prompt, chunk), and a byte that differs is a
``WrongBytes``, never a miss. Copies pause at random, so that a kill or an eviction finds them
half done.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import dataclass

import mpb_wire as wire
import zmq

CHUNK_TOKENS = 16
CHUNKS = 6
PROMPTS = 96
POOL_GIB = 0.03125  # 32 MiB: about half of what the prompts would take

GEOMETRY = wire.Geometry("torture", layers=1, hidden=1024, chunk_size=CHUNK_TOKENS)  # 64 KiB a chunk
DATA = wire.DataPool(size=8 << 20)
PROMPT_SET = [wire.make_prompt(seed, CHUNKS * CHUNK_TOKENS) for seed in range(PROMPTS)]


class WrongBytes(AssertionError):
    """A retrieve returned bytes that were never stored under that key."""


@dataclass
class Counts:
    stores: int = 0
    chunks_stored: int = 0
    lookups: int = 0
    hits: int = 0
    chunks_verified: int = 0
    slowest_ms: int = 0

    def __add__(self, other: Counts) -> Counts:
        both = Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))
        both.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        return both


class Client:
    """One engine worker over a raw socket.

    ``pause_s`` stretches its copies, ``wait_s`` is how long it waits for the answer to a lookup.
    """

    def __init__(
        self, url: str, pause_s: float, seed: int, *, wait_s: float = 10.0, geometry: wire.Geometry = GEOMETRY
    ) -> None:
        self.rng = random.Random(seed)
        self.pause_s = pause_s
        self.wait_s = wait_s
        self.geometry = geometry
        self.counts = Counts()
        instance = os.getpid() << 20 | self.rng.getrandbits(20)
        self.worker = wire.RawWorker(wire.RawClient(zmq.Context(), url), geometry, instance, DATA)
        self.instance = wire.enc(instance)
        self._requests = (f"{os.getpid()}-{seed}-{i}" for i in itertools.count())

    def one_operation(self) -> None:
        prompt = min(self.rng.randrange(PROMPTS), self.rng.randrange(PROMPTS))  # low ones are hot
        began = time.monotonic()
        if self.rng.random() < 0.4:
            self.store(prompt)
        else:
            self.read(prompt)
        self.counts.slowest_ms = max(self.counts.slowest_ms, round(1e3 * (time.monotonic() - began)))

    def _pause(self) -> None:
        if self.pause_s:
            time.sleep(self.rng.random() * self.pause_s)

    def _key(self, prompt: int, chunks: int, request: str, worker_id: int | None = 0) -> bytes:
        return wire.make_key(self.geometry.model, PROMPT_SET[prompt], 0, chunks * CHUNK_TOKENS, request, worker_id)

    def store(self, prompt: int) -> int:
        """Store the missing chunks; returns how many."""
        key, slots = self.prepare(prompt)
        if slots:
            wire.check(self.worker.c.call("commit_store", key, self.instance, wire.enc(b"")) is True,
                       "commit_store of a store this client had prepared: expected true")  # fmt: skip
            self.counts.chunks_stored += slots
        return slots

    def prepare(self, prompt: int) -> tuple[bytes, int]:
        """Reserve and fill the missing chunks; returns the key to commit and how many."""
        key = self._key(prompt, CHUNKS, next(self._requests))
        context = self.worker.c.call("prepare_store", key, self.instance)["context"]
        self.counts.stores += 1
        for slot, chunk in zip(context["slots"], context["chunk_indices"], strict=True):
            self._pause()
            self._write(slot, prompt, chunk)
        return key, len(context["slots"])

    def _write(self, slot: dict, prompt: int, chunk: int) -> None:
        """Two halves with a pause between: half a chunk is what a kill leaves behind."""
        half = self.geometry.object_bytes // 2
        source = DATA.chunk_addr(prompt, chunk, self.geometry.object_bytes)
        target = self.worker.shm.addr + slot["offset"]
        wire.memcpy(target, source, half)
        self._pause()
        wire.memcpy(target + half, source + half, half)

    def read(self, prompt: int) -> int:
        """Look a prompt up and read the hit, comparing every byte; returns how many chunks."""
        request = next(self._requests)
        call = self.worker.c.call
        call("lookup", self._key(prompt, CHUNKS, request, None), wire.enc(1))
        hit = call("wait_prefetch_status", wire.enc(request), wire.enc(self.wait_s), timeout_s=self.wait_s + 5)
        self.counts.lookups += 1
        wire.check(isinstance(hit, int) and 0 <= hit <= CHUNKS, f"wait_prefetch_status: {hit!r} of {CHUNKS} chunks")
        if hit:
            self._retrieve(prompt, hit, request)
        call("end_session", wire.enc(request))
        return hit

    def _retrieve(self, prompt: int, hit: int, request: str) -> None:
        key = self._key(prompt, hit, request)
        answer = self.worker.c.call("prepare_retrieve", key, self.instance)
        wire.check(answer["success"] is True, "prepare_retrieve after a hit: expected success")
        self.counts.hits += 1
        size = self.geometry.object_bytes
        for chunk, slot in enumerate(answer["context"]["slots"]):
            self._pause()
            if not wire.mem_equal(self.worker.shm.addr + slot["offset"], DATA.chunk_addr(prompt, chunk, size), size):
                raise WrongBytes(f"prompt {prompt}, chunk {chunk}: bytes differ from what was stored")
            self.counts.chunks_verified += 1
        wire.check(self.worker.c.call("commit_retrieve", key, self.instance) is True, "commit_retrieve: expected true")

    def close(self) -> None:
        self.worker.c.call("unregister_kv_cache_engine_driven_context", self.instance)
        self.worker.c.close()
        self.worker.shm.close()


def victim(url: str, seed: int, ready: object) -> None:
    """Run until killed. Exits only after wrong bytes (3) or a wrong answer (4)."""
    try:
        client = Client(url, pause_s=0.002, seed=seed)
        ready.release()
        while True:
            client.one_operation()
    except WrongBytes as error:
        print(error, flush=True)
        os._exit(3)
    except Exception as error:  # the parent reports it
        print(f"victim: {type(error).__name__}: {error}", flush=True)
        os._exit(4)


def verifier(url: str, seed: int, stop: object, results: object, pause_s: float = 0.0005) -> None:
    """Store and read until `stop` is set, then report the counts or the first error."""
    client = None
    try:
        client = Client(url, pause_s, seed)
        while not stop.is_set():
            client.one_operation()
        client.close()
        results.put((client.counts, None))
    except Exception as error:  # the parent reports it
        counts = client.counts if client else Counts()
        results.put((counts, f"{type(error).__name__}: {error}"))
