"""HTTP: probes, version and metrics, also through the stock command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.process import ServerProcess, eventually
from support.stock import Worker, fresh_request


def test_root(server: ServerProcess) -> None:
    answer = server.http("/")
    assert answer.status == 200
    assert json.loads(answer.body)["status"] == "ok"


def test_healthcheck(server: ServerProcess) -> None:
    answer = server.http("/healthcheck")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "healthy"})
    assert answer.content_type.startswith("application/json")


@pytest.mark.ours
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes(server: ServerProcess, path: str) -> None:
    assert server.http(path).status == 200


def test_version_is_a_json_string_with_the_emulated_level(server: ServerProcess) -> None:
    version = json.loads(server.http("/version").body)
    assert isinstance(version, str) and version.startswith("0.5.6"), f"expected 0.5.6-..., got {version!r}"


@pytest.mark.ours
def test_unknown_paths_and_methods(server: ServerProcess) -> None:
    assert server.http("/no/such/path").status == 404
    assert server.http("/healthcheck", method="DELETE").status == 405


def test_metrics_are_prometheus_text(server: ServerProcess) -> None:
    answer = server.http("/metrics")
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain")


FROM_THE_FIRST_SCRAPE = [
    "lmcache_mp_l1_memory_usage_bytes", "lmcache_mp_l1_usage_ratio", "lmcache_mp_l1_staging_bytes",
    "lmcache_mp_l1_read_chunks_total", "lmcache_mp_l1_write_chunks_total", "lmcache_mp_l1_evicted_chunks_total",
    "lmcache_mp_workers", "lmcache_mp_sessions", "lmcache_mp_connections",
]  # fmt: skip


@pytest.mark.ours
@pytest.mark.parametrize("name", FROM_THE_FIRST_SCRAPE)
def test_metrics_exist_from_the_first_scrape(start: Any, name: str) -> None:
    server = start()
    eventually(lambda: server.metric(name) == 0, f"{name} to be 0 on an idle server", timeout_s=3)


@pytest.mark.ours
def test_metrics_count_what_happened(server: ServerProcess, worker: Worker, tokens: list[int]) -> None:
    before = server.metrics()

    def gained(name: str) -> float:
        return sum(v - before.get(k, 0) for k, v in server.metrics().items() if k.split("{")[0] == name)

    worker.store(tokens)
    request = fresh_request()
    worker.lookup(tokens, request)
    worker.retrieve(tokens, request)
    worker.end(request)
    assert gained("lmcache_mp_l1_write_chunks_total") == 4
    assert gained("lmcache_mp_l1_read_chunks_total") == 4
    assert gained("lmcache_mp_lookups_requests_total") == 1
    assert gained("lmcache_mp_lookup_requested_tokens_total") == 64
    assert gained("lmcache_mp_lookup_hit_tokens_total") == 64
    assert gained("lmcache_mp_l1_memory_usage_bytes") == 4 * 4096, "four chunks, each rounded up to the alignment"
