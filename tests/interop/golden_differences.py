"""Where we answer a recorded step differently than the reference, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """Step ``note`` is answered with ``answers`` (by client, then in order); none is silence."""

    note: str
    answers: list[Any]
    why: str


DIFFERENCES: dict[str, dict[int, Difference]] = {}
