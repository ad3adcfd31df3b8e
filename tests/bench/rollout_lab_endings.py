"""How a run with a shift ends on the lab where something in it fails or hangs (F17), and where the platform does (F18).

Groups of rollout_lab.py: PipelineRuns of Task route-shift with a Task after it and one in `finally`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from bars import Bar, exactly, keep
from lab import kills, tekton
from lab_lanes import ALL_BLUE, ALL_GREEN, EXPIRY_SECONDS, Lane, Row, Stage
from lab_objects import task
from rollout_stage import wait_for
from shift_runs import Act, Around, at_step, canary, nothing, program_stopped, run_ended, started
from waiting import beside

from isotherm.deploy import routes
from isotherm_local.ports import free_port

STEP = 25
LATE_SECONDS = 30.0  # after a timeout, all has to be over
WELL, FAILS, HANGS = "pass", "raise SystemExit(1)", "import time; time.sleep(600)"
AFTER, LAST = "after", "last"
RUN_SECONDS = 300.0
RUNS, PAUSE_SECONDS, CARRY_ON_SECONDS = 10, 10.0, 30.0


def step(name: str, program: str) -> dict[str, Any]:
    """A pipeline task of one Python program, in the catalog's image with its rights."""
    spec = task()["spec"]
    own = {key: spec["steps"][0][key] for key in ("image", "computeResources")}
    steps = [{**own, "name": name, "command": ["python", "-c", program]}]
    return {"name": name, "taskSpec": {"stepTemplate": spec["stepTemplate"], "steps": steps}}


@dataclass(frozen=True)
class Case:
    """What fails or hangs, where the Route ends then, and whether `finally` has to have run."""

    name: str
    ends: routes.Weights
    act: Act = nothing  # at STEP
    then: str = WELL
    last: str = WELL
    given: dict[str, str] = field(default_factory=dict)
    timeouts: dict[str, str] = field(default_factory=dict)
    limit: float = RUN_SECONDS  # the run's longest timeout, s
    reported: bool = True

    @property
    def around(self) -> Around:
        """The run's."""
        given = canary((STEP,), EXPIRY_SECONDS) | self.given
        return Around(given, step(AFTER, self.then), step(LAST, self.last), self.timeouts or None)


SHORT = {"pipeline": "100s", "tasks": "60s", "finally": "40s"}
CASES = (
    Case("shift fails: no router", ALL_BLUE, given={"router_url": f"http://127.0.0.1:{free_port()}",
                                                    "verify_timeout_seconds": "5"}),
    Case("shift hangs", ALL_BLUE, program_stopped, timeouts=SHORT, limit=60),
    Case("shift takes too long", ALL_BLUE, given={"bake_seconds": "200", "hold_seconds": "300"}, timeouts=SHORT,
         limit=60),
    Case("the Task after it fails", ALL_GREEN, then=FAILS),
    Case("the Task after it hangs", ALL_GREEN, then=HANGS, timeouts=SHORT, limit=60),
    Case("finally fails", ALL_GREEN, last=FAILS),
    Case("finally hangs", ALL_GREEN, last=HANGS, timeouts=SHORT, limit=100),
    Case("Cancelled", ALL_BLUE, run_ended("Cancelled"), reported=False),
    Case("CancelledRunFinally", ALL_BLUE, run_ended("CancelledRunFinally")),
    Case("StoppedRunFinally", ALL_GREEN, run_ended("StoppedRunFinally")),
)  # fmt: skip


def endings(on: Stage) -> list[Bar]:
    """F17: no such run is green, each is over in time, and leaves one model with all traffic and no shift under way."""
    lane = on.lanes[0]
    rows = on.spread(enumerate(CASES), lambda _, job: _ended(on, lane, *job), lanes=1)
    raw = keep("rollout-lab-endings", rows)
    good = sum(not row["wrong"] for row in rows)
    note = "shift, a Task after it and finally: fail, hang, take too long; Cancelled, CancelledRunFinally, Stopped"
    return [exactly("runs that end red, in time and with one live model (F17)", good, len(CASES), "runs", raw=raw,
                    note=note)]  # fmt: skip


