"""Measure the bars of a traffic shift afresh and write build/bench/rollout.json.

Usage: PYTHONPATH=tests:scripts:images python tests/bench/bench_rollout.py [GROUP ...]
Groups: gate absence split rollback deferred rivals foreign ambiguous deadman crash zombies crash_tasks zombie_tasks
        bites judges
        lab-split lab-lost lab-deferred lab-live lab-absence lab-crash lab-rivals lab-ambiguous lab-foreign lab-deadman
        lab-endings lab-restarts argo

In this process and on the local target (embedded API, HAProxy, predictors); the groups lab-* (rollout_lab.py) on the
lab, which has to be up: without it each of them is a bar that is missed. `argo` runs on the lab, beside Argo Rollouts:
`make lab PARTS=rollouts` first.

Without a GROUP all are run: one after the other, but those of `BESIDE`, which no clock judges, in a second process
beside the lab's groups, which mostly wait.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("unit", "unit/rollout", "local")]

import argo_quality
import gate_quality
import rollout_argo
import rollout_bites
import rollout_crash
import rollout_faults
import rollout_lab
import task_crash
import test_bake
from bars import BUILD, Bar, at_most, exactly, former, keep, report, seconds_log
from local_target import route as route_object
from rollout_history import violations
from rollout_load import Load, cycle, rate_bound
from rollout_stage import ONE, TWO, Stage, stage, stages, wait_for
from routers import pod_servers, runner
from spread import spread

from isotherm import contract
from isotherm.deploy import shift
from isotherm.deploy.weights import expected_shares, tolerance
from isotherm.rollout.judge import Verdict
from isotherm_local.translation import IDLE_CONNECTIONS

WEIGHTS, ENDPOINTS = (1, 2, 5, 10, 25, 50), ((1, 1), (2, 1), (1, 4))
REQUESTS = 3000


def gate() -> list[Bar]:
    """F4: 4,000 streams a rate, beside fixed thresholds and a Mann-Whitney judge."""
    return gate_quality.gate()


def absence() -> list[Bar]:
    """F5: twelve ways of having nothing to judge by, five times each, with and without traffic in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for (name, change), seed in product(test_bake.ABSENCE.items(), range(5)):
            world = test_bake.world(0.0, 0.0, rate=10.0 * (seed % 2))
            world.rng = random.Random(seed)
            found = test_bake.baked(world, Path(folder), test_bake.Changed(world, change))
            rows.append({"case": name, "seed": seed, "verdict": found.verdict.value, "seconds": found.seconds})
    raw = keep("rollout-absence", rows)
    promoted = sum(row["verdict"] == Verdict.PROMOTE for row in rows)
    late = max(row["seconds"] for row in rows) - test_bake.PACE.hold
    return [
        at_most("promotions on absence (F5)", promoted, 0, f"of {len(rows)}", n=len(rows), raw=raw),
        at_most("end after the deadline (F5)", late, 2 * test_bake.PACE.interval, "s", n=len(rows), raw=raw),
    ]


def split() -> list[Bar]:
    """F1: shares of 3,000 requests through HAProxy, against the router's own arithmetic."""
    rows: list[dict[str, Any]] = []

    async def measure(driver: Any, start: Callable[[str], int]) -> None:
        created = False
        for blue, green in ENDPOINTS:
            driver.endpoints("blue", *(start("blue") for _ in range(blue)))
            driver.endpoints("green", *(start("green") for _ in range(green)))
            for weight in WEIGHTS:
                weights = {"blue": 100 - weight, "green": weight}
                wanted = route_object("heat", weights, annotations={contract.ANNOTATION_DISABLE_COOKIES: "true"})
                driver.patch("heat", {"spec": wanted["spec"]}) if created else driver.create(wanted)
                created = True
                await driver.settle()
                found = await driver.counts(REQUESTS)
                share = expected_shares(weights, {"blue": blue, "green": green})["green"]
                off = abs(found["green"] / REQUESTS - share)
                within = off <= tolerance(share, REQUESTS) and found["blue"] + found["green"] == REQUESTS
                rows.append({
                    "endpoints": f"{blue}/{green}", "asked": weight / 100, "given": share,
                    "served": found["green"] / REQUESTS, "within": within,
                })  # fmt: skip

    with tempfile.TemporaryDirectory() as folder, pod_servers() as start:
        runner("local", Path(folder))(partial(measure, start=start))
    raw = keep("rollout-split", rows)
    return [exactly("shares within 3 sigma (F1)", sum(r["within"] for r in rows), len(rows), "splits", raw=raw)]


