"""How an AnalysisRun of Argo Rollouts v1.8.3 judges a metric, and which of its settings are as sure as our judge is.

The rule is written after `analysis/analysis.go` of github.com/argoproj/argo-rollouts v1.8.3: `measured` is the switch
in `runMeasurements`, `assess` is `assessMetricStatus` with `assessMetricFailureInconclusiveOrError`; what is left of a
metric's status there are the counters here. Windows do not overlap, so the shares of wrong verdicts of a setting follow
from binomial tails: `settings` computes them for every one, no stream is drawn for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

CONSECUTIVE_ERRORS = 4  # utils/defaults: DefaultConsecutiveErrorLimit


class Phase(StrEnum):
    """Of a measurement, a metric and a run."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    ERROR = "Error"
    INCONCLUSIVE = "Inconclusive"

    @property
    def completed(self) -> bool:
        """Whether nothing comes after it."""
        return self not in (Phase.PENDING, Phase.RUNNING)


@dataclass(frozen=True)
class Limits:
    """What a metric of an AnalysisTemplate says about its end; the defaults are Argo's. No count: for ever."""

    failure: int = 0  # negative: does not apply
    inconclusive: int = 0
    consecutive_error: int = CONSECUTIVE_ERRORS
    consecutive_success: int = 0  # 0: does not apply
    count: int = 0


@dataclass(frozen=True)
class Result:
    """The counters of a metric's status, and the phase of its last measurement."""

    last: Phase | None = None
    count: int = 0
    failed: int = 0
    inconclusive: int = 0
    consecutive_error: int = 0
    consecutive_success: int = 0


def measured(before: Result, phase: Phase) -> Result:
    """Add a completed measurement. One that had an error is not counted: it is taken again."""
    if phase is Phase.ERROR:
        return replace(before, last=phase, consecutive_error=before.consecutive_error + 1, consecutive_success=0)
    return replace(
        before,
        last=phase,
        count=before.count + 1,
        failed=before.failed + (phase is Phase.FAILED),
        inconclusive=before.inconclusive + (phase is Phase.INCONCLUSIVE),
        consecutive_error=0,
        consecutive_success=before.consecutive_success + 1 if phase is Phase.SUCCESSFUL else 0,
    )


def assess(limits: Limits, result: Result, *, terminating: bool = False) -> Phase:
    """The phase of a metric after its last measurement."""
    if result.last is None:
        return Phase.SUCCESSFUL if terminating else Phase.PENDING
    if not result.last.completed:
        return Phase.RUNNING
    if result.consecutive_error > limits.consecutive_error:
        return Phase.ERROR
    if result.inconclusive > limits.inconclusive:
        return Phase.INCONCLUSIVE
    if 0 <= limits.failure < result.failed:
        return Phase.FAILED
    if 0 < limits.consecutive_success <= result.consecutive_success:
        return Phase.SUCCESSFUL
    if 0 < limits.count <= result.count:
        if not limits.consecutive_success:
            return Phase.SUCCESSFUL
        return Phase.INCONCLUSIVE if limits.failure >= 0 else Phase.FAILED
    return Phase.SUCCESSFUL if terminating else Phase.RUNNING


def verdict(limits: Limits, measurements: Iterable[Phase]) -> tuple[Phase, int]:
    """Where a metric ends, and with which of its measurements (from 1)."""
    result, number = Result(), 0
    for number, phase in enumerate(measurements, start=1):
        result = measured(result, phase)
        found = assess(limits, result)
        if found.completed:
            return found, number
    return assess(limits, result), number


@dataclass(frozen=True)
class Setting:
    """A metric that measures the share of errors every `interval` seconds, over the requests since the last time."""

    interval: int
    requests: int  # in a window
    bad_from: int  # errors that make a window a failed one
    failure_limit: int
    count: int

    @property
    def limits(self) -> Limits:
        """As the rule wants them."""
        return Limits(failure=self.failure_limit, count=self.count)

    @property
    def success_below(self) -> float:
        """The share of errors in its success condition: halfway between the last good and the first bad count."""
        return (self.bad_from - 0.5) / self.requests

    def phase(self, errors: int) -> Phase:
        """What a window with so many errors is."""
        return Phase.FAILED if errors >= self.bad_from else Phase.SUCCESSFUL

    def ends(self, rate: float) -> list[float]:
        """Chance that a canary with this rate of errors is aborted in the n-th window, from the first one on."""
        p, over = at_least(self.requests, rate, self.bad_from), self.failure_limit + 1
        return [
            math.comb(number - 1, over - 1) * p**over * (1 - p) ** (number - over) if number >= over else 0.0
            for number in range(1, self.count + 1)
        ]

    def aborted(self, rate: float) -> float:
        """Share of the canaries with this rate of errors that are aborted."""
        return sum(self.ends(rate))

    def seconds(self, rate: float) -> float:
        """Mean time until an abort, of those that are aborted."""
        ends = self.ends(rate)
        return self.interval * sum(number * chance for number, chance in enumerate(ends, start=1)) / sum(ends)


@cache
def at_least(requests: int, rate: float, bad: int) -> float:
    """Chance of so many errors or more."""
    return 1 - sum(math.comb(requests, k) * rate**k * (1 - rate) ** (requests - k) for k in range(bad))


def settings(
    interval: int, per_second: int, *, healthy: float, bad: float, wrong: float, missed: float, most: int
) -> list[Setting]:
    """Every setting of at most `most` seconds that aborts at most a share `wrong` of the healthy canaries and misses at
    most a share `missed` of the bad ones; the one that aborts a bad one soonest comes first, of equals the surest.
    """
    found = [
        one
        for one in _not_too_strict(interval, interval * per_second, healthy, bad, wrong, most)
        if one.aborted(bad) >= 1 - missed
    ]
    return sorted(found, key=lambda one: (one.seconds(bad), one.aborted(healthy) - one.aborted(bad), one.count))


def _not_too_strict(
    interval: int, requests: int, healthy: float, bad: float, wrong: float, most: int
) -> Iterator[Setting]:
    for bad_from in range(1, math.ceil(2 * bad * requests)):
        for failure_limit in range(4):
            for count in range(failure_limit + 1, most // interval + 1):
                one = Setting(interval, requests, bad_from, failure_limit, count)
                if one.aborted(healthy) > wrong:
                    break  # more windows are more chances for a false one
                yield one
