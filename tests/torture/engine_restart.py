"""The server killed and restarted under a live vLLM: same outputs, and hits come back.

Killed between rounds, nothing is in flight: the worker gets "false" for its next ping, registers
again at the one after, and stores. That is the outage we answer for. Killed at the start of a
round, a request may be lost with the process; the stock client then waits out its own
``mq_timeout``, whatever the server does, so this outage is only reported.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import vllm_e2e
from live_engine import EngineDied, LiveEngine, Round
from report import Report
from support.process import ServerProcess

HEARTBEAT_S = 2.0
MQ_TIMEOUT_S = 5.0
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
                                heartbeat_interval_s=HEARTBEAT_S, mq_timeout_s=MQ_TIMEOUT_S,
                                prompts=PROMPTS)  # fmt: skip
            with engine:
                try:
                    _restart_under_load(engine.wait_ready(), server, restarts, report)
                except EngineDied as error:
                    report.problems.append(f"the engine died: {error}")
            server.assert_healthy()
    return report


def _restart_under_load(engine: LiveEngine, server: ServerProcess, restarts: int, report: Report) -> None:
    computed = engine.generate()
    report.require(not any(computed.cached), f"the first round: expected nothing cached, got {computed.cached}")
    _until_hits(engine, computed, report)
    outages: dict[str, list[float]] = {"between rounds": [], "at the start of a round": []}
    for number in range(restarts):
        when = list(outages)[number % 2]
        if when == "at the start of a round":
            engine.begin()
        killed_at = time.monotonic()
        server.restart()
        if when == "at the start of a round":
            _same(engine.finish(), computed, report)
        outages[when].append(_until_hits(engine, computed, report) - killed_at)
    for when, seconds in outages.items():
        report.counters[f"killed {when}, seconds without hits"] = ", ".join(f"{s:.2f}" for s in seconds)
    report.counters["target (s)"] = TARGET_S
    for outage in outages["between rounds"]:
        report.require(outage < LIMIT_S, f"hits were back only after {outage:.1f} s")


def _until_hits(engine: LiveEngine, computed: Round, report: Report) -> float:
    """Generate until every prompt is served from the cache; returns the time of that."""
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
