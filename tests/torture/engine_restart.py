"""The server killed and restarted under a live vLLM: same outputs, and hits come back."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import vllm_e2e
from live_engine import EngineDied, LiveEngine, Round
from report import Report
from support.process import ServerProcess

HEARTBEAT_S = 2.0
TARGET_S = 3.0
LIMIT_S = 30.0
CHUNK_TOKENS = 256
PROMPTS = 2


def run(restarts: int) -> Report:
    report = Report(f"server killed under a live vLLM ({restarts})")
    with tempfile.TemporaryDirectory(prefix="larder-torture-") as folder:
        model = str(Path(folder) / "model")
        vllm_e2e.ensure_model(model)
        with ServerProcess(chunk_size=CHUNK_TOKENS, l1_gib=0.5) as server:
            engine = LiveEngine(server.port, model, str(Path(folder) / "engine.log"),
                                heartbeat_interval_s=HEARTBEAT_S, prompts=PROMPTS)  # fmt: skip
            with engine:
                try:
                    _live_through(engine.wait_ready(), server, restarts, report)
                except EngineDied as error:
                    report.problems.append(f"the engine died: {error}")
            server.assert_healthy()
    return report


def _live_through(engine: LiveEngine, server: ServerProcess, restarts: int, report: Report) -> None:
    computed = engine.generate()
    report.require(not any(computed.cached), f"the first round: expected nothing cached, got {computed.cached}")
    _until_hits(engine, computed, report)
    outages: list[float] = []
    for _ in range(restarts):
        engine.begin()  # in the middle of a round
        killed_at = time.monotonic()
        server.restart()
        _same(engine.finish(), computed, report)
        outages.append(_until_hits(engine, computed, report) - killed_at)
    report.counters |= {
        "restarts": restarts,
        "seconds without hits": ", ".join(f"{s:.2f}" for s in outages),
        "target (s)": TARGET_S,
    }
    for outage in outages:
        report.require(outage < LIMIT_S, f"hits were back only after {outage:.1f} s")


def _until_hits(engine: LiveEngine, computed: Round, report: Report) -> float:
    """Generate until every prompt is served from the cache; when that was."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        now = engine.generate()
        _same(now, computed, report)
        if all(now.cached):
            return now.finished_at
        if time.monotonic() > deadline:
            report.problems.append(f"no hits within {LIMIT_S:.0f} s: cached tokens {now.cached}")
            return now.finished_at


def _same(now: Round, computed: Round, report: Report) -> None:
    report.require(now.tokens == computed.tokens, "an output differs from the one computed without the cache")
