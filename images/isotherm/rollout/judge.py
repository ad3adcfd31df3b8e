"""Promote, roll back or hold: the verdict on a canary beside the stable model that serves at the same time.

A metric counts what speaks against an answer: an error, a value out of bounds, a boundary condition missed, an answer
slower than a bound, a residual above a bound. Two things together make a canary bad in a metric: its rate is `ratio`
times the stable one's (a difference that matters, Kayenta's effect size), and it is not a rate that is tolerated
anyway. So a rollback needs both tests to say so, and a metric is fine as soon as one of them says so. Of healthy
canaries at most `alpha` are rolled back, of bad ones at most `beta` promoted, over all metrics and at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from isotherm.rollout.sequential import NONE, Bounds, Counts, Evidence, rate_llr, ratio_llr


class Verdict(StrEnum):
    """What is to be done."""

    PROMOTE = "PROMOTE"
    ROLLBACK = "ROLLBACK"
    HOLD = "HOLD"


@dataclass(frozen=True)
class Metric:
    """One count against answers.

    `tolerated`: a rate that is no reason for a rollback whatever the stable model does. `ratio`: how many times the
    stable rate is too many. A metric that is not `required` may stay open; where it is worse it rolls back too.
    """

    name: str
    tolerated: float = 0.01
    ratio: float = 5.0
    required: bool = True

    def __post_init__(self) -> None:
        if self.ratio <= 1 or not 0 < self.tolerated < 1:
            raise ValueError(f"metric {self.name}: tolerated must lie between 0 and 1, ratio above 1")

    @property
    def unbearable(self) -> float:
        """The rate against which the tolerated one is tested: `ratio` times it, or halfway to 1 where that is less."""
        return min(self.tolerated * self.ratio, (1 + self.tolerated) / 2)


@dataclass(frozen=True)
class Plan:
    """What is judged and how surely."""

    metrics: tuple[Metric, ...]
    alpha: float = 0.01
    beta: float = 0.01

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) != len(names):
            raise ValueError("a plan needs metrics, each with a name of its own")
        if not any(metric.required for metric in self.metrics):
            raise ValueError("a plan without a required metric would promote on nothing")
        Bounds.of(self.alpha, self.beta)

    def bounds(self) -> Bounds:
        """Bounds of each test: alpha is shared out among the metrics, beta among a metric's two ways to be fine.

        A bad canary is promoted only when every required metric is fine, the one in which it is bad included: beta is
        not shared among metrics.
        """
        return Bounds.of(self.alpha / len(self.metrics), self.beta / 2)


@dataclass(frozen=True)
class State:
    """The two statistics of a metric (nats) and what they come from."""

    ratio: float = 0.0
    rate: float = 0.0
    canary: Counts = NONE
    stable: Counts = NONE
    # The canary was fine once: later evidence against it still counts, the lack of more does not.
    fine: bool = False

    def seen(self, metric: Metric, canary: Counts, stable: Counts, bounds: Bounds) -> State:
        """Add what happened since the last look."""
        after = replace(
            self,
            ratio=self.ratio + ratio_llr(canary, stable, metric.ratio),
            rate=self.rate + rate_llr(canary, metric.tolerated, metric.unbearable),
            canary=self.canary + canary,
            stable=self.stable + stable,
        )
        return replace(after, fine=after.fine or Evidence.FINE in after._both(bounds))

    def _both(self, bounds: Bounds) -> tuple[Evidence, Evidence]:
        return bounds.evidence(self.ratio), bounds.evidence(self.rate)

    def evidence(self, bounds: Bounds) -> Evidence:
        """Worse where both tests say so; fine where one said so; else open."""
        if all(one is Evidence.WORSE for one in self._both(bounds)):
            return Evidence.WORSE
        return Evidence.FINE if self.fine else Evidence.OPEN


@dataclass(frozen=True)
class Look:
    """What was seen since the last look: counts per metric, canary's and stable's; or why nothing can be said.

    `problem` is a reason such as "no answer from Prometheus", "the last sample is 95 s old", "NaN": the statistics then
    stay as they are, and the verdict is HOLD.
    """

    counts: Mapping[str, tuple[Counts, Counts]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Judge:
    """A plan and what its metrics show so far. Immutable: a look gives the next one, so that a log can be replayed."""

    plan: Plan
    states: Mapping[str, State] = field(default_factory=dict)
    problem: str = "nothing was seen yet"

    def see(self, look: Look) -> Judge:
        """Add a look. A metric that it lacks stays as it is, and holds what is required of it."""
        if look.problem:
            return replace(self, problem=look.problem)
        unknown = set(look.counts) - {metric.name for metric in self.plan.metrics}
        if unknown:
            raise ValueError(f"the plan has no metric {', '.join(sorted(unknown))}")
        states, bounds = dict(self.states), self.plan.bounds()
        for metric in self.plan.metrics:
            if metric.name in look.counts:
                canary, stable = look.counts[metric.name]
                states[metric.name] = states.get(metric.name, State()).seen(metric, canary, stable, bounds)
        lacking = [metric.name for metric in self.plan.metrics if metric.required and metric.name not in look.counts]
        return replace(self, states=states, problem=f"no samples of {', '.join(lacking)}" if lacking else "")

    def verdict(self) -> Verdict:
        """Roll back where one metric is worse, promote where all required are fine, else hold.

        Evidence of harm does not go away because a later look failed; a promotion needs the last look to be sound.
        """
        found = self.evidence()
        if Evidence.WORSE in found.values():
            return Verdict.ROLLBACK
        required = [found[metric.name] for metric in self.plan.metrics if metric.required]
        if self.problem or any(one is not Evidence.FINE for one in required):
            return Verdict.HOLD
        return Verdict.PROMOTE

    def evidence(self) -> dict[str, Evidence]:
        """What each metric shows."""
        bounds = self.plan.bounds()
        return {m.name: self.states.get(m.name, State()).evidence(bounds) for m in self.plan.metrics}

    def totals(self) -> dict[str, list[list[int]]]:
        """What was counted so far, by metric: the canary's [bad, all], then stable's."""
        return {
            name: [[one.bad, one.total] for one in (state.canary, state.stable)]
            for name, state in sorted(self.states.items())
        }

    def nearness(self) -> tuple[float, float]:
        """How near a rollback and a promotion are, as shares of their bounds: 0 nothing yet, 1 reached.

        The worst metric decides about the first, the required one that is furthest from fine about the second.
        """
        bounds = self.plan.bounds()
        states = {m.name: self.states.get(m.name, State()) for m in self.plan.metrics}
        worse = max(min(state.ratio, state.rate) / bounds.worse for state in states.values())
        fine = min(
            1.0 if states[m.name].fine else max(states[m.name].ratio / bounds.fine, states[m.name].rate / bounds.fine)
            for m in self.plan.metrics
            if m.required
        )
        return min(max(worse, 0.0), 1.0), min(max(fine, 0.0), 1.0)

    def reason(self) -> str:
        """Say in one line why the verdict is what it is."""
        found = self.evidence()
        needed_ones = {metric.name for metric in self.plan.metrics if metric.required}
        for word, names in ((Evidence.WORSE, found.keys()), (Evidence.OPEN, needed_ones)):
            named = [name for name, one in found.items() if one is word and name in names]
            if named and (word is Evidence.WORSE or not self.problem):
                return "; ".join(_said(name, self.states.get(name, State()), word) for name in named)
        return self.problem or "every required metric is fine"


def _said(name: str, state: State, evidence: Evidence) -> str:
    def of(counts: Counts) -> str:
        return f"{counts.bad}/{counts.total}"

    word = "is worse" if evidence is Evidence.WORSE else "is open"
    return f"{name} {word}: canary {of(state.canary)}, stable {of(state.stable)}"


def needed(metric: Metric, plan: Plan, *, canary_share: float) -> int:
    """Requests of a healthy canary that its metric takes on average, at the tolerated rate on both sides (Wald's).

    The excess over the bound is left out, so this is a little low; `canary_share` is the canary's share of requests.
    """
    bound = -plan.bounds().fine
    rate, unbearable, q = metric.tolerated, metric.unbearable, canary_share
    alone = -(rate * math.log(unbearable / rate) + (1 - rate) * math.log((1 - unbearable) / (1 - rate)))
    mixed = metric.ratio * q + 1 - q
    beside = (rate / q) * ((1 - q) * math.log(mixed) - q * math.log(metric.ratio / mixed))
    return math.ceil(bound / max(alone, beside))


def judged(plan: Plan, looks: Sequence[Look]) -> list[Verdict]:
    """The verdict after each look."""
    judge, verdicts = Judge(plan), []
    for look in looks:
        judge = judge.see(look)
        verdicts.append(judge.verdict())
    return verdicts
