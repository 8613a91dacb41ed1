"""The reference's own command line against the server: ping, describe, clear."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.process import ServerProcess
from support.stock import Worker


def stock(*words: str) -> str:
    """What ``lmcache WORDS`` prints. Each call takes seconds: it imports torch first."""
    command = [str(Path(sys.executable).parent / "lmcache"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.http_port}"


def test_ping(server: ServerProcess) -> None:
    assert "OK" in stock("ping", "kvcache", "--url", url(server))


def test_describe_shows_the_model_the_policy_and_the_objects(
    server: ServerProcess, worker: Worker, tokens: list[int]
) -> None:
    worker.store(tokens)
    shown = json.loads(stock("describe", "kvcache", "--url", url(server), "--format", "json"))
    text = json.dumps(shown)
    assert worker.model in text, f"the model of the registered worker in {text}"
    assert "LRU" in text, f"the eviction policy in {text}"
    assert "MPCacheServer" in text, f"the engine type in {text}"


@pytest.mark.ours
def test_clear_empties_l1(server: ServerProcess, worker: Worker, tokens: list[int]) -> None:
    worker.store(tokens)
    assert server.metric("lmcache_mp_l1_objects") > 0
    stock("kvcache", "clear", "--url", url(server))
    assert server.metric("lmcache_mp_l1_objects") == 0
