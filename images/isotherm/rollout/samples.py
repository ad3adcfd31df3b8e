"""From counters to looks: what both colours counted since the last reading, or why that cannot be said.

Counters only grow; one that is smaller than before was started again with its pod, and counts from 0 (as Prometheus'
`increase` has it). Everything else that is odd (no number, a sample that is too old, another model than the one that
is judged) makes the look a problem: it holds the verdict and adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from isotherm.rollout.judge import Look
from isotherm.rollout.sequential import Counts


@dataclass(frozen=True)
class Reading:
    """The counters of one colour: per metric (bad, total), cumulative; `at`: the time of the sample itself, in s."""

    at: float
    digest: str
    counters: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What a reading must be to count: its model's digest, and how old it may be in seconds."""

    canary: str
    stable: str
    fresh_seconds: float


def look(
    before: tuple[Reading, Reading], after: tuple[Reading | None, Reading | None], expected: Expected, now: float
) -> Look:
    """Compare two pairs of readings, canary first. Never raises on what a server may send."""
    canary, stable = after
    if canary is None or stable is None:
        return Look(problem=f"no answer about {'canary' if canary is None else 'stable'}")
    for colour, one, digest in (("canary", canary, expected.canary), ("stable", stable, expected.stable)):
        if one.digest != digest:
            return Look(problem=f"{colour} is model {one.digest[:12] or 'unknown'}, not {digest[:12]}")
        # A sample from the future is no fresh one either: one of the clocks is wrong.
        if not math.isfinite(one.at) or abs(now - one.at) > expected.fresh_seconds:
            return Look(problem=f"the last sample of {colour} is {now - one.at:.0f} s old")
    counts: dict[str, tuple[Counts, Counts]] = {}
    for name in canary.counters.keys() & stable.counters.keys():
        pair = [
            _grown(old.counters.get(name), new.counters[name]) for old, new in zip(before, after, strict=True) if new
        ]
        if None in pair:
            return Look(problem=f"{name} is no count of requests")
        counts[name] = (pair[0], pair[1])  # type: ignore[assignment]
    return Look(counts)


def _grown(before: tuple[float, float] | None, after: tuple[float, float]) -> Counts | None:
    """What a counter and its total grew by; None where they are not counts."""
    if not all(math.isfinite(value) and value >= 0 for value in after) or after[0] > after[1]:
        return None
    old = before if before and before[0] <= after[0] and before[1] <= after[1] else (0.0, 0.0)
    bad, total = round(after[0] - old[0]), round(after[1] - old[1])
    return Counts(min(bad, total), total)