def rollback(cycles: int = 30) -> list[Bar]:
    """F2 and F3 with the router as OpenShift installs it: a reload each 5 s at most, which closes kept connections."""
    with stages(2, reload_seconds=5.0) as lanes:
        rows = spread(lanes, range(cycles), _rolled_back)
    raw = keep("rollout-rollback", rows)
    lost, asked = sum(row["lost"] for row in rows), sum(row["asked"] for row in rows)
    p95 = statistics.quantiles([row["last_canary_answer"] for row in rows], n=20)[-1]
    return [
        at_most("last canary answer, p95 (F2)", p95, 7, "s", n=cycles, raw=raw),
        at_most("API write of a rollback (F2)", max(r["write"] for r in rows), 1, "s", n=cycles, raw=raw),
        at_most("sticky leaks (F2)", sum(row["sticky"] for row in rows), 0, "answers", n=cycles, raw=raw),
        _nothing_lost("", lost, asked, raw, "; ".join(error for row in rows for error in row["errors"])),
    ]


def _nothing_lost(how: str, lost: int, asked: int, raw: str, told: str) -> Bar:
    note = f"at most {rate_bound(lost, asked):.1e} at 95 %" + (f"; {told}" if told else "")
    return at_most(f"requests lost in shifts{how} (F3)", lost, 0, f"of {asked}", n=asked, raw=raw, note=note)


def _rolled_back(one: Stage, number: int) -> dict[str, Any]:
    """Give the canary half, take it back, and look for 8 s at who answers."""
    canary = one.target.models[TWO].digest
    one.reset()
    with Load(one.target.router_url, one.target.route().host, per_second=40) as load:
        one.shifter(one.cluster(), settings=None, weight=50).shift()
        wait_for(lambda: any(a[3] == canary for a in load.answers), 20)
        began = time.monotonic()
        back = one.target.shifter("previous", None, f"rollback-{number}", verify_timeout_seconds=30.0)
        checked = back.check()
        course = shift.Course(checked, checked)
        course.pending = back._write(course)
        written = time.monotonic() - began
        time.sleep(8)
    ends = {
        kind: max((a[0] for a in load.answers if a[3] == canary and a[1] == kind), default=began) - began
        for kind in ("new", "kept", "jar")
    }
    # A client with a cookie that the router honours would stay with the canary when the others have left it.
    limit = began + max(ends["new"], ends["kept"]) + 0.5
    return {
        "write": written, "last_canary_answer": max(ends.values()), "asked": len(load.answers),
        "sticky": sum(a[3] == canary and a[1] == "jar" and a[0] > limit for a in load.answers),
        "lost": sum(not 200 <= a[2] < 300 for a in load.answers), "errors": load.lost,
    }  # fmt: skip


