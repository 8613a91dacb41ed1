"""The result of one part of the torture: counters and problems."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Report:
    """Counters and problems of one part."""

    title: str
    counters: dict[str, object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def require(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)

    def show(self) -> None:
        verdict = "FAILED" if self.problems else "ok"
        print(f"\n{self.title}: {verdict} in {time.monotonic() - self.began:.1f} s")
        width = max((len(name) for name in self.counters), default=0)
        for name, value in self.counters.items():
            print(f"  {name:<{width}}  {value:,}" if isinstance(value, int) else f"  {name:<{width}}  {value}")
        for problem in self.problems:
            print(f"  problem: {problem}")
