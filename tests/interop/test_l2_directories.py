"""Directories of L2 exchanged with the Python server: what one stores, the other serves.

One Python server runs beside ours, on the same three directories. Every byte is compared by the
stock client, which knows what was stored from the tokens alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.process import ServerProcess, eventually
from support.stock import Shape, Worker, fresh_request, prompt, stock_client

pytestmark = pytest.mark.ours

KINDS = {
    "fs": {"type": "fs"},
    "fs_native": {"type": "fs_native"},
    "fs_native-direct": {"type": "fs_native", "use_odirect": True},
}
CHUNKS = 3


@dataclass(frozen=True)
class Owner:
    """One rank of one model of one tenant: what the names of its files contain."""

    model: str
    shape: Shape = field(default_factory=Shape)
    world_size: int = 1
    rank: int = 0
    salt: str = ""

    def worker(self, client: Any) -> Worker:
        return Worker(
            client, self.model, self.shape, world_size=self.world_size, rank=self.rank, salt=self.salt
        ).register()


# Sizes per object: 512, 80, 5,280 and 12,288 bytes; with a block of 4,096 two of them are padded.
OWNERS = [
    Owner("plain"),
    Owner("plain", salt="tenant-a"),
    Owner("plain", salt="tenant:42 b"),
    Owner("org/odd.size-7B", Shape("int8", layers=1, hidden=5)),
    Owner("org/deep/three parts", Shape("uint8", layers=2, hidden=165)),
    *(Owner("org/sharded", Shape("bfloat16", layers=3, hidden=128), world_size=2, rank=r) for r in range(2)),
]


def adapter(kind: str, directory: Path) -> str:
    return json.dumps(KINDS[kind] | {"base_path": str(directory)})


def tokens(owner: Owner, writer: int) -> list[int]:
    """Ranks of one model share a prompt, as the ranks of one engine do."""
    ranks_first = next(i for i, o in enumerate(OWNERS) if o.model == owner.model and o.salt == owner.salt)
    return prompt(500_000 + writer * 1000 + ranks_first, CHUNKS * 16)


@contextmanager
def client_of(server: ServerProcess) -> Iterator[Any]:
    client = stock_client(server.url)
    try:
        yield client
    finally:
        client.close()


def data_files(directory: Path) -> int:
    return sum(1 for path in directory.iterdir() if path.suffix == ".data")


def store_all(server: ServerProcess, directories: list[Path], writer: int) -> None:
    """Store every owner's prompt, and wait until its files are there."""
    expected = {directory: data_files(directory) for directory in directories}
    with client_of(server) as client:
        for owner in OWNERS:
            worker = owner.worker(client)
            assert worker.store(tokens(owner, writer)) == list(range(CHUNKS))
            worker.close()
            for directory in directories:
                expected[directory] += CHUNKS
                eventually(
                    lambda d=directory: data_files(d) >= expected[d],
                    f"{CHUNKS} more files of {owner} in {directory}, then {expected[directory]} in all",
                )


def read_all(server: ServerProcess, writer: int) -> None:
    """Look up and retrieve every owner's prompt, comparing every byte."""
    with client_of(server) as client:
        workers = [(owner, owner.worker(client)) for owner in OWNERS]
        for owner, worker in workers:
            prompt_tokens, request = tokens(owner, writer), fresh_request()
            found = worker.lookup(prompt_tokens, request)
            assert found == CHUNKS, f"{owner}: {found} of {CHUNKS} chunks found in the other server's directory"
            assert worker.retrieve(prompt_tokens, request) == CHUNKS
            worker.end(request)
        for _, worker in workers:
            worker.close()


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}


PYTHON_WROTE = 0


@pytest.fixture(scope="module")
def python_server(directories: dict[str, Path]) -> Iterator[ServerProcess]:
    """The Python server over all directories, which has stored into each of them."""
    flags = [word for kind, path in directories.items() for word in ("--l2-adapter", adapter(kind, path))]
    with ServerProcess(flags=tuple(flags), reference=True) as server:
        store_all(server, list(directories.values()), PYTHON_WROTE)
        yield server


@pytest.mark.parametrize("kind", KINDS)
def test_we_serve_what_the_python_server_stored(
    python_server: ServerProcess, directories: dict[str, Path], kind: str
) -> None:
    # With `retain` a rank finds in L1 what the lookup of the other one has loaded for it.
    flags = ("--l2-adapter", adapter(kind, directories[kind]), "--l2-prefetch-policy", "retain")
    with ServerProcess(flags=flags) as ours:
        read_all(ours, PYTHON_WROTE)
        loaded = ours.metric("lmcache_mp_l2_prefetch_load_completed_chunks_total")
        assert loaded == CHUNKS * len(OWNERS), f"expected every object to come from the directory, got {loaded:.0f}"
        ours.assert_healthy()


@pytest.mark.parametrize("kind", KINDS)
def test_python_server_serves_what_we_stored(
    python_server: ServerProcess, directories: dict[str, Path], kind: str
) -> None:
    writer = 1 + list(KINDS).index(kind)
    with ServerProcess(flags=("--l2-adapter", adapter(kind, directories[kind]))) as ours:
        store_all(ours, [directories[kind]], writer)
        ours.assert_healthy()
    read_all(python_server, writer)
