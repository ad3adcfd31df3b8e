"""The normal form is the same from a local record and from a cluster's objects, in Tekton's own words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from normal_form import from_tekton

from isotherm_local.runner import graph
from isotherm_local.runner.normal import normal_form
from isotherm_local.runner.record import CANCELLED, FAILED, INVALID, PENDING, SKIPPED, SUCCEEDED, RunRecord, TaskRecord


def record(tasks: list[TaskRecord], status: str, reason: str, kind: str = "PipelineRun", **results: Any) -> RunRecord:
    return RunRecord(
        kind, "it", "default", "u", "f.yaml", "p", {}, {}, Path("/nowhere"), status, reason,
        tasks={task.name: task for task in tasks}, results=results,
    )  # fmt: skip


def condition(status: str, reason: str) -> list[dict[str, str]]:
    return [
        {"type": "Other", "status": "True", "reason": "Whatever"},
        {"type": "Succeeded", "status": status, "reason": reason, "message": "m", "lastTransitionTime": "t"},
    ]


def task_run(name: str, status: str, reason: str, retries: int = 0, **results: Any) -> dict[str, Any]:
    listed = [{"name": key, "type": "string", "value": value} for key, value in results.items()]
    body: dict[str, Any] = {"conditions": condition(status, reason), "podName": f"{name}-pod"}
    body |= {"results": listed} if listed else {}
    body |= {"retriesStatus": [{"conditions": condition("False", "StepFailed")}] * retries} if retries else {}
    return {"kind": "TaskRun", "metadata": {"name": name}, "status": body}


def child(name: str, task: str) -> dict[str, str]:
    return {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "name": name, "pipelineTaskName": task}


def test_a_pipeline_run_with_a_retry_a_skip_and_a_finally_task() -> None:
    local = record(
        [
            TaskRecord("b", "t", state=SUCCEEDED, reason="Succeeded", attempts=2, results={"r": "1"}),
            TaskRecord("a", "t", state=SKIPPED, reason=graph.WHEN_SKIP),
            TaskRecord("f", "t", True, SUCCEEDED, "Succeeded", attempts=1),
        ],
        "True", "Completed", out=["x", "y"],
    )  # fmt: skip
    remote = {
        "kind": "PipelineRun",
        "metadata": {"name": "it-x7k2p"},
        "status": {
            "conditions": condition("True", "Completed"),
            "results": [{"name": "out", "value": ["x", "y"]}],
            "skippedTasks": [{"name": "a", "reason": "When Expressions evaluated to false", "whenExpressions": []}],
            "childReferences": [child("it-b", "b"), child("it-f", "f")],
            "pipelineSpec": {"tasks": [{"name": "b"}, {"name": "a"}], "finally": [{"name": "f"}]},
        },
    }
    runs = [task_run("it-b", "True", "Succeeded", 1, r="1"), task_run("it-f", "True", "Succeeded")]
    runs.append(task_run("stranger", "False", "StepFailed"))
    form = from_tekton(remote, runs)
    assert form == normal_form(local)
    assert form == {
        "kind": "PipelineRun",
        "status": "True",
        "reason": "Completed",
        "results": {"out": ["x", "y"]},
        "tasks": {
            "b": {"status": "True", "reason": "Succeeded", "results": {"r": "1"}, "retries": 1},
            "f": {"status": "True", "reason": "Succeeded", "results": {}, "retries": 0},
        },
        "skipped": [{"name": "a", "reason": "When Expressions evaluated to false"}],
        "finally": ["f"],
    }


def test_a_matrix_has_its_combinations_in_order_and_their_results_by_name() -> None:
    children = [
        TaskRecord(f"it-m-{index}", "t", state=SUCCEEDED, reason="Succeeded", attempts=1, results={"r": str(index)})
        for index in range(11)
    ]
    children[3] = TaskRecord("it-m-3", "t", state=FAILED, reason="StepFailed", attempts=3)
    together = {"r": ["0", "1", "10", "2", "4", "5", "6", "7", "8", "9"]}
    matrix = TaskRecord("m", "t", state=FAILED, reason="StepFailed", attempts=3, results=dict(together))
    matrix.children = children
    runs = [task_run(f"it-m-{index}", "True", "Succeeded", r=str(index)) for index in reversed(range(11))]
    runs[7] = task_run("it-m-3", "False", "StepFailed", 2)
    remote = {
        "kind": "PipelineRun",
        "status": {
            "conditions": condition("False", "Failed"),
            "childReferences": [child(one["metadata"]["name"], "m") for one in runs],
            "pipelineSpec": {"tasks": [{"name": "m", "matrix": {"params": []}}]},
        },
    }
    form = from_tekton(remote, runs)
    assert form == normal_form(record([matrix], "False", "Failed"))
    assert form["tasks"]["m"]["combinations"][3] == {
        "status": "False", "reason": "StepFailed", "results": {}, "retries": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "remote"),
    [
        (TaskRecord("task", "t", state=SUCCEEDED, reason="Succeeded", attempts=1, results={"r": "1"}),
         task_run("x", "True", "Succeeded", r="1")),
        (TaskRecord("task", "t", state=FAILED, reason="TaskRunTimeout", attempts=2),
         task_run("x", "False", "TaskRunTimeout", 1)),
        (TaskRecord("task", "t", state=CANCELLED, reason="TaskRunCancelled", attempts=1),
         task_run("x", "False", "TaskRunCancelled")),
    ],
)  # fmt: skip
def test_a_task_run_alone(task: TaskRecord, remote: dict[str, Any]) -> None:
    assert normal_form(record([task], "?", "?", "TaskRun")) == from_tekton(remote)


def test_a_task_without_a_task_run_is_left_out() -> None:
    tasks = [
        TaskRecord("a", "t", state=INVALID, reason="PipelineValidationFailed"),
        TaskRecord("b", "t", state=PENDING),
    ]
    form = normal_form(record(tasks, "False", "PipelineValidationFailed"))
    assert (form["tasks"], form["skipped"]) == ({}, [])


def test_the_words_for_skipping_are_tektons(tekton_module: Path) -> None:
    source = (tekton_module / "pkg/apis/pipeline/v1/pipelinerun_types.go").read_text()
    theirs = set(re.findall(r'SkippingReason = "([^"]+)"', source))
    ours = {value for name, value in vars(graph).items() if name.endswith("_SKIP")}
    assert len(ours) == 8
    assert ours <= theirs
