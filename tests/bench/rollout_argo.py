"""Our canary judge beside Argo Rollouts v1.8.3 on the lab: the same canaries, the same Prometheus, the same clients.

A group of bench_rollout.py; `make lab PARTS=rollouts` first. 10 requests a second reach the canary through the router,
90 stable. A canary fails by its seed alone, so both judges meet the same one.

Ours    the whole of route-shift, in this process against the lab's API, as its Task runs it: it writes 10 % to the
        canary, verifies the split, judges, takes it back. `prometheus`: by Prometheus, a look at every scrape (5 s);
        `direct`: by its other source, the predictors' own counters, every second; `probes`: so, with 50 probes a second
        to each colour.
Argo    a standalone AnalysisRun from the moment of the same write on (its OpenShift plugin cannot be had). Its verdict
        is looked for every 0.1 s, and the Route written on it; `argo_quality.py` has its settings. Its query reaches
        back one scrape more than its interval, as a range of just that holds one growth less; it first measures a whole
        interval after the start (`initialDelay`), as there is nothing to measure before.

Time    from the first to the last bad answer that any client got from the canary.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from argo_quality import BAD, HEALTHY, INTERVALS, MOST_SECONDS, PER_SECOND, WORST, setting, times
from argo_rule import Phase
from argo_stage import CANARY, DIGESTS, MODEL, NAMESPACE, SERVICES, STABLE, UID, VERSIONS, Stage, stage
from bars import Bar, at_most, exactly, keep

from isotherm import kube
from isotherm.deploy import canary, preconditions, shift
from isotherm.deploy.bake import Pace

SHARE, SCRAPE_SECONDS = 10, 5
OURS = ("prometheus", "direct", "probes")
# Seeds by rate of errors and judge; Argo's time at 60 s is that of its one window, whatever the canary does.
SEEDS: dict[float, dict[str | int, int]] = {
    BAD: {"prometheus": 4, 10: 4, 30: 2, 60: 2, "direct": 2, "probes": 3},
    WORST: {"prometheus": 2, 10: 2, 30: 1, 60: 1, "direct": 1, "probes": 3},
}
HEALTHY_SEEDS = 2
LONGEST = MOST_SECONDS + 60
ANALYSIS_RUN = kube.Kind("AnalysisRun", "argoproj.io", "v1alpha1", "analysisruns")


def settings(variant: str, prometheus: str) -> canary.Settings:
    """Params of route-shift."""
    by, every = (prometheus, SCRAPE_SECONDS) if variant == "prometheus" else ("", 1)
    return canary.Settings(
        (SHARE,), Pace(float(every), 0.0, float(MOST_SECONDS)), max_error_rate=HEALTHY, prometheus_url=by,
        probes_per_second=50.0 if variant == "probes" else 0.0,
    )  # fmt: skip


def analysis_run(name: str, interval: int, prometheus: str) -> kube.Object:
    """One metric: the canary's share of errors since the last measurement."""
    one = setting(interval)
    where = f'{{namespace="{NAMESPACE}",track="{CANARY}"}}[{interval + SCRAPE_SECONDS}s]'
    query = f"sum(increase(pinn_errors_total{where})) / sum(increase(pinn_requests_total{where}))"
    metric = {
        "name": "errors", "interval": f"{interval}s", "initialDelay": f"{interval}s", "count": one.count,
        "failureLimit": one.failure_limit, "successCondition": f"result[0] < {one.success_below:.6f}",
        "provider": {"prometheus": {"address": prometheus, "query": query}},
    }  # fmt: skip
    header = {"apiVersion": ANALYSIS_RUN.api_version, "kind": ANALYSIS_RUN.name, "metadata": {"name": name}}
    return {**header, "spec": {"metrics": [metric]}}


