"""Recorded conversations, replayed: the same frames in, the same frames out.

``golden_differences`` lists the intended differences, with reasons. The table is
exact: a difference that it does not list fails, and so does a listed one that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from golden_differences import DIFFERENCES, Difference
from support.golden import Outcome, Recording, Replay, Step, describe, load
from support.process import REFERENCE, ServerProcess

RECORDINGS = [
    "frames_operations.json",
    "frames_operations_pickle.json",
    "frames_optional_operations.json",
    "frames_scenarios.json",
    "frames_vllm_engine_driven_shm.json",
    "frames_vllm_prefix_caching.json",
    "frames_vllm_lmcache_driven_cpu_shm.json",
    "frames_vllm_kv_events.json",
]


def check(step: Step, outcome: Outcome, recorded: Outcome, known: Difference | None) -> str | None:
    """The problem with the outcome of one step, or an empty string."""
    where = f"step {step.number} ({step.note})"
    if known is None:
        if outcome == recorded:
            return None
        return f"{where}: recorded {describe(recorded)}; got {describe(outcome)}"
    if known.note != step.note:
        return f"{where}: the table of differences calls this step {known.note!r}"
    if outcome == recorded:
        return f"{where}: listed as a difference ({known.why}), but it no longer differs: take it off the table"
    if outcome.answers != known.answers:
        return f"{where}: we meant to answer {describe(Outcome(known.answers))} ({known.why}); got {describe(outcome)}"
    return None


def replay(recording: Recording, server: ServerProcess, known: dict[int, Difference]) -> list[str]:
    run = Replay(server)
    try:
        problems = []
        for step in recording.steps:
            if step.note == "time passes" and REFERENCE:
                time.sleep(3)  # its eviction runs once a second; ours runs when space is needed
            listed = known.get(step.number)
            outcome = run.step(step, None if listed is None else len(listed.answers))
            problem = check(step, outcome, Outcome.of(step.answers, run.pool_bytes), listed)
            problems += [problem] if problem else []
        return problems
    finally:
        run.close()


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_conversation(name: str, start: Callable[..., ServerProcess]) -> None:
    recording = load(name)
    without_pool = {"shm_name": ""} if "pickle" in name else {}
    server = start(chunk_size=recording.chunk_size, **without_pool)
    known = {} if REFERENCE else DIFFERENCES.get(name, {})
    problems = replay(recording, server, known)
    server.assert_healthy()
    assert not problems, f"{name}: {len(problems)} steps differ\n" + "\n".join(problems)
