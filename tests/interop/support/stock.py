"""The unmodified LMCache client, with the steps that the tests repeat.

Requests go through its own ``RequestClientFactory``, bytes through its own transfer
contexts. Payload bytes are derived from (prompt, chunk, rank), so that every chunk can be
checked without remembering it.
"""

from __future__ import annotations

import itertools
import os
import random
import warnings
import zlib
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
warnings.filterwarnings("ignore", message=".*writable.*")

import torch  # noqa: E402
from lmcache.v1.distributed.api import MemoryLayoutDesc  # noqa: E402
from lmcache.v1.multiprocess import transfer_context as contexts  # noqa: E402
from lmcache.v1.multiprocess.custom_types import (  # noqa: E402
    IPCCacheServerKey,
    RegisterEngineDrivenContextPayload,
)
from lmcache.v1.multiprocess.transport.factory import RequestClientFactory  # noqa: E402

ANSWER_S = 10.0

_instances = itertools.count(1)
_requests = itertools.count()
_models = itertools.count()


def fresh_instance() -> int:
    """An instance id as vLLM draws it: large, random, unlike any other."""
    return random.getrandbits(40) << 16 | next(_instances)


def fresh_request(prefix: str = "req") -> str:
    return f"{prefix}-{next(_requests)}"


def fresh_model() -> str:
    return f"model-{next(_models)}"


def prompt(seed: int, tokens: int = 64) -> list[int]:
    return [random.Random(seed).randrange(1, 128_000) for _ in range(1)] + [
        (seed * 7919 + i * 31) % 128_000 for i in range(1, tokens)
    ]


def stock_client(url: str) -> Any:
    return RequestClientFactory.create(url)


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Shape:
    """The layout one worker registers."""

    dtype: str = "float16"
    layers: int = 2
    slots: int = 16
    hidden: int = 8
    planes: int = 1

    @property
    def sizes(self) -> list[int]:
        base = [self.layers, self.slots, self.hidden]
        return base if self.planes == 1 else [self.planes, *base]

    def pattern(self, *identity: Any) -> torch.Tensor:
        """Bytes that depend on ``identity`` alone, as a tensor of this layout."""
        dtype = getattr(torch, self.dtype)
        count = torch.Size(self.sizes).numel() * torch.empty((), dtype=dtype).element_size()
        raw = random.Random(zlib.crc32(repr(identity).encode())).randbytes(count)
        return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(self.sizes)