def deferred(requests: int = 100_000, cycles: int = 100) -> list[Bar]:
    """F3 with idleConnectionTerminationPolicy Deferred, where a kept connection gets one more answer: up to half, back,
    up to all, again and again under load, a reload each second at most.
    """
    rows: list[dict[str, Any]] = []
    with stage(reload_seconds=1.0, idle_connections=IDLE_CONNECTIONS[1]) as one:
        digests = {"blue": one.target.models[ONE].digest, "green": one.target.models[TWO].digest}
        with Load(one.target.router_url, one.target.route().host, per_second=200) as load:
            while len(rows) < cycles or len(load.answers) < requests:
                rows.append(cycle(load, one.target.route().live, partial(_shifter, one), digests))
        asked, bad = len(load.answers), [a for a in load.answers if not 200 <= a[2] < 300]
        wrong = violations(one.recorder.since("0"))
    kinds = Counter(a[1] for a in load.answers)
    raw = keep("rollout-deferred", {"cycles": rows, "asked": kinds, "bad": bad, "errors": load.lost, "wrong": wrong})
    sound = 0 if wrong else sum(row["sound"] for row in rows)
    return [
        _nothing_lost(", router Deferred", len(bad), asked, raw, "; ".join(load.lost[:3])),
        exactly("cycles under load that end as they should, router Deferred (F3)", sound, len(rows), "cycles", raw=raw),
    ]


def _shifter(one: Stage, colour: str, weight: int) -> shift.Shifter:
    """A shift to a colour as the run that deployed it, or back."""
    model, uid = {"blue": (ONE, "run-1"), "green": (TWO, "run-2")}.get(colour, (None, "rollback"))
    found = None if model is None else one.target.models[model]
    return one.target.shifter(colour, found, uid, weight=weight)


HERE = (
    gate, absence, split, rollback, deferred, *rollout_faults.GROUPS, *rollout_crash.GROUPS, *task_crash.GROUPS,
    rollout_bites.bites, argo_quality.judges,
)  # fmt: skip
GROUPS: dict[str, Callable[[], list[Bar]]] = {
    **{group.__name__: group for group in (*HERE, rollout_argo.argo)},
    **rollout_lab.GROUPS,
}
# Groups that no clock judges, and which of the lab's groups they are measured beside.
BESIDE = ("absence", "bites", "crash", "ambiguous", "crash_tasks"), ("zombies", "zombie_tasks")
LATER = ("lab-endings", "lab-restarts")
BESIDE_NAME = "rollout-beside"


@contextmanager
def _beside(names: tuple[str, ...]) -> Iterator[Callable[[], list[Bar]]]:
    """Measure these groups in a niced process of their own; the block has a group that waits for their bars."""
    process = multiprocessing.get_context("spawn").Process(target=_measure_beside, args=(names,))
    path = BUILD / f"{BESIDE_NAME}.json"
    path.unlink(missing_ok=True)

    def beside() -> list[Bar]:
        process.join()
        bars = [Bar(**row) for row in former(path)]
        path.unlink(missing_ok=True)
        if process.exitcode not in (0, 1):
            bars.append(Bar(f"all of {', '.join(names)}", None, "", "measured", False, 0, f"exit {process.exitcode}"))
        return bars

    process.start()
    try:
        yield beside
    finally:
        process.terminate()
        process.join()


def _measure_beside(names: tuple[str, ...]) -> None:
    os.nice(10)
    sys.exit(report(BESIDE_NAME, [GROUPS[name] for name in names]))


def _everything() -> Iterator[Callable[[], list[Bar]]]:
    """Every group in its turn."""
    began, (first, second) = time.monotonic(), BESIDE
    yield from (group for group in HERE if group.__name__ not in (*first, *second))
    with _beside(first) as beside:
        yield from (group for name, group in rollout_lab.GROUPS.items() if name not in LATER)
        yield beside

    def in_all() -> list[Bar]:
        minutes, told = (time.monotonic() - began) / 60, "F16 to F18 and Argo Rollouts come on top"
        return [at_most("F1 to F9 and F29, in all", minutes, 75, "min", n=1, raw=seconds_log("rollout"), note=told)]

    yield in_all
    with _beside(second) as beside:
        yield from (GROUPS[name] for name in LATER)
        yield beside
    yield rollout_argo.argo


def main(arguments: list[str]) -> int:
    """Run the groups named, or all."""
    unknown = set(arguments) - GROUPS.keys()
    if unknown:
        print(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    if arguments:
        return report("rollout", [GROUPS[name] for name in arguments], only_some=True)
    return report("rollout", _everything())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
