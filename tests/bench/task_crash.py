"""F7 and F16 for the Tasks beside route-shift, at their writes to the API server and to MLflow.

F7: SIGKILL of a Task's program right before and right after each, then the same Task again in the same folders, as
Tekton does with a pod that died. F16: there the program is stopped instead, for as long as a second pod of the same
TaskRun lives its whole life, and goes on then.

Each try has to end as one life that nobody disturbed: the same objects, runs, models, versions, tags and aliases, none
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import task_program
from bars import Bar, exactly, keep
from deploy_target import Target
from spread import Row, spread
from task_cases import SCENARIOS, Scenario, World, normal, worlds
from task_life import Before, Case

from isotherm import kube

LANES = 2
SECOND = "second"
TRAINING_STRIDE = 5  # of a training's many writes, those at which two pods meet
Try = Callable[[Case, int, bool], Row]


def _cut_turns(target: Target) -> None:
    """Let a dead writer's Lease end in a second, so that nobody waits the whole minute."""
    for one in target.cluster.list(kube.LEASE, ""):
        change = {"spec": {"leaseDurationSeconds": 1}}
        if one["spec"].get("leaseDurationSeconds"):
            target.cluster.patch(kube.LEASE, one["metadata"]["name"], change, one["metadata"]["resourceVersion"])


def _tried(attempt: Try, training_stride: int = 1) -> list[Row]:
    """Try at each write of every case, on both sides, and compare with a life that nobody disturbs."""

    def work(one: World, job: tuple[Scenario, bool]) -> Row:
        scenario, again = job
        case = scenario(one, again)
        writes, whole = case.live_well(), normal(case.state())
        points = range(1, len(writes) + 1, training_stride if case.task == "pinn-train" else 1)
        rows = list(_rows(one, scenario, again, points, attempt, whole))
        print(f"     {case.task}: {len(points)} of {len(writes)} writes", flush=True)
        return {"scenario": scenario.__name__, "again": again, "writes": writes, "whole": whole, "rows": rows}

    with worlds(LANES) as lanes:
        return spread(lanes, product(SCENARIOS, (False, True)), work)


def _rows(one: World, scenario: Scenario, again: bool, points: range, attempt: Try, whole: Any) -> Iterator[Row]:
    for at, after in product(points, (False, True)):
        case = scenario(one, again)
        row = attempt(case, at, after)
        found = normal(case.state())
        row["wrong"] += [] if found == whole else [{"whole": whole, "found": found}]
        yield {"scenario": scenario.__name__, "task": case.task, "number": at, "after": after} | row


def _killed(case: Case, at: int, after: bool) -> Row:
    """Kill at one write, and run once more."""
    with Before(case.target, at, after=after) as door:
        case.live(door)
    _cut_turns(case.target)
    with Before(case.target) as second:
        status = case.live(second)
    wrong: list[Any] = [] if status == 0 else [f"the second ended with {status}: {task_program.said(case.folder)}"]
    wrong += [] if door.struck else ["the write was not reached"]
    return {"write": door.writes[-1] if door.writes else "", "repeated": second.writes, "wrong": wrong}


def _met(case: Case, at: int, after: bool) -> Row:
    """Hold the first pod up at one write while a second one lives."""
    ended: list[int] = []

    def second() -> None:
        _cut_turns(case.target)
        with Before(case.target) as door:
            ended.append(case.live(door, SECOND))

    with Before(case.target, at, after=after, deadly=False) as door:
        first = case.live(door, meanwhile=second)
    wrong: list[Any] = [] if ended == [0] else [f"the second: {ended}, {task_program.said(case.folder / SECOND)}"]
    write = door.writes[at - 1] if len(door.writes) >= at else ""
    return {"write": write, "first": first, "said": task_program.said(case.folder), "wrong": wrong}


def crash_tasks() -> list[Bar]:
    """F7: every write of every Task but route-shift's, on both sides."""
    tried = _tried(_killed)
    note = "every write to API and MLflow; a dead writer's Lease is cut to a second"
    return [_bar("crash points of other Tasks that end as whole (F7)", "crash", "points", tried, note)]


def zombie_tasks() -> list[Bar]:
    """F16: two pods of one TaskRun alive, at every write of every Task but route-shift's; of a training's at some."""
    tried = _tried(_met, TRAINING_STRIDE)
    refused = sum(row["first"] != 0 for one in tried for row in one.get("rows", ()))
    note = f"{refused} times the first was refused; of a training's writes one in {TRAINING_STRIDE}"
    return [_bar("two pods of a Task that end as one (F16)", "zombie", "meetings", tried, note)]


def _bar(name: str, raw: str, unit: str, tried: list[Row], note: str) -> Bar:
    """All rows of all cases; a case that broke is one that went wrong."""
    rows = [row for one in tried for row in one.get("rows", [one])]
    good = sum(not row["wrong"] for row in rows)
    return exactly(name, good, len(rows), unit, raw=keep(f"rollout-{raw}-tasks", tried), note=note)


GROUPS: tuple[Callable[[], list[Bar]], ...] = (crash_tasks, zombie_tasks)