@dataclass
class Worker:
    """A registered engine-driven worker: one KV rank of one engine."""

    client: Any
    model: str
    shape: Shape = field(default_factory=Shape)
    chunk_size: int = 16
    world_size: int = 1
    rank: int = 0
    readers: int = 1
    salt: str = ""
    instance: int = field(default_factory=fresh_instance)
    context: Any = None

    def register(self) -> Worker:
        answer = self.client.register_kv_cache_engine_driven_context(self.registration()).result(ANSWER_S)
        layout = MemoryLayoutDesc(shapes=[torch.Size(self.shape.sizes)], dtypes=[getattr(torch, self.shape.dtype)])
        metadata = contexts.EngineDrivenContextMetadata(
            layout_desc=layout, block_size=4, use_mla=self.shape.planes == 1
        )
        if self.context is not None:
            self.context.close()
        self.context = contexts.create_engine_driven_context(
            metadata, self.client, ANSWER_S, shm_name=answer.shm_name, pool_size=answer.pool_size
        )
        return self

    def registration(self, **changes: Any) -> RegisterEngineDrivenContextPayload:
        fields = dict(
            instance_id=self.instance, model_name=self.model, world_size=self.world_size, block_size=4,
            num_layers=self.shape.layers, hidden_dim_size=self.shape.hidden, dtype_str=self.shape.dtype,
            use_mla=self.shape.planes == 1, num_physical_slots=self.shape.slots,
        )  # fmt: skip
        return RegisterEngineDrivenContextPayload(**(fields | changes))

    def unregister(self) -> None:
        self.client.unregister_kv_cache_engine_driven_context(self.instance).result(ANSWER_S)

    @property
    def uses_shared_memory(self) -> bool:
        return isinstance(self.context, contexts.EngineDrivenContextShm)

    def close(self) -> None:
        if self.context is not None:
            self.context.close()

    # -- keys -------------------------------------------------------------
    def key(self, tokens: list[int], request: str, start: int = 0, end: int | None = None, **changes: Any) -> Any:
        """The worker's own key; ``worker_id=None`` makes it the scheduler's."""
        whole = len(tokens) // self.chunk_size * self.chunk_size
        fields = dict(
            model_name=self.model, world_size=self.world_size, worker_id=self.rank, token_ids=tuple(tokens),
            start=start, end=whole if end is None else end, request_id=request, cache_salt=self.salt,
            num_kv_readers=self.readers,
        )  # fmt: skip
        return IPCCacheServerKey(**(fields | changes))

    # -- storing ----------------------------------------------------------
    def expected(self, tokens: list[int], chunk: int) -> torch.Tensor:
        identity = (self.model, self.salt, self.rank, tuple(tokens[: (chunk + 1) * self.chunk_size]))
        return self.shape.pattern(identity)

    def prepare(self, tokens: list[int], request: str, start: int = 0, end: int | None = None) -> list[int]:
        """Reserve and fill, without committing; the chunk numbers that were accepted."""
        prepared = self.context.prepare_store(self.key(tokens, request, start, end), self.instance)
        assert prepared is not None, "prepare_store: expected slots from a server with a shared-memory pool"
        slots, indices = prepared
        chunks = [start // self.chunk_size + i for i in indices]
        for chunk, slot in zip(chunks, slots, strict=True):
            slot.copy_(self.expected(tokens, chunk))
        return chunks

    def commit(self, tokens: list[int], request: str, start: int = 0, end: int | None = None) -> bool:
        return self.context.commit_store(self.key(tokens, request, start, end), self.instance, [])

    def store(self, tokens: list[int], request: str | None = None, start: int = 0, end: int | None = None) -> list[int]:
        """Store a range as the stock worker does; the chunk numbers that were written."""
        request = request or fresh_request("store")
        if not self.uses_shared_memory:
            return self._store_pickled(tokens, request, start, end)
        chunks = self.prepare(tokens, request, start, end)
        if chunks:
            assert self.commit(tokens, request, start, end) is True, "commit_store: expected true"
        return chunks

    def _store_pickled(self, tokens: list[int], request: str, start: int, end: int | None) -> list[int]:
        key = self.key(tokens, request, start, end)
        assert self.context.prepare_store(key, self.instance) is None, "prepare_store: expected no slots without a pool"
        chunks = list(range(key.start // self.chunk_size, key.end // self.chunk_size))
        tensors = [self.expected(tokens, c) for c in chunks]
        assert self.context.commit_store(key, self.instance, tensors) is True, "commit_store: expected true"
        return chunks

    # -- finding and reading ----------------------------------------------
    def lookup(self, tokens: list[int], request: str, end: int | None = None, **changes: Any) -> int:
        """The scheduler's lookup and its answer in chunks."""
        key = self.key(tokens, request, 0, end, worker_id=None, **changes)
        self.client.lookup(key, 1).result(ANSWER_S)
        hit = self.client.wait_prefetch_status(request, ANSWER_S).result(2 * ANSWER_S)
        assert isinstance(hit, int), f"wait_prefetch_status: expected a number of chunks, got {hit!r}"
        return hit

    def release(self, tokens: list[int], request: str, start: int = 0, end: int | None = None) -> None:
        key = self.key(tokens, request, start, end, worker_id=None)
        self.client.free_lookup_locks(key, 1).result(ANSWER_S)

    def end(self, request: str) -> None:
        self.client.end_session(request).result(ANSWER_S)

    def try_retrieve(
        self, tokens: list[int], request: str, start: int = 0, end: int | None = None
    ) -> list[bytes] | None:
        """Retrieve a range as the stock worker does; the bytes per chunk, or None on failure."""
        key = self.key(tokens, request, start, end)
        chunks = self.context.prepare_retrieve(key, self.instance)
        copied = None if chunks is None else [as_bytes(c.clone()) for c in chunks]
        assert self.context.commit_retrieve(key, self.instance) is True, "commit_retrieve: expected true"
        return copied

    def retrieve(self, tokens: list[int], request: str, start: int = 0, end: int | None = None) -> int:
        """Retrieve a range, compare every byte, and return the number of chunks."""
        copied = self.try_retrieve(tokens, request, start, end)
        assert copied is not None, "prepare_retrieve: expected success after a hit"
        first = start // self.chunk_size
        for i, raw in enumerate(copied):
            assert raw == as_bytes(self.expected(tokens, first + i)), (
                f"chunk {first + i}: bytes differ from what was stored"
            )
        return len(copied)

    def hit(self, tokens: list[int], end: int | None = None) -> int:
        """Look up, release everything, and return the hit length in chunks."""
        request = fresh_request("hit")
        chunks = self.lookup(tokens, request, end)
        self.release(tokens, request, 0, chunks * self.chunk_size)
        self.end(request)
        return chunks
