"""The normal form of a finished run, from the objects of a cluster: see `isotherm_local.runner.normal`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Object = Mapping[str, Any]


def from_tekton(run: Object, task_runs: Iterable[Object] = ()) -> dict[str, Any]:
    """Make the normal form of a PipelineRun and its TaskRuns, or of a TaskRun, as `kubectl get -o json` gives them.

    TaskRuns that the run's `status.childReferences` does not name are left out.
    """
    if run["kind"] == "TaskRun":
        return {"kind": "TaskRun", **_task_run(run)}
    status = run.get("status") or {}
    spec = status.get("pipelineSpec") or {}
    matrices = {task["name"] for task in _tasks(spec) if task.get("matrix")}
    children: dict[str, list[Object]] = {}
    found = {one["metadata"]["name"]: one for one in task_runs}
    for reference in status.get("childReferences") or ():
        if reference.get("kind", "TaskRun") == "TaskRun" and reference["name"] in found:
            children.setdefault(reference["pipelineTaskName"], []).append(found[reference["name"]])
    skipped = [{"name": one["name"], "reason": one["reason"]} for one in status.get("skippedTasks") or ()]
    return {
        "kind": "PipelineRun",
        **_condition(run),
        "results": _results(status),
        "tasks": {
            name: _matrix(several) if name in matrices or len(several) > 1 else _task_run(several[0])
            for name, several in sorted(children.items())
        },
        "skipped": sorted(skipped, key=lambda one: one["name"]),
        "finally": sorted(task["name"] for task in spec.get("finally") or ()),
    }


def _tasks(spec: Object) -> list[Object]:
    return [*(spec.get("tasks") or ()), *(spec.get("finally") or ())]


def _condition(thing: Object) -> dict[str, str]:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    succeeded: Object = next((one for one in conditions if one["type"] == "Succeeded"), {})
    return {"status": succeeded.get("status", "Unknown"), "reason": succeeded.get("reason", "")}


def _results(status: Object) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in status.get("results") or ()}


def _task_run(one: Object) -> dict[str, Any]:
    status = one.get("status") or {}
    return {**_condition(one), "results": _results(status), "retries": len(status.get("retriesStatus") or ())}


def _number(one: Object) -> int:
    last = one["metadata"]["name"].rpartition("-")[2]
    return int(last) if last.isdigit() else 0


def _matrix(several: list[Object]) -> dict[str, Any]:
    """Judge the TaskRuns of a matrix together, as the PipelineRun's controller does."""
    forms = [_task_run(one) for one in sorted(several, key=_number)]
    results: dict[str, list[str]] = {}
    for one in sorted(several, key=lambda one: str(one["metadata"]["name"])):
        for name, value in _results(one.get("status") or {}).items():
            results.setdefault(name, []).append(value if isinstance(value, str) else "")
    worst = next((form for form in forms if form["status"] != "True"), forms[0])
    retries = max(form["retries"] for form in forms)
    return {
        "status": worst["status"],
        "reason": worst["reason"],
        "results": results,
        "retries": retries,
        "combinations": forms,
    }
