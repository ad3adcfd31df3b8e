"""How good the canary's judge is: thousands of simulated streams, beside fixed thresholds and a Mann-Whitney judge.

Usage: PYTHONPATH=tests:scripts:images python tests/bench/gate_quality.py [STREAMS]

Traffic is split 90/10, and the stable model serves at the same time at its own rate of errors. All judges see the same
streams, in looks of 10 requests of the canary and 90 of stable, for at most `MOST` requests of the canary.
Argo: success of a window >= 95 %, failureLimit 0, 20 windows of 20. Flagger: success of a window >= 99 %, threshold 5,
10 windows of 50 (its defaults; a window is what its interval holds). Mann-Whitney: once, after 50 windows of 10, worse
at the 1 % level and by a quarter of stable's mean (Kayenta's tolerance). `sequential` tolerates a rate of 0.1 %, so it
has to learn from stable that 1 % is usual; `told` is told that 1 % is tolerated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from bars import Bar, at_most, keep, report
from scipy.stats import mannwhitneyu

from isotherm.rollout.judge import Judge, Look, Metric, Plan, Verdict
from isotherm.rollout.sequential import Counts

LOOK, STABLE_PER_CANARY, MOST = 10, 9, 3000
STREAMS = 4000
HEALTHY, BAD = 0.01, 0.05
CURVE = (0.001, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.10)
PLAN = Plan((Metric("errors", tolerated=HEALTHY / 10, ratio=BAD / HEALTHY),))
TOLD = Plan((Metric("errors", tolerated=HEALTHY, ratio=BAD / HEALTHY),))
Errors = np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a judge said of a stream, after how many requests of the canary."""

    verdict: Verdict
    requests: int


def streams(rate: float, stable: float, count: int) -> Iterator[tuple[Errors, Errors]]:
    """Errors of each look, the canary's and stable's."""
    draw = np.random.default_rng(round(rate * 1e6))
    for _ in range(count):
        looks = MOST // LOOK
        yield draw.binomial(LOOK, rate, looks), draw.binomial(LOOK * STABLE_PER_CANARY, stable, looks)


def ours(canary: Errors, stable: Errors, *, plan: Plan) -> Outcome:
    """The judge as it is."""
    judge = Judge(plan)
    for number, (bad, beside) in enumerate(zip(canary.tolist(), stable.tolist(), strict=True), start=1):
        judge = judge.see(Look({"errors": (Counts(bad, LOOK), Counts(beside, LOOK * STABLE_PER_CANARY))}))
        if judge.verdict() is not Verdict.HOLD:
            return Outcome(judge.verdict(), number * LOOK)
    return Outcome(Verdict.HOLD, MOST)


def threshold(canary: Errors, _: Errors, *, least: float, window: int, windows: int, failures: int) -> Outcome:
    """Windows of requests of which more than `failures` fall below a share of successes."""
    failed = 0
    for number in range(1, windows + 1):
        bad = canary[(number - 1) * window // LOOK : number * window // LOOK].sum()
        failed += 1 - bad / window < least
        if failed > failures:
            return Outcome(Verdict.ROLLBACK, number * window)
    return Outcome(Verdict.PROMOTE, windows * window)


def mann_whitney(canary: Errors, stable: Errors) -> Outcome:
    """One look at 50 points of each, as Kayenta's NetflixACAJudge has it."""
    ours_, theirs = canary[:50] / LOOK, stable[:50] / (LOOK * STABLE_PER_CANARY)
    worse = mannwhitneyu(ours_, theirs, alternative="greater").pvalue < 0.01
    apart = ours_.mean() > 1.25 * theirs.mean()
    return Outcome(Verdict.ROLLBACK if worse and apart else Verdict.PROMOTE, 50 * LOOK)


JUDGES: dict[str, Callable[[Errors, Errors], Outcome]] = {
    "sequential": partial(ours, plan=PLAN),
    "told": partial(ours, plan=TOLD),
    "argo": partial(threshold, least=0.95, window=20, windows=20, failures=0),
    "flagger": partial(threshold, least=0.99, window=50, windows=10, failures=4),
    "mann-whitney": mann_whitney,
}


def row(judge: str, rate: float, count: int) -> dict[str, float | str]:
    """What a judge makes of canaries of one rate of errors."""
    outcomes = [JUDGES[judge](canary, stable) for canary, stable in streams(rate, HEALTHY, count)]
    requests = np.array([one.requests for one in outcomes])
    shares = {word.value.lower(): sum(one.verdict is word for one in outcomes) / count for word in Verdict}
    figures = {"mean": float(requests.mean()), "p95": float(np.percentile(requests, 95))}
    return {"judge": judge, "errors": rate, **shares, **figures}


def gate(count: int = STREAMS) -> list[Bar]:
    """False rollbacks at 1 %, catches at 5 %, requests needed; the curve from 0.1 to 10 %."""
    table = [row(judge, rate, count) for judge in JUDGES for rate in CURVE]
    for one in table:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:>12}" for value in one.values()))
    raw = keep("rollout-gate", table)
    found = {(one["judge"], one["errors"]): one for one in table}
    healthy, bad = found["sequential", HEALTHY], found["sequential", BAD]
    return [
        at_most("healthy canaries rolled back", float(healthy["rollback"]), 0.01, "share", n=count, raw=raw),
        at_most("bad canaries (5 %) not caught", 1 - float(bad["rollback"]), 0.01, "share", n=count, raw=raw),
        at_most("canary requests for a healthy one", float(healthy["mean"]), 350, "mean", n=count, raw=raw),
    ]


if __name__ == "__main__":
    raise SystemExit(report("rollout-gate", [partial(gate, int((sys.argv[1:] or [STREAMS])[0]))]))