def row(one: Stage, judge: str | int, rate: float, seed: int, began: float, verdict: str, ended: float) -> Any:
    """What clients met of a canary from its write on; `ended` is when the Route was written on the verdict."""
    found = one.clients.since(began)
    bad = [answer.at for answer in found if answer.bad]
    met = [answer.at for answer in found if answer.canary and answer.at <= ended]
    return {
        "judge": judge, "errors": rate, "seed": seed, "verdict": verdict,
        "bad_seconds": max(bad) - min(bad) if bad else 0.0, "bad_answers": len(bad),
        "verdict_seconds": ended - min(met, default=began), "requests": len(met),
        "lost": sum(not answer.status for answer in found), "answers": len(found),
    }  # fmt: skip


def our_run(one: Stage, variant: str, rate: float, seed: int) -> Any:
    """A canary of route-shift's, from its first write to when its last answer is over."""
    one.prepare({STABLE: HEALTHY, CANARY: rate}, seed)
    request = preconditions.Request(
        route=MODEL, services=SERVICES, colour=CANARY, model_digest=DIGESTS[CANARY], model_version=VERSIONS[CANARY],
        run_uid=UID, router_url=one.target.router,
    )  # fmt: skip
    written: list[float] = []
    with tempfile.TemporaryDirectory() as reports:
        shifter = shift.Shifter(request, one.cluster, settings(variant, one.target.prometheus), Path(reports))
        write = shifter.routes.write

        def noted(*arguments: Any, **options: Any) -> Any:
            written.append(time.monotonic())
            return write(*arguments, **options)

        shifter.routes.write = noted  # type: ignore[method-assign]
        began = time.monotonic()
        [step] = shifter.shift()["steps"]
    # Writes: to the canary, perhaps a heartbeat or more, then the one on the verdict (and, on a promotion, its end).
    verdict = "aborted" if step["verdict"] == "ROLLBACK" else "promoted"
    ended = written[-1] if verdict == "aborted" else began + step["began"] + step["seconds"]
    one.rest()
    counts = step["counts"]
    return row(one, variant, rate, seed, written[0], verdict, ended) | {"reason": step["reason"], "counts": counts}


def argo_run(one: Stage, interval: int, rate: float, seed: int) -> Any:
    """A canary that an AnalysisRun judges."""
    one.prepare({STABLE: HEALTHY, CANARY: rate}, seed)
    began = one.weigh(SHARE)
    name = f"errors-{rate * 100:.0f}-{interval}-{seed}"
    one.cluster.create(ANALYSIS_RUN, analysis_run(name, interval, one.target.prometheus))
    found = one.completed(ANALYSIS_RUN, name, LONGEST)
    ended = time.monotonic()
    one.rest()
    return row(one, interval, rate, seed, began, _verdict(found), ended) | _said(found)


def _verdict(run: kube.Object) -> str:
    phase = str(run["status"]["phase"])
    return {Phase.SUCCESSFUL.value: "promoted", Phase.FAILED.value: "aborted"}.get(phase, phase)


def _said(run: kube.Object) -> dict[str, Any]:
    taken = [m for result in run["status"].get("metricResults", []) for m in result.get("measurements", [])]
    return {"reason": run["status"].get("message", ""), "measurements": [[m["phase"], m.get("value")] for m in taken]}


def healthy_for_argo(one: Stage, seed: int) -> list[Any]:
    """One healthy canary, judged by Argo at all intervals at once: nobody writes the Route meanwhile."""
    one.prepare({STABLE: HEALTHY, CANARY: HEALTHY}, seed)
    began = one.weigh(SHARE)
    for interval in INTERVALS:
        one.cluster.create(ANALYSIS_RUN, analysis_run(f"healthy-{interval}-{seed}", interval, one.target.prometheus))
    rows = []
    for interval in sorted(INTERVALS, key=lambda i: i * setting(i).count):
        found = one.completed(ANALYSIS_RUN, f"healthy-{interval}-{seed}", LONGEST)
        rows.append(row(one, interval, HEALTHY, seed, began, _verdict(found), time.monotonic()) | _said(found))
    return rows


