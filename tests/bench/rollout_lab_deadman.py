"""Orphaned shifts on the lab (F6): Task route-shift loses its program, its pod, its run, or who looks after it.

A group of rollout_lab.py. The Deployment route-guard, as the catalog installs it, is all that is left to act. Where the
controller or the kubelet stops, the program is killed as well: alone they hurt no shift, which two more runs show. A
pod that is deleted orphans its shift only where no controller is there: Tekton starts the TaskRun in another pod, which
goes on with what the first one left; two more runs show that. A tenth of the expiry is about what Tekton takes for that
pod, and a guard that comes between is not fought: those two have half of the expiry.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bars import Bar, exactly, keep
from lab import daemons, tekton
from lab.part import Lab
from lab_lanes import ALL_BLUE, ALL_GREEN, EXPIRY_SECONDS, Lane, Row, Stage
from rollout_stage import wait_for
from shift_runs import Act, Around, at_step, canary, nothing, pod_deleted, program_killed, run_deleted, run_ended
from waiting import eventually

from isotherm import tekton as programs
from isotherm.deploy import routes, shifts

STEPS = (10, 25, 50)
GRACE_SECONDS = 10.0
SECOND_POD_EXPIRY_SECONDS = 30.0
CONTROLLER = "deployment/tekton-pipelines-controller"
CANCELLED = run_ended("Cancelled")  # the way that skips `finally`


@contextmanager
def no_controller(on: Stage) -> Iterator[None]:
    """Tekton's controller scaled to nothing, and back."""
    kubectl = on.space.target.kubectl
    kubectl("-n", tekton.NAMESPACE, "scale", CONTROLLER, "--replicas=0")
    try:
        selector = "app.kubernetes.io/component=controller,app.kubernetes.io/part-of=tekton-pipelines"
        listed = ("-n", tekton.NAMESPACE, "get", "pods", "-l", selector, "-o", "name")
        eventually(lambda: not kubectl(*listed).strip(), 60, every=0.5)
        yield
    finally:
        kubectl("-n", tekton.NAMESPACE, "scale", CONTROLLER, "--replicas=1")
        kubectl("-n", tekton.NAMESPACE, "rollout", "status", CONTROLLER, "--timeout=120s")


@contextmanager
def no_kubelet(_: Stage) -> Iterator[None]:
    """The kubelet stopped: the node's containers run on, and nobody looks after them."""
    process = daemons.find(Lab(), "kubelet")
    assert process is not None
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@dataclass(frozen=True)
class Case:
    """What happens at a step, and within which fault of the platform."""

    step: int
    act: Act
    within: Callable[[Stage], Any] = lambda _: nullcontext()
    expiry: float = EXPIRY_SECONDS

    @property
    def around(self) -> Around:
        """The run's."""
        return Around(canary(STEPS, self.expiry))

    @property
    def name(self) -> str:
        """As the raw table has it."""
        fault = self.within.__name__ if self.within in (no_controller, no_kubelet) else ""
        return f"{self.act.__name__} {fault}".strip()


CASES = (
    Case(10, program_killed), Case(50, program_killed), Case(100, program_killed),
    Case(25, run_deleted), Case(50, run_deleted),
    Case(10, CANCELLED), Case(25, CANCELLED),
    Case(25, program_killed, no_controller), Case(25, pod_deleted, no_controller),
    Case(50, program_killed, no_kubelet),
)  # fmt: skip
CARRIED_ON = (
    Case(25, nothing, no_controller), Case(50, nothing, no_kubelet),
    Case(10, pod_deleted, expiry=SECOND_POD_EXPIRY_SECONDS), Case(50, pod_deleted, expiry=SECOND_POD_EXPIRY_SECONDS),
)  # fmt: skip


