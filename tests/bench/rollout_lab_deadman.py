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
from pathlib import Path
from typing import Any

import yaml
from bars import Bar, exactly, keep
from lab import daemons, node, tekton
from lab.part import Lab
from lab_lanes import ALL_BLUE, ALL_GREEN, EXPIRY_SECONDS, Lane, Row, Stage
from rollout_stage import wait_for
from shift_driver import params
from waiting import eventually

from isotherm import tekton as programs
from isotherm.deploy import routes, shifts
from isotherm_local.processes import Process

STEPS = (10, 25, 50)
GRACE_SECONDS = 10.0
SECOND_POD_EXPIRY_SECONDS = 30.0
CONTROLLER = "deployment/tekton-pipelines-controller"
# Given a stage, a PipelineRun and its pod, prepares what is to happen, which then happens at once.
Act = Callable[[Stage, str, str], Callable[[], object]]


def program_killed(on: Stage, _: str, pod: str) -> Callable[[], object]:
    """SIGKILL of everything in the step's container."""
    statuses = on.space.get("pod", pod)["status"]["containerStatuses"]
    [container] = [s["containerID"].partition("://")[2] for s in statuses if s["name"] == "step-shift"]
    pids = [int(line.split()[0]) for line in node.ctr("task", "ps", container).splitlines()[1:]]
    mine = [pid for pid in pids if b"isotherm.deploy.shift" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert mine, f"no process of {pod} is the step's"
    processes = [Process.of(pid) for pid in mine]

    def kill() -> None:
        for process in processes:
            process.signal(signal.SIGKILL)

    return kill


def pod_deleted(on: Stage, _: str, pod: str) -> Callable[[], object]:
    """The pod, without a grace period."""
    return lambda: on.space.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def run_deleted(on: Stage, run: str, _: str) -> Callable[[], object]:
    """The PipelineRun; its pod goes with it, and nothing `finally`."""
    return lambda: on.space.kubectl("delete", "pipelinerun", run, "--wait=false")


def run_cancelled(on: Stage, run: str, _: str) -> Callable[[], object]:
    """The PipelineRun, in the way that skips `finally`."""
    patch = '{"spec": {"status": "Cancelled"}}'
    return lambda: on.space.kubectl("patch", "pipelinerun", run, "--type=merge", "-p", patch)


def nothing(_on: Stage, _run: str, _pod: str) -> Callable[[], object]:
    """The program lives on."""
    return lambda: None


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
    def name(self) -> str:
        """As the raw table has it."""
        fault = self.within.__name__ if self.within in (no_controller, no_kubelet) else ""
        return f"{self.act.__name__} {fault}".strip()


CASES = (
    Case(10, program_killed), Case(50, program_killed), Case(100, program_killed),
    Case(25, run_deleted), Case(50, run_deleted),
    Case(10, run_cancelled), Case(25, run_cancelled),
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


def _start(on: Stage, lane: Lane, name: str, expiry: float) -> None:
    """A PipelineRun of Task route-shift alone, which has claimed both colours."""
    steps = ",".join(map(str, STEPS))
    given = params(lane, "$(context.pipelineRun.uid)", step_weights=steps, expiry_seconds=f"{expiry:g}")
    task = {
        "name": "shift", "taskRef": {"name": "route-shift"},
        "workspaces": [{"name": "reports", "workspace": "reports"}],
        "params": [{"name": key, "value": value} for key, value in given.items()],
    }  # fmt: skip
    spec = {
        "pipelineSpec": {"tasks": [task], "workspaces": [{"name": "reports"}]},
        "workspaces": [{"name": "reports", "emptyDir": {}}],
        "taskRunSpecs": [{"pipelineTaskName": "shift", "serviceAccountName": "route-shift"}],
    }
    run = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": name}, "spec": spec}
    on.space.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))
    lane.claim(on.space.get("pipelinerun", name)["metadata"]["uid"])


@contextmanager
def _at_step(on: Stage, lane: Lane, name: str, case: Case) -> Iterator[Callable[[], object]]:
    """A run that has come to the case's step; gives what is to happen there. Ends with nothing left of the run."""
    try:
        _start(on, lane, name, case.expiry)
        _come_to(lane, STEPS[0])
        act = case.act(on, name, on.space.task_runs(name)[0]["status"]["podName"])
        _come_to(lane, case.step)
        yield act
    finally:
        on.space.kubectl("delete", "pipelinerun", name, "--ignore-not-found", "--wait=true")
        on.space.kubectl("delete", "pods", "-l", f"tekton.dev/pipelineRun={name}", "--grace-period=1", check=False)


def _come_to(lane: Lane, step: int) -> None:
    waited = wait_for(lambda: lane.route().weights["green"] >= step and lane.route().shifting, 180)
    assert waited < float("inf"), f"it did not come to {step} %"


def _orphaned(on: Stage, lane: Lane, number: int, case: Case) -> Row:
    start, name, rng = lane.reset(), f"orphan-{number}", random.Random(600 + number)
    with _at_step(on, lane, name, case) as act, case.within(on):
        if case.step < 100:  # the last one is confirmed as soon as the router has it
            time.sleep(3 * rng.random())
        at, began = lane.route(), time.monotonic()
        act()
        took = wait_for(lambda: dict(lane.route().weights) == ALL_BLUE and not lane.route().shifting, 60)
        now, seconds = programs.utcnow(), time.monotonic() - began
        served = wait_for(lambda: set(lane.answers(20)) == {"blue"}, 30)
    history = on.history(lane, start)
    late = _after_expiry(history, now) if took < float("inf") else took
    holders = {version.holder for version in history} - {"", shifts.GUARD}
    wrong = [*on.wrong(lane, start, *holders, steps=STEPS), lane.legal(ALL_BLUE)]
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
    with _at_step(on, lane, name, case) as act:
        with case.within(on):
            act()
            took = wait_for(lambda: lane.route().live == "green" and not lane.route().shifting, 120)
        ended = on.space.wait(name, 120)
        said = [on.space.log(task_run).splitlines()[-3:] for task_run in ended.task_runs]
    holders = {version.holder for version in on.history(lane, start)} - {"", shifts.GUARD}
    wrong = [*on.wrong(lane, start, *holders, steps=STEPS), lane.legal(ALL_GREEN)]
    wrong += [] if ended.succeeded else [f"the run is not told as Succeeded: {ended.condition}", said]
    return {"case": case.name, "step": case.step, "seconds": took, "wrong": [one for one in wrong if one]}
