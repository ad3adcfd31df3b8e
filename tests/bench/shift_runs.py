"""PipelineRuns of Task route-shift on the lab: their start, how they come to a step, and what befalls them there."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lab import node
from lab_lanes import Lane, Stage
from rollout_stage import wait_for
from shift_driver import params

from isotherm_local.processes import Process

# Given a stage, a PipelineRun and its pod, prepares what is to happen, which then happens at once.
Act = Callable[[Stage, str, str], Callable[[], object]]


def _programs_of(on: Stage, pod: str) -> list[Process]:
    """The processes of route-shift in the step's container."""
    statuses = on.space.get("pod", pod)["status"]["containerStatuses"]
    [container] = [s["containerID"].partition("://")[2] for s in statuses if s["name"] == "step-shift"]
    pids = [int(line.split()[0]) for line in node.ctr("task", "ps", container).splitlines()[1:]]
    mine = [pid for pid in pids if b"isotherm.deploy.shift" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert mine, f"no process of {pod} is the step's"
    return [Process.of(pid) for pid in mine]


def _signalled(number: int, on: Stage, pod: str) -> Callable[[], object]:
    processes = _programs_of(on, pod)

    def act() -> None:
        for process in processes:
            process.signal(number)

    return act


def program_killed(on: Stage, _: str, pod: str) -> Callable[[], object]:
    """SIGKILL of everything in the step's container."""
    return _signalled(signal.SIGKILL, on, pod)


def program_stopped(on: Stage, _: str, pod: str) -> Callable[[], object]:
    """SIGSTOP of everything in the step's container: it hangs."""
    return _signalled(signal.SIGSTOP, on, pod)


def pod_deleted(on: Stage, _: str, pod: str) -> Callable[[], object]:
    """The pod, without a grace period."""
    return lambda: on.space.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def run_deleted(on: Stage, run: str, _: str) -> Callable[[], object]:
    """The PipelineRun; its pod goes with it, and nothing `finally`."""
    return lambda: on.space.kubectl("delete", "pipelinerun", run, "--wait=false")


def run_ended(status: str) -> Act:
    """The PipelineRun, in one of Tekton's ways."""
    patch = json.dumps({"spec": {"status": status}})

    def act(on: Stage, run: str, _: str) -> Callable[[], object]:
        return lambda: on.space.kubectl("patch", "pipelinerun", run, "--type=merge", "-p", patch)

    act.__name__ = f"run {status}"
    return act


def nothing(_on: Stage, _run: str, _pod: str) -> Callable[[], object]:
    """The program lives on."""
    return lambda: None


@dataclass(frozen=True)
class Around:
    """What a PipelineRun has beside its shift: params of its own, a Task after it, one `finally`, timeouts."""

    given: dict[str, str] = field(default_factory=dict)
    then: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    timeouts: dict[str, str] | None = None


def start(on: Stage, lane: Lane, name: str, around: Around) -> None:
    """A PipelineRun of Task route-shift, which has claimed both colours."""
    given = params(lane, "$(context.pipelineRun.uid)", **around.given)
    task = {
        "name": "shift", "taskRef": {"name": "route-shift"},
        "workspaces": [{"name": "reports", "workspace": "reports"}],
        "params": [{"name": key, "value": value} for key, value in given.items()],
    }  # fmt: skip
    after = [around.then | {"runAfter": ["shift"]}] if around.then else []
    pipeline = {"tasks": [task, *after], "workspaces": [{"name": "reports"}]}
    spec: dict[str, Any] = {
        "pipelineSpec": pipeline | ({"finally": [around.last]} if around.last else {}),
        "workspaces": [{"name": "reports", "emptyDir": {}}],
        "taskRunSpecs": [{"pipelineTaskName": "shift", "serviceAccountName": "route-shift"}],
    } | ({"timeouts": around.timeouts} if around.timeouts else {})
    run = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": name}, "spec": spec}
    on.space.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))
    lane.claim(on.space.get("pipelinerun", name)["metadata"]["uid"])


def canary(steps: tuple[int, ...], expiry: float) -> dict[str, str]:
    """Params of a canary with these steps."""
    return {"step_weights": ",".join(map(str, steps)), "expiry_seconds": f"{expiry:g}"}


@contextmanager
def started(on: Stage, lane: Lane, name: str, around: Around) -> Iterator[None]:
    """Such a run, for a block; nothing is left of it afterwards."""
    try:
        start(on, lane, name, around)
        yield
    finally:
        on.space.kubectl("delete", "pipelinerun", name, "--ignore-not-found", "--wait=true")
        on.space.kubectl("delete", "pods", "-l", f"tekton.dev/pipelineRun={name}", "--grace-period=1", check=False)


@contextmanager
def at_step(on: Stage, lane: Lane, name: str, act: Act, step: int, around: Around) -> Iterator[Callable[[], object]]:
    """A run that has come to this step; gives what is to happen there."""
    with started(on, lane, name, around):
        come_to(lane, 1)
        ready = act(on, name, on.space.task_runs(name)[0]["status"]["podName"])
        come_to(lane, step)
        yield ready


def come_to(lane: Lane, step: int) -> None:
    waited = wait_for(lambda: lane.route().weights["green"] >= step and lane.route().shifting, 180)
    assert waited < float("inf"), f"it did not come to {step} %"
