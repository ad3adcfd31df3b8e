"""One step of a canary: both colours serve, and the judge looks until it knows, or until its time is over.

Reads   counters of both colours (`counters`, `prometheus`, `probes`)
Writes  a log of every look, from which the verdict can be reached again (`isotherm.rollout.decisions`)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from isotherm import tekton
from isotherm.rollout import decisions, samples
from isotherm.rollout.judge import Judge, Look, Metric, Plan, Verdict
from isotherm.rollout.sequential import Counts

FRESH_INTERVALS = 2
EMPTY = samples.Reading(0.0, "")
Pair = tuple[samples.Reading, samples.Reading]  # canary, stable


class Source(Protocol):
    """Where counters come from."""

    def read(self, colour: str) -> samples.Reading | None:
        """The counters of a colour; None where nothing can be said about them."""


@dataclass(frozen=True)
class Pace:
    """How long a step takes, in seconds: at least `bake`, at most `hold`; a look every `interval`."""

    interval: float = 5.0
    bake: float = 60.0
    hold: float = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.interval <= self.hold or not 0 <= self.bake <= self.hold:
            raise tekton.BadInput(
                f"interval-seconds {self.interval:g}, bake-seconds {self.bake:g} and hold-seconds {self.hold:g} do not "
                "fit each other",
                remedy="give 0 < interval <= hold and 0 <= bake <= hold, such as 5, 60 and 300",
            )


@dataclass(frozen=True)
class Models:
    """Who is judged and beside whom: colour and digest of each."""

    canary: str
    stable: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Baked:
    """How a step ended. `verdict` is never HOLD: a step that stays open too long is rolled back."""

    verdict: Verdict
    reason: str
    seconds: float
    counts: Mapping[str, list[list[int]]]  # as the judge's totals
    looks: Sequence[tuple[float, float, float]]  # seconds, and how near rollback and promotion were (judge.nearness)

    def as_dict(self) -> dict[str, Any]:
        """The form that reports hold."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "looks": [[round(number, 3) for number in look] for look in self.looks],
            "counts": dict(self.counts),
        }


def plan(required: Mapping[str, bool], max_error_rate: float, max_ratio: float) -> Plan:
    """What is judged: whether each metric is required, by name. Raises `tekton.BadInput`."""
    try:
        return Plan(tuple(Metric(name, max_error_rate, max_ratio, must) for name, must in required.items()))
    except ValueError as error:
        raise tekton.BadInput(
            f"params max-error-rate and max-ratio: {error}", remedy="give such as 0.01 and 5"
        ) from error


class Clock:
    """The time, in s: `now` for ages of samples, `elapsed` for durations; tests have their own."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def elapsed(self) -> float:
        """Seconds that no correction of the clock moves."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Step:
    """One step, from its first reading to its end."""

    def __init__(
        self,
        plan: Plan,
        pace: Pace,
        models: Models,
        sources: Sequence[Source],
        log: Path,
        *,
        say: Callable[[str], None],
        clock: Clock | None = None,
        **about: object,
    ) -> None:
        self._judge = Judge(plan)
        self._pace = pace
        self._models = models
        self._sources = sources
        self._log = log
        self._say = say
        self._clock = clock or Clock()
        self._about = about
        self._expected = samples.Expected(
            models.digests[models.canary], models.digests[models.stable], FRESH_INTERVALS * pace.interval
        )
        self._before: dict[int, Pair] = {}
        self._looks: list[tuple[float, float, float]] = []
        self._changed = ""
        self._said = ""

    def run(self, each: Callable[[float], None]) -> Baked:
        """Look until the verdict stands. `each` is called before every look with the seconds since the last one; it
        sends probes, keeps the shift alive, and may raise what ends the step.
        """
        start, last = self._clock.elapsed(), self._clock.elapsed()
        lines = [decisions.header(self._judge.plan, models=dict(self._models.digests), **self._about)]
        while True:
            each(self._clock.elapsed() - last)
            last = self._clock.elapsed()
            look = self._look()
            self._judge = self._judge.see(look)
            seconds = last - start
            self._looks.append((seconds, *self._judge.nearness()))
            lines.append(decisions.line(self._judge, look, seconds=round(seconds, 1)))
            tekton.write_atomic(self._log, "\n".join(lines) + "\n")
            baked = self._end(seconds)
            if baked is not None:
                return baked
            self._clock.sleep(self._pace.interval)

    def _end(self, seconds: float) -> Baked | None:
        verdict, reason = self._judge.verdict(), self._judge.reason()
        line = f"{verdict.value}: {reason}"
        if line != self._said:
            self._said = line
            self._say(f"{seconds:5.0f} s  {line}")
        if self._changed:
            verdict, reason = Verdict.ROLLBACK, self._changed
        elif verdict is not Verdict.ROLLBACK and not (verdict is Verdict.PROMOTE and seconds >= self._pace.bake):
            if seconds < self._pace.hold:
                return None
            verdict, reason = Verdict.ROLLBACK, f"no verdict after {seconds:.0f} s: {reason}"
        return Baked(verdict, reason, seconds, self._judge.totals(), self._looks)

    def _look(self) -> Look:
        """What every source counted since the last sound look, as one look; a problem of one makes it one."""
        merged: dict[str, tuple[Counts, Counts]] = {}
        read: dict[int, Pair] = {}
        for number, source in enumerate(self._sources):
            after = source.read(self._models.canary), source.read(self._models.stable)
            before = self._before.get(number)
            # The clock is read after the samples: one that took long to fetch is no sample from the future.
            look = samples.look(before or (EMPTY, EMPTY), after, self._expected, self._clock.now())
            canary, stable = after
            if look.problem or canary is None or stable is None:
                self._changed = self._changed or self._strangers(after)
                return Look(problem=look.problem)
            read[number] = canary, stable
            # The first reading says where a source's counters stood when the step began.
            merged |= look.counts if before else {}
        self._before |= read
        return Look(merged)

    def _strangers(self, after: tuple[samples.Reading | None, samples.Reading | None]) -> str:
        """Say which colour answers as another model than the one that is judged; empty where none does."""
        for colour, one in zip((self._models.canary, self._models.stable), after, strict=True):
            wanted = self._models.digests[colour]
            if one is not None and one.digest not in ("", wanted):
                return f"{colour} became model {one.digest[:12]} during the step, it was {wanted[:12]}"
        return ""