def _ended(on: Stage, lane: Lane, number: int, case: Case) -> Row:
    version, name = lane.reset(), f"ending-{number}"
    with _at_the_fault(on, lane, name, case):
        ended = on.space.wait(name, RUN_SECONDS)
        settled = wait_for(lambda: not lane.legal(case.ends), EXPIRY_SECONDS + 10)
    wrong = [*on.wrong(lane, version, *on.holders(lane, version), steps=(STEP,)), lane.legal(case.ends)]
    wrong += ["the run is told as Succeeded"] if ended.succeeded else []
    wrong += [] if ended.seconds <= case.limit + LATE_SECONDS else [f"over after {ended.seconds:.0f} s"]
    wrong += [] if (LAST in ended.states()) == case.reported else [f"finally: {ended.states()}"]
    return {
        "case": case.name, "seconds": ended.seconds, "settled": settled, "condition": ended.condition["reason"],
        "states": ended.states(), "wrong": [one for one in wrong if one],
    }  # fmt: skip


@contextmanager
def _at_the_fault(on: Stage, lane: Lane, name: str, case: Case) -> Iterator[None]:
    """The case's run, after what happens to it while it shifts."""
    if case.act is nothing:
        with started(on, lane, name, case.around):
            yield
        return
    with at_step(on, lane, name, case.act, STEP, case.around) as act:
        act()
        yield


DEATHS: tuple[tuple[str, Callable[[Callable[..., str]], None]], ...] = (
    ("Tekton", kills.pods(tekton.NAMESPACE, "app.kubernetes.io/name=controller")),
    ("router", kills.daemon("router", "router", 2)),
    ("kube-controller-manager", kills.daemon("control-plane", "kube-controller-manager", 5)),
    ("KServe", kills.pods("kserve", "control-plane=kserve-controller-manager")),
    ("MLflow", kills.daemon("mlflow", "mlflow", 5)),
)


def restarts(on: Stage) -> list[Bar]:
    """F18: ten rollouts while every ten seconds the next part of the platform dies."""
    lane, deaths = on.lanes[0], list[str]()
    before = lane.objects()
    with _dying(on, deaths):
        rows = on.spread(range(RUNS), lambda _, number: _survived(on, lane, number, before), lanes=1)
    raw = keep("rollout-lab-restarts", {"runs": rows, "deaths": deaths})
    good, succeeded = sum(not row["wrong"] for row in rows), sum(bool(row.get("succeeded")) for row in rows)
    parts = [name for name, _ in DEATHS]
    good = good if set(parts) <= set(deaths) else 0  # a part that did not die shows nothing
    note = f"{len(deaths)} deaths of {', '.join(parts)}; {succeeded} runs Succeeded, else taken back"
    return [exactly("rollouts that converge while parts die (F18)", good, RUNS, "runs", raw=raw, note=note)]


@contextmanager
def _dying(on: Stage, deaths: list[str]) -> Iterator[None]:
    """One part after the other, beside a block; afterwards all are ready again."""

    def die(ended: threading.Event) -> None:
        for name, act in cycle(DEATHS):
            if ended.wait(PAUSE_SECONDS):
                return
            act(on.space.target.kubectl)
            deaths.append(name)

    try:
        with beside(die):
            yield
    finally:
        kills.all_ready("control-plane", "router", "mlflow", "kserve", "tekton-pipelines")


def _survived(on: Stage, lane: Lane, number: int, before: set[str]) -> Row:
    version, name = lane.reset(), f"survivor-{number}"
    around = Around(canary((STEP,), CARRY_ON_SECONDS), step(AFTER, WELL), step(LAST, WELL))
    with started(on, lane, name, around):
        ended = on.space.wait(name, RUN_SECONDS)
        ends = ALL_GREEN if ended.states().get("shift") == "Succeeded" else ALL_BLUE
        settled = wait_for(lambda: not lane.legal(ends), CARRY_ON_SECONDS + 10)
    added = lane.objects() ^ before
    wrong = [*on.wrong(lane, version, *on.holders(lane, version), steps=(STEP,)), lane.legal(ends)]
    wrong += [f"objects came or went: {sorted(added)}"] if added else []
    return {
        "seconds": ended.seconds, "settled": settled, "succeeded": ended.succeeded, "states": ended.states(),
        "condition": ended.condition["reason"], "wrong": [one for one in wrong if one],
    }  # fmt: skip