def argo() -> list[Bar]:
    """Both judges on the lab."""
    rows: list[Any] = []

    def add(*more: Any) -> None:
        rows.extend(more)
        keep("rollout-argo", rows)
        for new in more:
            what = f"{new['judge']} at {new['errors']:.0%}, seed {new['seed']}: {new['verdict']}"
            print(f"{what} after {new['requests']} requests, bad for {new['bad_seconds']:.1f} s", flush=True)

    with stage(PER_SECOND * 100 / SHARE) as one:
        for rate, judged_by in SEEDS.items():
            for judge, count in judged_by.items():
                run: Callable[..., Any] = our_run if judge in OURS else argo_run
                for seed in range(count):
                    add(run(one, judge, rate, seed))
        for seed in range(HEALTHY_SEEDS):
            add(our_run(one, "prometheus", HEALTHY, seed))
        add(*healthy_for_argo(one, 0))
    return _bars(rows, keep("rollout-argo", rows))


def _of(rows: list[Any], judge: str | int, rate: float) -> list[Any]:
    return [one for one in rows if one["judge"] == judge and one["errors"] == rate]


def _mean(rows: list[Any], judge: str | int, rate: float, name: str = "bad_seconds") -> float:
    """Of the canaries that were aborted; NaN, which no aim is met by, where none was."""
    found = [one[name] for one in _of(rows, judge, rate) if one["verdict"] == "aborted"]
    return statistics.fmean(found) if found else math.nan


def _bars(rows: list[Any], raw: str) -> list[Bar]:
    return [*(bar for rate in (BAD, WORST) for bar in _speed(rows, rate, raw)), *_verdicts(rows, raw)]


def _speed(rows: list[Any], rate: float, raw: str) -> list[Bar]:
    """How long clients met a bad canary, Argo's time over ours; requests are told."""
    bars = []
    for interval in INTERVALS:
        n = min(len(_of(rows, "prometheus", rate)), len(_of(rows, interval, rate)))
        both = _mean(rows, interval, rate), _mean(rows, "prometheus", rate)
        bars.append(times(f"Argo's time / ours, {interval} s, {rate:.0%}", interval, *both, n=n, raw=raw))
    slow, direct = _mean(rows, 60, rate), _mean(rows, "direct", rate)
    n = len(_of(rows, "direct", rate))
    name, note = f"Argo's time / ours, 60 s, {rate:.0%}, a look a second", f"Argo {slow:.1f} s, ours {direct:.1f} s"
    bars.append(Bar(name, slow / direct, "times", "reported", True, n, raw, note))
    name, n = f"Argo's time / ours, 60 s, {rate:.0%}, 50 probes a second", len(_of(rows, "probes", rate))
    bars.append(times(name, 60, slow, _mean(rows, "probes", rate), n=n, raw=raw))
    needed = {judge: _mean(rows, judge, rate, "requests") for judge in SEEDS[rate]}
    told = "clients' alone: " + ", ".join(f"{judge} {count:.0f}" for judge, count in needed.items())
    name, n = f"canary requests until an abort, {rate:.0%}", len(_of(rows, "prometheus", rate))
    return [*bars, Bar(name, needed["prometheus"], "requests", "reported", True, n, raw, told)]


def _verdicts(rows: list[Any], raw: str) -> list[Bar]:
    bars = []
    for side, judged_by in (("ours", OURS), ("Argo", INTERVALS)):
        mine = [one for one in rows if one["judge"] in judged_by]
        fine, wrong = [o for o in mine if o["errors"] == HEALTHY], [o for o in mine if o["errors"] != HEALTHY]
        false = sum(one["verdict"] != "promoted" for one in fine)
        bars.append(at_most(f"healthy canaries aborted, {side}", false, 0, f"of {len(fine)}", n=len(fine), raw=raw))
        caught = sum(one["verdict"] == "aborted" for one in wrong)
        bars.append(exactly(f"bad canaries aborted, {side}", caught, len(wrong), "canaries", raw=raw))
    return bars
