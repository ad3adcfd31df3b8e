"""The lab's groups of bench_rollout.py: a rollout on the real API, behind the real router, by Task, guard and rivals.

Expiry, bake and the judge's deadline are a tenth of the Task's defaults, the probes' and clients' rates ten times as
high. The models are light (light_predictor.py). Without a lab a group is one bar that is not measured, and so missed.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import cache, partial
from typing import Any

import lab_lanes
import rollout_lab_absence
import rollout_lab_deadman
import rollout_lab_endings
import rollout_lab_faults
import rollout_lab_live
from bars import ROOT, Bar, at_most, exactly, keep, log
from lab import parts, routes
from lab.part import Lab, LabError
from lab_lanes import Lane, Stage
from rollout_load import Load, cycle, rate_bound
from waiting import eventually

from isotherm.deploy import shift
from isotherm.deploy.weights import expected_shares, tolerance
from isotherm_local.translation import IDLE_CONNECTIONS

Group = Callable[[], list[Bar]]
NEEDED = ("kubelet", "tekton-pipelines", "kserve", "router", "catalog-images")
WEIGHTS, REQUESTS = (1, 10, 50), 3000
LOST_REQUESTS, LOST_PER_SECOND, LOST_CYCLES, LOST_LANES = 10_000, 40, 30, 2
_KEPT = ExitStack()
atexit.register(_KEPT.close)


@cache
def stage() -> Stage:
    """One stage for all groups of a run, removed with the process."""
    return _KEPT.enter_context(lab_lanes.stage())


def missing() -> str:
    """Why nothing can be measured on the lab; empty where it can."""
    lab = Lab()
    if os.environ.get("KUBECONFIG") not in (None, "", str(lab.kubeconfig)):
        return "KUBECONFIG names another cluster, and these groups stop daemons of the lab"
    if not lab.kubeconfig.exists():
        return "no lab is up (make lab)"
    try:
        found = {name: parts.TABLE[name].ready(lab) for name in NEEDED}
    except (LabError, OSError) as error:
        return f"the lab is not ready: {str(error).splitlines()[0][:200]}"
    return "; ".join(f"{name}: {why}" for name, why in found.items() if why)


def on_lab(name: str, group: Callable[[Stage], list[Bar]]) -> Group:
    """A group that says in one bar that it was not measured where there is no lab."""

    def measured() -> list[Bar]:
        if why := missing():
            return [Bar(name, None, "", "measured", False, 0, "", f"not measured: {why}")]
        on = stage()
        path = log(f"{name}.log")
        # What so many shifts at once say is no use on a screen.
        with path.open("w") as said, redirect_stdout(said):
            found = group(on)
        print(f"     {path.relative_to(ROOT)}", flush=True)
        return found

    measured.__name__ = name
    return measured


def split(on: Stage) -> list[Bar]:
    """F1: shares of 3,000 requests without cookies at three weights, against the router's own arithmetic."""
    rows = on.spread(WEIGHTS, _split)
    raw = keep("rollout-lab-split", rows)
    good = sum(not row["wrong"] for row in rows)
    note = "1, 10 and 50 %, one endpoint each; the local target has six weights and three sets of endpoints"
    return [exactly("shares within 3 sigma on the lab (F1)", good, len(WEIGHTS), "splits", raw=raw, note=note)]


def _split(lane: Lane, weight: int) -> dict[str, Any]:
    weights = {"blue": 100 - weight, "green": weight}
    lane.reset()
    lane.split(weights)
    eventually(lambda: lane.answers(300)["green"], 60)
    found, share = lane.answers(REQUESTS), expected_shares(weights, {"blue": 1, "green": 1})["green"]
    served = found["green"] / REQUESTS
    within = abs(served - share) <= tolerance(share, REQUESTS) and found["blue"] + found["green"] == REQUESTS
    return {
        "asked": weight / 100, "given": share, "served": served, "answers": dict(found),
        "wrong": [] if within else ["outside"],
    }  # fmt: skip


def lost(on: Stage) -> list[Bar]:
    """F3 and F2 with the router as OpenShift installs it: a reload closes the connections that clients keep."""
    return _lost(on, "")


def deferred(on: Stage) -> list[Bar]:
    """F3 and F2 with idleConnectionTerminationPolicy Deferred: a kept connection gets one more answer."""
    with _router(IDLE_CONNECTIONS[1]):
        return _lost(on, ", router Deferred")


