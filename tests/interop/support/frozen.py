"""A worker that is stopped in the middle of its copies: run as ``python -m support.frozen URL POOL MODEL``.

It prepares a store of prompt 1 and a retrieve of prompt 2, writes a part of each slot, and prints a line. After a line on
its standard input it writes the rest, reads, commits both, and prints the two answers.
"""

from __future__ import annotations

import mmap
import sys

from support.raw import RawConnection, key, registration

CHUNKS = 4
CHUNK_TOKENS = 16
HIDDEN = 1024
CHUNK_BYTES = 2 * CHUNK_TOKENS * HIDDEN * 2
TOKENS = CHUNKS * CHUNK_TOKENS
FILL = b"F"


def tokens(prompt: int) -> list[int]:
    return [prompt * TOKENS + i for i in range(TOKENS)]


def content(prompt: int, chunk: int) -> bytes:
    return (prompt * CHUNKS + chunk).to_bytes(4, "big") * (CHUNK_BYTES // 4)


class Copier:
    """A worker that maps the pool by itself."""

    def __init__(self, url: str, pool: str, model: str, instance: int) -> None:
        self.connection = RawConnection(url)
        self.model = model
        self.instance = instance
        described = registration(instance, model, hidden_dim_size=HIDDEN)
        assert self.connection.call("register_kv_cache_engine_driven_context", described)["shm_name"]
        with open(pool, "r+b") as file:
            self.pool = mmap.mmap(file.fileno(), 0)

    def key(self, prompt: int, request: str, worker_id: int | None = 0) -> dict:
        return key(self.model, tokens(prompt), 0, TOKENS, request, worker_id)

    def prepare_store(self, prompt: int, request: str) -> dict:
        return self.connection.call("prepare_store", self.key(prompt, request), self.instance)["context"]

    def commit_store(self, prompt: int, request: str) -> bool:
        return self.connection.call("commit_store", self.key(prompt, request), self.instance, b"")

    def store(self, prompt: int, request: str) -> int:
        """Stores what is missing of a prompt; how many chunks."""
        context = self.prepare_store(prompt, request)
        for slot, chunk in zip(context["slots"], context["chunk_indices"], strict=True):
            self.write(slot, content(prompt, chunk))
        assert not context["slots"] or self.commit_store(prompt, request) is True
        return len(context["slots"])

    def write(self, slot: dict, content: bytes) -> None:
        self.pool[slot["offset"] : slot["offset"] + len(content)] = content

    def prepare_retrieve(self, prompt: int, request: str) -> list[dict]:
        """The slots of a prompt's chunks, as far as they are a hit."""
        self.connection.call("lookup", self.key(prompt, request, None), 1)
        hit = self.connection.call("wait_prefetch_status", request, 5.0)
        if not hit:
            return []
        found = key(self.model, tokens(prompt), 0, hit * CHUNK_TOKENS, request)
        answer = self.connection.call("prepare_retrieve", found, self.instance)
        assert answer["success"] is True, "prepare_retrieve after a hit: expected success"
        return answer["context"]["slots"]

    def read(self, prompt: int, request: str) -> list[bytes]:
        slots = self.prepare_retrieve(prompt, request)
        found = [self.pool[s["offset"] : s["offset"] + s["length"]] for s in slots]
        self.connection.call("end_session", request)
        return found


def main() -> None:
    url, pool, model = sys.argv[1:]
    worker = Copier(url, pool, model, 7)
    slots = worker.prepare_store(1, "late-store")["slots"]
    for slot in slots:
        worker.write(slot, FILL * (CHUNK_BYTES // 2))
    read = worker.prepare_retrieve(2, "late-read")
    print(len(slots), len(read), flush=True)
    sys.stdin.readline()
    for slot in slots:
        worker.write(slot, FILL * CHUNK_BYTES)
    late = key(model, tokens(2), 0, TOKENS, "late-read")
    print(worker.commit_store(1, "late-store"), worker.connection.call("commit_retrieve", late, 7), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
