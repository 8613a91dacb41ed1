"""L2 reads of the prefetch policies: the same prompts in several rounds, from an empty L1.

The server counts the objects that it read from L2. Under `default` an object is removed from L1
with its last reader and is read again in each round; under `retain` it is read once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_request, prompt, stock_client

pytestmark = pytest.mark.ours

PROMPTS, CHUNKS, ROUNDS = 5, 3, 3
OBJECTS = PROMPTS * CHUNKS
MODEL = "rounds"
PROMPT_SET = [prompt(700_000 + n, CHUNKS * 16) for n in range(PROMPTS)]

LOADED = "lmcache_mp_l2_prefetch_load_completed_chunks_total"
STORED = "lmcache_mp_l2_store_completed_objects_chunks_total"


def flags(directory: Path, policy: str) -> tuple[str, ...]:
    adapter = json.dumps({"type": "fs", "base_path": str(directory)})
    return ("--l2-adapter", adapter, "--l2-prefetch-policy", policy)


def read_a_round(worker: Worker) -> None:
    for tokens in PROMPT_SET:
        request = fresh_request()
        assert worker.lookup(tokens, request) == CHUNKS
        assert worker.retrieve(tokens, request) == CHUNKS
        worker.end(request)


def test_three_rounds_over_fifteen_chunks(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    filler = start(flags=flags(tmp_path, "default"))
    worker = Worker(stock_client(filler.url), MODEL).register()
    for tokens in PROMPT_SET:
        worker.store(tokens)
    eventually(lambda: filler.metric(STORED) == OBJECTS, f"{OBJECTS} objects stored in L2")

    # All servers run to the end: one that stops can leave the stock client's only polling thread stuck.
    for policy, loads in (("default", [15, 30, 45]), ("retain", [15, 15, 15])):
        server = start(flags=flags(tmp_path, policy), l1_gib=1)
        reader = Worker(stock_client(server.url), MODEL).register()
        loaded = []
        for _ in range(ROUNDS):
            read_a_round(reader)
            loaded.append(int(server.metric(LOADED)))
        assert loaded == loads, f"objects read from L2 after each round under {policy}"
        assert server.metric("lmcache_mp_l2_load_failure_chunks_total") == 0
        assert server.metric(STORED) == 0, "what came from L2: expected never to be stored there again"
        reader.close()
        server.assert_healthy()
    worker.close()
