"""`larder simulate` next to LMCache's own `lmcache tool cache-simulator`, on logs that LMCache's own logger wrote."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from lmcache.tools.cache_simulator.simulator import compute_kv_bytes_per_chunk, load_lookup_events, simulate
from lmcache.v1.mp_observability.event import Event, EventType
from lmcache.v1.mp_observability.subscribers.logging.lookup_hash import (
    LookupHashLogConfig,
    LookupHashLoggingSubscriber,
)
from support import stock
from support.process import ServerProcess
from support.stock import Worker, fresh_model, fresh_request, prompt

LARDER = os.environ.get("LARDER_BIN", "larder")
CUT = Path(__file__).parents[2] / "crates/lab/tests/traces/mooncake_cut.jsonl.gz"
CHUNK_TOKENS = 512
SHAPE, DTYPE = [2, 16, CHUNK_TOKENS, 8], "float16"
CHUNK_BYTES = 2 * 16 * CHUNK_TOKENS * 8 * 2

pytestmark = pytest.mark.ours


def prompts() -> list[tuple[int, list[int]]]:
    """Tokens and whole chunks of each request of the cut."""
    with gzip.open(CUT, "rt") as lines:
        requests = [json.loads(line) for line in lines]
    return [(r["input_length"], r["hash_ids"][: r["input_length"] // CHUNK_TOKENS]) for r in requests]


def log(folder: Path, requests: Iterable[tuple[int, list[int]]]) -> Path:
    """The log that a reference server would have written of these lookups."""
    logger = LookupHashLoggingSubscriber(LookupHashLogConfig(output_dir=str(folder)))
    write = logger.get_subscriptions()[EventType.MP_LOOKUP]
    for at, (tokens, chunks) in enumerate(requests):
        lookup = {
            "request_id": f"r{at}",
            "model_name": "m",
            "chunk_size": CHUNK_TOKENS,
            "seq_len": tokens,
            "dtypes": [DTYPE],
            "shapes": [SHAPE],
            "chunk_hashes": [chunk.to_bytes(32, "big") for chunk in chunks],
        }
        write(Event(EventType.MP_LOOKUP, timestamp=1_700_000_000.0 + at, metadata=lookup))
    logger.shutdown()
    return folder


def ours(folder: Path, chunks: list[int]) -> list[dict[str, Any]]:
    sizes = ",".join(f"{n * CHUNK_BYTES}B" for n in chunks)
    command = [LARDER, "simulate", folder, "--l1", sizes, "--l2", "0", "--l2-prefetch-policy", "default", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def theirs(folder: Path, chunks: list[int]) -> list[dict[str, Any]]:
    events = load_lookup_events([folder])
    return [simulate(events, n * CHUNK_BYTES, CHUNK_BYTES, fast=True) for n in chunks]


def test_hit_rates_are_equal_chunk_by_chunk(tmp_path: Path) -> None:
    # With one chunk per request only LRU matters, not the order within a request.
    single = [(CHUNK_TOKENS + 7, [chunk]) for _, chunks in prompts() for chunk in chunks]
    folder, sizes = log(tmp_path, single), [1, 2, 50, 300, 1000, 4000, 20_000]
    for mine, reference in zip(ours(folder, sizes), theirs(folder, sizes), strict=True):
        assert mine["requests"] == reference["total_requests"]
        assert mine["tokens"] == reference["total_tokens"]
        assert mine["l1_hits"] * CHUNK_TOKENS == reference["total_hit_tokens"]
        assert mine["l1_evictions"] == reference["eviction_count"]
        assert mine["token_hit_rate"] == pytest.approx(reference["token_hit_rate"], abs=1e-6)


def test_hit_rates_agree_on_whole_prompts(tmp_path: Path) -> None:
    requests = prompts()
    unique = len({chunk for _, chunks in requests for chunk in chunks})
    sizes = [max(1, unique * percent // 100) for percent in (3, 5, 10, 20, 40, 100)]
    folder = log(tmp_path, requests)
    for mine, reference in zip(ours(folder, sizes), theirs(folder, sizes), strict=True):
        # The reference uses a prompt from its head on and so loses the head first. We keep the head: that is
        # never worse, and worth at most this much here.
        gained = mine["token_hit_rate"] - reference["token_hit_rate"]
        assert 0.0 <= gained + 1e-6 <= 0.01, (mine, reference["token_hit_rate"])
        assert mine["tokens"] == reference["total_tokens"]
    assert gained == pytest.approx(0.0, abs=1e-6), "with space for everything no hit is lost"


def test_our_lookup_log_is_read_by_both_simulators(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    folder = tmp_path / "lookups"
    server = start(flags=("--lookup-hash-log-dir", str(folder)))
    client = stock.stock_client(server.url)
    worker, tokens = Worker(client, fresh_model()).register(), prompt(701, 70)
    for _ in range(3):
        request = fresh_request()
        worker.lookup(tokens, request)
        worker.end(request)
    client.close()
    assert server.metric("lmcache_mp_lookup_log_dropped_total") == 0
    assert server.terminate() == 0
    object_bytes = worker.shape.layers * worker.shape.slots * worker.shape.hidden * 2
    [event, *_] = events = load_lookup_events([folder])
    assert len(events) == 3 and event["model_name"] == worker.model and event["cache_salt"] == ""
    assert compute_kv_bytes_per_chunk(event) == object_bytes, "its types are those that the simulator knows"
    reference = simulate(events, 100 * object_bytes, object_bytes, fast=True)
    assert (reference["total_requests"], reference["total_hit_tokens"]) == (3, 2 * 64)
    command = [Path(sys.executable).parent / "lmcache", "tool", "cache-simulator", "simulate", "-i", folder]
    command += ["--cache-capacity-gib", "1", "-o", tmp_path / "chart.png"]
    done = subprocess.run(command, capture_output=True, timeout=240, text=True)
    # No chart: it needs matplotlib, which LMCache does not install.
    assert f"kv_bytes_per_chunk = {object_bytes:,} bytes" in done.stdout, done
    command = [LARDER, "simulate", folder, "--l1", f"{100 * object_bytes}B", "--l2", "0", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    mine = json.loads(done.stdout.splitlines()[0])
    assert mine["token_hit_rate"] == pytest.approx(reference["token_hit_rate"], abs=1e-6)


def test_two_tiers_serve_at_least_as_much_as_one(tmp_path: Path) -> None:
    folder = log(tmp_path, prompts())
    command = [LARDER, "simulate", folder, "--l1", "4%..50%/5", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    best = theirs(folder, [10**6])[0]["token_hit_rate"]
    assert {line["prefetch_policy"] for line in lines} >= {"default", "retain"}
    for line in lines:
        assert line["token_hit_rate"] == pytest.approx(best, abs=1e-6), line
        assert line["l1_hits"] + line["l2_reads"] + line["misses"] == line["chunk_accesses"]
