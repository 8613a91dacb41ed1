#!/usr/bin/env python3
"""Torture a server: clients killed, garbage sent, the server itself killed under vLLM.

Bounded, and it prints what it counted. Exit status 0 only if nothing went wrong.
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


def parts(args: argparse.Namespace) -> dict[str, Callable[[], Report]]:
    import engine_restart
    import garbage
    import kills

    return {
        "kills": lambda: kills.run(30 if args.short else args.kills, args.seed),
        "garbage": lambda: garbage.run(5.0 if args.short else 60.0, args.seed),
        "engine": lambda: engine_restart.run(2 if args.short else 10),
    }


def carry_out(name: str, part: Callable[[], Report]) -> Report:
    """A part that breaks off is a part that failed."""
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return Report(name, problems=[f"{type(error).__name__}: {error}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the version that 'make test' runs")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("kills", "garbage", "engine"), help="one part alone")
    args = parser.parse_args()
    reports = []
    for name, part in parts(args).items():
        if args.only in (None, name):
            reports.append(carry_out(name, part))
            reports[-1].show()
    failed = sum(bool(r.problems) for r in reports)
    print(f"\ntorture: {len(reports) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
