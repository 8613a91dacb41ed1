#!/usr/bin/env python3
"""Torture a server: clients killed, invalid data, L2 failures, the server killed.

Prints counters. Exit status 0 only without a failure.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE), str(HERE.parent / "interop"), str(HERE.parents[1] / "bench")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)  # for the processes started from here

from report import Report  # noqa: E402


PARTS = ("kills", "garbage", "engine", "l2-faults", "l2-operations", "l2-kills", "power-cut")


def parts(args: argparse.Namespace) -> dict[str, Callable[[], Report]]:
    import engine_restart
    import garbage
    import kills
    import l2_faults
    import l2_kills
    import power_cut

    short, seed = args.short, args.seed
    found = {
        "kills": lambda: kills.run(30 if short else args.kills, seed),
        "garbage": lambda: garbage.run(garbage.Load() if short else garbage.Load(0, args.requests, args.http_requests), seed),
        "engine": lambda: engine_restart.run(2 if short else 10),
        "l2-faults": lambda: l2_faults.storage_fails(1.0 if short else 20.0, seed),
        "l2-operations": lambda: l2_faults.operations_fail(10.0 if short else 120.0, seed),
        "l2-kills": lambda: l2_kills.run(20 if short else args.kills, seed),
        "power-cut": lambda: power_cut.run(4 if short else args.power_cuts, seed),
    }
    assert tuple(found) == PARTS
    return found


def run_part(name: str, part: Callable[[], Report]) -> Report:
    """Runs a part; an exception is a failure."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return Report(name, problems=[f"{type(error).__name__}: {error}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the version that 'make test' runs")
    parser.add_argument("--kills", type=int, default=1000, help="how many clients, and how many servers, to kill")
    parser.add_argument("--power-cuts", type=int, default=200, help="losses of power for each policy and file system")
    parser.add_argument("--requests", type=int, default=2_000_000, help="how many damaged requests to send")
    parser.add_argument("--http-requests", type=int, default=100_000, help="how many HTTP requests to send meanwhile")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    args = parser.parse_args()
    reports = []
    for name, part in parts(args).items():
        if args.only in (None, name):
            reports.append(run_part(name, part))
            reports[-1].show()
    failed = sum(bool(r.problems) for r in reports)
    print(f"\ntorture: {len(reports) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
