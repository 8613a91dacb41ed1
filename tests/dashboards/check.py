"""Evaluates every expression of a Grafana dashboard in a real Prometheus that scrapes a real server.

    check.py [DASHBOARD.json ...]        ours, if none is named; `prometheus` on PATH or in $PROMETHEUS_BIN

The server has every optional part on and gets some traffic: stores, hits in both tiers, evictions, failures,
two models and a tenant. Then each expression must parse and have a series. An ``or vector(0)`` at the end
is taken off first: with it anything has one. Prints a table of those that have none; for our own dashboard
that fails. LMCache's own dashboard is in its source distribution:
``examples/observability/grafana/provisioning/dashboards/lmcache.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "bench"), str(REPOSITORY / "tests/interop")]

import mpb_wire as wire  # noqa: E402
import zmq  # noqa: E402
from support.process import ServerProcess, eventually, free_port  # noqa: E402

OURS = REPOSITORY / "deploy/grafana/larder.json"
CHUNK_TOKENS = 16
CHUNKS = 64
SCRAPES = 4
# What Grafana would put in: a window that holds several scrapes.
VARIABLES = {"__rate_interval": "15s", "__interval": "5s", "__range": "15s", "__auto": "15s"}


class Traffic:
    """An engine of one model, and its requests."""

    def __init__(self, context: zmq.Context, url: str, name: str, instance: int, salt: str) -> None:
        self.client = wire.RawClient(context, url)
        self.geometry = wire.Geometry(name, layers=1, hidden=64, chunk_size=CHUNK_TOKENS)  # 4 KiB a chunk
        self.instance, self.salt, self.serial = wire.enc(instance), salt, 0
        self.factory = wire.PromptFactory(instance, CHUNKS * CHUNK_TOKENS)
        payload = self.geometry.register_payload(instance)
        self.client.call("register_kv_cache_engine_driven_context", wire.enc(payload))

    def _key(self, prompt: wire.Prompt, request_id: str, worker: int | None) -> bytes:
        key = wire.dec(wire.make_key(self.geometry.model, prompt, 0, prompt.n, request_id, worker))
        return wire.enc(key | {"cache_salt": self.salt})

    def request(self, prompt_number: int) -> int:
        """Looks a prompt up, reads the hit and stores the rest. Returns the hit in chunks."""
        self.serial += 1
        prompt, request_id = self.factory.get(prompt_number), f"{self.geometry.name}{self.serial}"
        self.client.call("lookup", self._key(prompt, request_id, None), wire.enc(1))
        hit = self.client.call("wait_prefetch_status", wire.enc(request_id), wire.enc(30.0))
        if hit:
            read = wire.make_key(self.geometry.model, prompt, 0, hit * CHUNK_TOKENS, request_id, 0)
            read = wire.enc(wire.dec(read) | {"cache_salt": self.salt})
            self.client.call("prepare_retrieve", read, self.instance)
            self.client.call("commit_retrieve", read, self.instance)
        key = self._key(prompt, request_id, 0)
        if self.client.call("prepare_store", key, self.instance)["context"]["slots"]:
            self.client.call("commit_store", key, self.instance, wire.enc(b""))
        self.client.call("end_session", wire.enc(request_id))
        return hit

    def fail(self) -> None:
        """Sends a request as an unregistered worker."""
        key = self._key(self.factory.get(0), "unknown", 0)
        self.client.call("prepare_retrieve", key, wire.enc(999))


def drive(server: ServerProcess, until: float) -> None:
    """More prompts than L1 holds, each repeatedly."""
    context = zmq.Context()
    engines = [Traffic(context, server.url, "one", 1, ""), Traffic(context, server.url, "two", 2, "tenant")]
    hits = number = 0
    while time.monotonic() < until or not hits:
        hits += sum(engine.request(number % 12) for engine in engines)
        engines[0].fail()
        number += 1
        time.sleep(0.02)
    for engine in engines:
        engine.client.close()
    context.term()


@contextmanager
def prometheus(binary: str, targets: list[str], folder: Path) -> Iterator[str]:
    """Its address, once it is ready."""
    port = free_port()
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "larder", "static_configs": [{"targets": targets}]}],
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    command = [
        binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, "prometheus has ended"
        try:
            return urllib.request.urlopen(f"{url}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    try:
        eventually(is_ready, "a prometheus that is ready", 60.0, 0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def query(url: str, expression: str) -> tuple[int, str]:
    """How many series an expression has; why it does not parse, or nothing."""
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return len(json.load(answer)["data"]["result"]), ""
    except urllib.error.HTTPError as error:
        return 0, json.load(error)["error"]


def expressions(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The title of a panel and an expression, for each query to Prometheus."""
    for panel in panels:
        for target in panel.get("targets", []):
            source = target.get("datasource") or panel.get("datasource") or {}
            if target.get("expr") and source.get("type", "prometheus") == "prometheus":
                yield panel.get("title", ""), target["expr"]
        yield from expressions(panel.get("panels", []))


def as_asked(expression: str) -> str:
    """With values for variables, and without what would always have a series."""
    for name, value in VARIABLES.items():
        expression = re.sub(rf"\$(?:{name}\b|\{{{name}(?::\w+)?\}})", value, expression)
    expression = re.sub(r"\$\{?\w+(?::\w+)?\}?", ".*", expression)
    return re.sub(r"\s+or\s+(?:on\(\)\s+)?vector\(\s*\d+\s*\)\s*$", "", expression)


def check(url: str, dashboard: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """How many expressions there are, and those without a series: panel, expression, answer."""
    found = list(expressions(json.loads(dashboard.read_text())["panels"]))
    missing = []
    for title, expression in found:
        series, problem = query(url, as_asked(expression))
        if problem or not series:
            missing.append((title, expression, problem or "no series"))
    return len(found), missing


def main() -> int:
    binary = os.environ.get("PROMETHEUS_BIN") or shutil.which("prometheus")
    if not binary:
        print("no prometheus: name one in PROMETHEUS_BIN, or run scripts/check-dashboards", file=sys.stderr)
        return 2
    dashboards = [Path(word) for word in sys.argv[1:]] or [OURS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter = {
            "type": "fs", "base_path": str(folder / "l2"), "max_capacity_gb": 0.01,
            "eviction": {"eviction_policy": "LRU", "trigger_watermark": 0.9, "eviction_ratio": 0.1},
        }  # fmt: skip
        flags = (
            "--l2-adapter", json.dumps(adapter), "--eviction-policy", "adaptive", "--l2-prefetch-policy", "adaptive",
            "--metrics-sample-rate", "1", "--record", str(folder / "record.jsonl"),
            "--coordinator-url", "http://127.0.0.1:1", "--metrics-instance-label", "--log-level", "error",
        )  # fmt: skip
        server = ServerProcess(flags=flags, chunk_size=CHUNK_TOKENS, l1_gib=0.004)
        failed = False
        with server, prometheus(binary, [f"127.0.0.1:{server.http_port}"], folder) as url:
            drive(server, time.monotonic() + 6)
            scrapes = f"count_over_time(up[1m]) >= {SCRAPES}"
            eventually(lambda: query(url, scrapes)[0], f"{SCRAPES} scrapes", 60.0, 0.5)
            for dashboard in dashboards:
                count, missing = check(url, dashboard)
                print(f"{dashboard}: {count} expressions, {count - len(missing)} with a series")
                for title, expression, problem in missing:
                    print(f"  {problem:10}  {title}: {expression}")
                failed |= bool(missing) and dashboard.resolve() == OURS
            server.assert_healthy()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