def deadman(on: Stage) -> list[Bar]:
    """F6: ten orphaned shifts at four steps, and four that are not orphaned by what happens and go on."""
    lane = on.lanes[0]
    rows = on.spread(enumerate(CASES), lambda _, job: _orphaned(on, lane, *job), lanes=1)
    others = on.spread(enumerate(CARRIED_ON), lambda _, job: _carried_on(on, lane, *job), lanes=1)
    raw = keep("rollout-lab-deadman", {"orphaned": rows, "carried on": others})
    told = [row for row in rows if "seconds" in row]
    slowest, latest = (max((row[key] for row in told), default=float("inf")) for key in ("seconds", "after_expiry"))
    note = (
        f"expiry {EXPIRY_SECONDS:g} s of 60, the guard looks every 5 s; at most {slowest:.1f} s after the fault, "
        f"{latest:.1f} s after the expiry; 50 runs are asked for"
    )
    return [
        exactly("orphaned shifts on the lab taken back in time (F6)", sum(not row["wrong"] for row in rows), len(CASES),
                "runs", raw=raw, note=note),
        exactly("shifts that go on and end well all the same (F6)", sum(not row["wrong"] for row in others),
                len(CARRIED_ON), "runs", raw=raw, note="controller away, kubelet stopped; pod deleted at two steps "
                f"(expiry {SECOND_POD_EXPIRY_SECONDS:g} s)"),
    ]  # fmt: skip


def _orphaned(on: Stage, lane: Lane, number: int, case: Case) -> Row:
    start, name, rng = lane.reset(), f"orphan-{number}", random.Random(600 + number)
    with at_step(on, lane, name, case.act, case.step, case.around) as act, case.within(on):
        if case.step < 100:  # the last one is confirmed as soon as the router has it
            time.sleep(3 * rng.random())
        at, began = lane.route(), time.monotonic()
        act()
        took = wait_for(lambda: dict(lane.route().weights) == ALL_BLUE and not lane.route().shifting, 60)
        now, seconds = programs.utcnow(), time.monotonic() - began
        served = wait_for(lambda: set(lane.answers(20)) == {"blue"}, 30)
    history = on.history(lane, start)
    late = _after_expiry(history, now) if took < float("inf") else took
    wrong = [*on.wrong(lane, start, *on.holders(lane, start), steps=STEPS), lane.legal(ALL_BLUE)]
    wrong += [] if at.shifting else [f"the shift was not under way any more: {routes.describe(at.weights)}"]
    wrong += [] if history[-1].holder == shifts.GUARD else [f"{history[-1].holder} took it back, not the guard"]
    wrong += [] if late <= GRACE_SECONDS else [f"taken back {late:.1f} s after its expiry"]
    return {
        "case": case.name, "step": case.step, "at": routes.describe(at.weights), "seconds": seconds,
        "after_expiry": late, "all_answers_blue_after": served, "wrong": [one for one in wrong if one],
    }  # fmt: skip


def _after_expiry(history: list[routes.Route], now: datetime) -> float:
    """Seconds since the expiry that stood on the Route last; inf where none did."""
    noted = [version.expires for version in history if version.expires is not None]
    return (now - noted[-1]).total_seconds() if noted else float("inf")


def _carried_on(on: Stage, lane: Lane, number: int, case: Case) -> Row:
    start, name = lane.reset(), f"carried-on-{number}"
    with at_step(on, lane, name, case.act, case.step, case.around) as act:
        with case.within(on):
            act()
            took = wait_for(lambda: lane.route().live == "green" and not lane.route().shifting, 120)
        ended = on.space.wait(name, 120)
        said = [on.space.log(task_run).splitlines()[-3:] for task_run in ended.task_runs]
    wrong = [*on.wrong(lane, start, *on.holders(lane, start), steps=STEPS), lane.legal(ALL_GREEN)]
    wrong += [] if ended.succeeded else [f"the run is not told as Succeeded: {ended.condition}", said]
    return {"case": case.name, "step": case.step, "seconds": took, "wrong": [one for one in wrong if one]}
