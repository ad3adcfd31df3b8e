"""The normal form of a finished run: what must be equal wherever the same PipelineRun or TaskRun ran.

Names and words are those of Tekton's `status`; names of TaskRuns, times, messages and logs are left out.
`tests/normal_form.py` makes the same form from a cluster's objects.
"""

from __future__ import annotations

from typing import Any

from isotherm_local.runner.record import CANCELLED, FAILED, RUNNING, SKIPPED, SUCCEEDED, RunRecord, TaskRecord

_STATUS = {SUCCEEDED: "True", FAILED: "False", CANCELLED: "False", RUNNING: "Unknown"}


def normal_form(run: RunRecord) -> dict[str, Any]:
    """Give `status, reason, results, tasks, skipped, finally` of a PipelineRun; of a TaskRun its own and `retries`.

    A Task that never had a TaskRun (a failed validation, or pending when the run was cancelled) is in neither list.
    """
    if run.kind == "TaskRun":
        return {"kind": run.kind, **_task(run.tasks["task"])}
    tasks = run.tasks.values()
    return {
        "kind": run.kind,
        "status": run.status,
        "reason": run.reason,
        "results": dict(run.results),
        "tasks": {task.name: _task(task) for task in sorted(tasks, key=_name) if task.state in _STATUS},
        "skipped": [
            {"name": task.name, "reason": task.reason} for task in sorted(tasks, key=_name) if task.state == SKIPPED
        ],
        "finally": sorted(task.name for task in tasks if task.final),
    }


def _name(task: TaskRecord) -> str:
    return task.name


def _task(task: TaskRecord) -> dict[str, Any]:
    """Give a Task's form; a matrix has those of its combinations, in their order, and their results together."""
    form: dict[str, Any] = {
        "status": _STATUS.get(task.state, "Unknown"),
        "reason": task.reason,
        "results": dict(task.results),
        "retries": max(0, task.attempts - 1),
    }
    return {**form, "combinations": [_task(child) for child in task.children]} if task.children else form