@contextmanager
def _router(idle_connections: str) -> Iterator[None]:
    """Run the lab's router with another policy for idle connections; afterwards as it was."""
    lab, router = Lab(), parts.TABLE["router"]
    try:
        router.stop(lab)
        routes.start_with(lab, idle_connections)
        eventually(lambda: not router.ready(lab), 60)
        yield
    finally:
        router.stop(lab)
        router.start(lab)
        eventually(lambda: not router.ready(lab), 60)


def _lost(on: Stage, how: str) -> list[Bar]:
    """Go up to half, back, up to all, again and again, under load, on two Routes at once.

    The Task's code within this process against the lab's API: a pod for each of some ninety shifts would load the node
    more than the clients do. Every cycle ends with the other colour live, and the next one goes back.
    """
    with ThreadPoolExecutor(LOST_LANES) as pool:
        found = list(pool.map(partial(_cycles, on), on.lanes[:LOST_LANES]))
    rows = [row for one in found for row in one["cycles"]]
    answers = [answer for one in found for answer in one["answers"]]
    wrong = [told for one in found for told in one["history"]]
    asked, bad = len(answers), [a for a in answers if not 200 <= a[2] < 300]
    kinds = Counter(kind for _, kind, _, _ in answers)
    statuses = [{"kind": kind, "status": status} for _, kind, status, _ in bad]
    # A kept connection that a reload of the router closes may take a request with it; a new one must not.
    told = ", ".join(f"{sum(a[1] == kind for a in bad)} of {count} {kind}" for kind, count in kinds.items())
    errors = [error for one in found for error in one["errors"]]
    raw = keep(
        f"rollout-lab-{'deferred' if how else 'lost'}",
        {"cycles": rows, "asked": kinds, "bad": statuses, "errors": errors, "history": wrong},
    )
    bound = rate_bound(len(bad), asked)
    shifts, slowest = 3 * len(rows), max(row["last_canary_answer"] for row in rows)
    return [
        at_most(f"requests lost in shifts on the lab{how} (F3)", len(bad), 0, f"of {asked}", n=asked, raw=raw,
                note=f"at most {bound:.1e} at 95 %; lost {told}; {shifts} shifts in process"),
        at_most(f"last canary answer on the lab{how} (F2)", slowest, 7, "s", n=len(rows), raw=raw,
                note=f"slowest of {len(rows)} rollbacks"),
        at_most(f"API write of a rollback on the lab{how} (F2)", max(r["write"] for r in rows), 1, "s", n=len(rows),
                raw=raw),
        exactly(f"cycles under load that end as they should{how} (F3)", 0 if wrong else sum(r["sound"] for r in rows),
                len(rows), "cycles", raw=raw),
    ]  # fmt: skip


def _cycles(on: Stage, lane: Lane) -> dict[str, Any]:
    """One Route's part of the cycles and of the requests."""
    rows: list[dict[str, Any]] = []

    def shifter(colour: str, weight: int) -> shift.Shifter:
        return lane.shifter(colour, weight=weight)

    start = lane.reset()
    with Load(lane.target.router, lane.route().host, LOST_PER_SECOND / LOST_LANES) as load:
        while len(rows) < LOST_CYCLES / LOST_LANES or len(load.answers) < LOST_REQUESTS / LOST_LANES:
            rows.append(cycle(load, lane.route().live, shifter, lane.digests))
    return {"cycles": rows, "answers": load.answers, "errors": load.lost, "history": on.wrong(lane, start)}


GROUPS: dict[str, Group] = {
    name: on_lab(name, group)
    for name, group in {
        "lab-split": split,
        "lab-lost": lost,
        "lab-deferred": deferred,
        "lab-live": rollout_lab_live.live,
        "lab-absence": rollout_lab_absence.absence,
        "lab-crash": rollout_lab_faults.crash,
        "lab-rivals": rollout_lab_faults.rivals,
        "lab-ambiguous": rollout_lab_faults.ambiguous,
        "lab-foreign": rollout_lab_faults.foreign,
        "lab-deadman": rollout_lab_deadman.deadman,
        "lab-endings": rollout_lab_endings.endings,
        "lab-restarts": rollout_lab_endings.restarts,
    }.items()
}
