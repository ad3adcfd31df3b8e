"""Our judge and Argo Rollouts' rule on the same drawn streams: how often each is wrong, and how long each takes.

Stable fails 1 % of its requests, canaries 1 % (healthy), 5 % or 10 %; 10 canary requests a second, 90 of stable. A
judge's time is that of its verdict: what a Route's write, a router's reload and a scrape add is `rollout_argo.py`'s.
Ours is shown once more with 50 probes a second to each model besides, which Argo has none of.

Both at equal rates of false aborts. Ours has none to set: the simulation says how often it aborts a healthy canary.
Argo's metric is the share of errors since the last measurement, and of the settings that miss at most 1 % of the bad
canaries (5 %) within 5 minutes and abort no more than `EQUAL` of the healthy ones it gets the quickest. What it would
gain by the whole 1 % that may be wrong (`LENIENT`) is in the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import argo_rule
import numpy as np
from argo_rule import Phase, Setting
from bars import Bar, at_most, keep

from isotherm.deploy import counters, probes
from isotherm.deploy.canary import Settings
from isotherm.rollout.judge import Judge, Look, Verdict
from isotherm.rollout.sequential import Counts

HEALTHY, BAD, WORST = 0.01, 0.05, 0.10
RATES = (HEALTHY, BAD, WORST)
PER_SECOND, STABLE_PER_CANARY, PROBES_PER_SECOND = 10, 9, 50
INTERVALS = (10, 30, 60)
MOST_SECONDS = 300
EQUAL, LENIENT = 0.0005, 0.01
STREAMS, HEALTHY_STREAMS = 4000, 12000
LOOK_SECONDS = 5  # over Prometheus, which scrapes as often
FASTER = {10: 1.0, 30: 1.0, 60: 5.0}  # the aim: how many times as fast as Argo at its interval
Errors = np.ndarray  # by second


@cache
def setting(interval: int, wrong: float = EQUAL) -> Setting:
    """The quickest of Argo's settings that aborts at most this share of the healthy canaries."""
    found = argo_rule.settings(
        interval, PER_SECOND, healthy=HEALTHY, bad=BAD, wrong=wrong, missed=LENIENT, most=MOST_SECONDS
    )
    return found[0]


@dataclass(frozen=True)
class Stream:
    """Errors of each second: of clients' requests to both models, and of the probes, where a judge has any."""

    canary: Errors
    stable: Errors
    probes: tuple[Errors, Errors]


@dataclass(frozen=True)
class Ending:
    """What a judge said of a stream, and when."""

    aborted: bool
    seconds: int


