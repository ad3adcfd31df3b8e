"""F7 for the Tasks beside route-shift: SIGKILL of a Task's program right before and right after each of its writes to
the API server and to MLflow, then the same Task again in the same folders, as Tekton does with a pod that died.

Each try has to end as one that nobody killed: the same objects, runs, models, versions, tags and aliases, none twice.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import task_program
from bars import Bar, exactly, keep
from deploy_target import Target
from task_cases import SCENARIOS, Scenario, World, normal, world
from task_life import Before

from isotherm import kube


def _cut_turns(target: Target) -> None:
    """Let a dead writer's Lease end in a second, so that nobody waits the whole minute."""
    for one in target.cluster.list(kube.LEASE, ""):
        change = {"spec": {"leaseDurationSeconds": 1}}
        if one["spec"].get("leaseDurationSeconds"):
            target.cluster.patch(kube.LEASE, one["metadata"]["name"], change, one["metadata"]["resourceVersion"])


def _tried(world: World, scenario: Scenario, again: bool, at: int, after: bool, whole: Any) -> dict[str, Any]:
    """Kill at one write, run once more, and compare."""
    case = scenario(world, again)
    with Before(case.target, at, after=after) as door:
        case.live(door)
    _cut_turns(case.target)
    with Before(case.target) as second:
        status = case.live(second)
    state = normal(case.state())
    wrong = [] if status == 0 else [f"the second life ended with {status}: {task_program.said(case.folder)}"]
    if state != whole:
        wrong.append({"whole": whole, "found": state})
    return {
        "task": case.task, "write": door.writes[-1] if door.writes else "", "number": at, "after": after,
        "died": door.struck, "repeated": second.writes, "wrong": wrong,
    }  # fmt: skip


def crash_tasks() -> list[Bar]:
    """F7: every write of every Task but route-shift's, on both sides."""
    rows, wholes = [], {}
    with world() as one:
        for scenario, again in product(SCENARIOS, (False, True)):
            case = scenario(one, again)
            writes, whole = case.live_well(), normal(case.state())
            wholes[f"{scenario.__name__} {again}"] = {"writes": writes, "whole": whole}
            for at, after in product(range(1, len(writes) + 1), (False, True)):
                rows.append({"scenario": scenario.__name__} | _tried(one, scenario, again, at, after, whole))
            print(f"     {case.task}: {len(writes)} writes", flush=True)
    raw = keep("rollout-crash-tasks", {"rows": rows, "whole": wholes})
    good = sum(row["died"] and not row["wrong"] for row in rows)
    return [
        exactly("crash points of other Tasks that end as whole (F7)", good, len(rows), "points", raw=raw,
                note="every write to API and MLflow; a dead writer's Lease is cut to a second"),
    ]  # fmt: skip