def our_end(stream: Stream, *, look: int, probed: bool = False) -> Ending:
    """Our judge as route-shift has it, with a look every so many seconds; no answer is slow."""
    settings = Settings(probes_per_second=float(PROBES_PER_SECOND * probed), max_error_rate=HEALTHY)
    judge = Judge(settings.plan())
    shown = {(counters.ERRORS, counters.LATENCY): _looks(stream.canary, stream.stable, look, (1, STABLE_PER_CANARY))}
    if probed:
        each = PROBES_PER_SECOND // PER_SECOND
        shown[probes.ERRORS, probes.LATENCY] = _looks(*stream.probes, look, (each, each))
    for number in range(MOST_SECONDS // look):
        seen = {}
        for (errors, latency), looks in shown.items():
            seen[errors] = looks[number]
            seen[latency] = Counts(0, looks[number][0].total), Counts(0, looks[number][1].total)
        judge = judge.see(Look(seen))
        if judge.verdict() is not Verdict.HOLD:
            return Ending(judge.verdict() is Verdict.ROLLBACK, (number + 1) * look)
    return Ending(True, MOST_SECONDS)  # what stays open is taken back


def _looks(canary: Errors, stable: Errors, look: int, shares: tuple[int, int]) -> list[tuple[Counts, Counts]]:
    """What each look counts of both models, of so many times `PER_SECOND` requests."""
    sums = [errors.reshape(-1, look).sum(axis=1).tolist() for errors in (canary, stable)]
    many, beside = (PER_SECOND * share * look for share in shares)
    return [(Counts(bad, many), Counts(theirs, beside)) for bad, theirs in zip(*sums, strict=True)]


def argo_end(stream: Stream, *, interval: int, wrong: float) -> Ending:
    """Argo's rule on windows of the same errors."""
    one = setting(interval, wrong)
    windows = stream.canary[: one.count * interval].reshape(-1, interval).sum(axis=1).tolist()
    phase, number = argo_rule.verdict(one.limits, map(one.phase, windows))
    return Ending(phase is not Phase.SUCCESSFUL, number * interval)


def least_requests(healthy: float, bad: float, aborted: float, missed: float) -> float:
    """Requests of a bad canary that any test needs on average, however it looks at them.

    Wald's bound (Sequential Analysis, 1947, A:119): what the errors must tell, over what a request of the bad canary
    tells on average. It takes stable's rate as known; from a stable model beside it no test knows as much.
    """
    must = (1 - missed) * math.log((1 - missed) / aborted) + missed * math.log(missed / (1 - aborted))
    tells = bad * math.log(bad / healthy) + (1 - bad) * math.log((1 - bad) / (1 - healthy))
    return must / tells


def least(rate: float, aborted: float, missed: float) -> dict[str, float]:
    """The least time of any judge with these shares; one that no stream showed counts as one stream's."""
    aborted, missed = max(aborted, 1 / HEALTHY_STREAMS), max(missed, 1 / STREAMS)
    seconds = least_requests(HEALTHY, rate, aborted, missed) / PER_SECOND
    return {"errors": rate, "aborted": aborted, "missed": missed, "seconds": seconds}


def _argo(interval: int, wrong: float = EQUAL) -> str:
    return f"argo {interval} s" + (", lenient" if wrong == LENIENT else "")


PROBED = f"ours, a look a second, {PROBES_PER_SECOND} probes"
JUDGES: dict[str, Callable[[Stream], Ending]] = {
    "ours": partial(our_end, look=LOOK_SECONDS),
    "ours, a look a second": partial(our_end, look=1),
    PROBED: partial(our_end, look=1, probed=True),
    **{_argo(i, w): partial(argo_end, interval=i, wrong=w) for w in (EQUAL, LENIENT) for i in INTERVALS},
}


def streams(rate: float) -> Iterator[Stream]:
    """Streams of a canary that fails at this rate, the same for every judge."""
    draw = np.random.default_rng(round(rate * 1e6))
    probing = np.random.default_rng([round(rate * 1e6), PROBES_PER_SECOND])
    for _ in range(HEALTHY_STREAMS if rate == HEALTHY else STREAMS):
        canary = draw.binomial(PER_SECOND, rate, MOST_SECONDS)
        stable = draw.binomial(PER_SECOND * STABLE_PER_CANARY, HEALTHY, MOST_SECONDS)
        asked = probing.binomial(PROBES_PER_SECOND, rate, MOST_SECONDS)
        yield Stream(canary, stable, (asked, probing.binomial(PROBES_PER_SECOND, HEALTHY, MOST_SECONDS)))


def row(judge: str, rate: float) -> dict[str, Any]:
    """What a judge makes of canaries of one rate of errors; times are of those that it judged rightly."""
    ends = [JUDGES[judge](stream) for stream in streams(rate)]
    seconds = [end.seconds for end in ends if end.aborted != (rate == HEALTHY)]
    return {
        "judge": judge, "errors": rate, "aborted": sum(end.aborted for end in ends) / len(ends),
        "seconds": statistics.fmean(seconds), "p95": float(np.percentile(seconds, 95)),
        "requests": PER_SECOND * statistics.fmean(seconds), "n": len(ends),
    }  # fmt: skip


def times(bar: str, interval: int, theirs: float, mine: float, *, n: int, raw: str, note: str = "") -> Bar:
    """How many times as long as ours Argo's time is, against the aim for its interval."""
    aim, value = FASTER[interval], theirs / mine
    target, passed = (">= 5", value >= aim) if aim > 1 else ("> 1", value > aim)
    said = f"Argo {theirs:.1f} s, ours {mine:.1f} s"
    return Bar(bar, value, "times", target, passed, n, raw, f"{said}; {note}" if note else said)


def judges() -> list[Bar]:
    """Both judges' rules on the same drawn streams: false aborts, misses, time until the verdict."""
    table = [row(judge, rate) for judge in JUDGES for rate in RATES]
    for one in table:
        print("  ".join(f"{value:.5g}" if isinstance(value, float) else f"{value:>22}" for value in one.values()))
    chosen = {
        _argo(i, wrong): asdict(one) | {"success_below": one.success_below, "aborts": list(map(one.aborted, RATES))}
        for wrong in (EQUAL, LENIENT)
        for i in INTERVALS
        for one in [setting(i, wrong)]
    }
    found = {(one["judge"], one["errors"]): one for one in table}
    sides = ("ours", PROBED, *map(_argo, INTERVALS))
    healthy = {judge: found[judge, HEALTHY]["aborted"] for judge in sides}
    missed = {rate: 1 - found["ours", rate]["aborted"] for rate in (BAD, WORST)}
    bounds = [
        bound
        for rate in (BAD, WORST)
        for bound in (least(rate, healthy["ours"], missed[rate]), least(rate, LENIENT, LENIENT))
    ]
    for one in bounds:
        print("no judge is faster at  " + "  ".join(f"{name} {value:.4g}" for name, value in one.items()))
    raw = keep("rollout-argo-judges", {"argo": chosen, "table": table, "bounds": bounds})
    bars = [
        at_most(f"healthy aborted, {judge} (simulated)", share, LENIENT, "share", n=HEALTHY_STREAMS, raw=raw)
        for judge, share in healthy.items()
    ]
    bars.append(at_most("5 % not caught, ours (simulated)", missed[BAD], LENIENT, "share", n=STREAMS, raw=raw))
    for rate in (BAD, WORST):
        for judge, how in (("ours", "simulated"), (PROBED, f"simulated, {PROBES_PER_SECOND} probes a second")):
            for interval in INTERVALS:
                both = found[_argo(interval), rate]["seconds"], found[judge, rate]["seconds"]
                name = f"Argo's time / ours, {interval} s, {rate:.0%} ({how})"
                bars.append(times(name, interval, *both, n=STREAMS, raw=raw, note="until the verdict alone"))
    return bars
