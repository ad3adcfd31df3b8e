"""What happens next in a Pipeline: order, guards, skip reasons, statuses and the run's condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from isotherm.tekton import BadInput
from isotherm_local.runner import graph, resolve
from isotherm_local.runner.documents import Catalog, load
from isotherm_local.runner.graph import Decision, Elapsed, Step
from isotherm_local.runner.record import CANCELLED, FAILED, INVALID, PENDING, RUNNING, SKIPPED, SUCCEEDED, TaskRecord
from isotherm_local.runner.specs import PipelineSpec

SPEC = {
    "results": [{"name": "r"}, {"name": "list", "type": "array"}],
    "params": [{"name": "p", "default": ""}],
    "steps": [{"name": "s", "image": "x/ops:1", "command": ["python"]}],
}
FROM_A = [{"name": "p", "value": "$(tasks.a.results.r)"}]
GUARD = [{"input": "$(tasks.a.results.r)", "operator": "in", "values": ["pass"]}]


def task(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "taskSpec": SPEC, **more}


def pipeline(folder: Path, tasks: list[dict[str, Any]], **more: Any) -> PipelineSpec:
    file = folder / "pipeline.yaml"
    body = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": "x"}}
    file.write_text(yaml.safe_dump({**body, "spec": {"pipelineSpec": {"tasks": tasks, **more}}}))
    return resolve.pipeline_of(load(file)[0], Catalog(folder))


def records(made: PipelineSpec, **known: TaskRecord | str) -> dict[str, TaskRecord]:
    found = {}
    for one in made.tasks:
        given = known.get(one.name, PENDING)
        found[one.name] = TaskRecord(one.name, "t", one.final, state=given) if isinstance(given, str) else given
    return found


def done(name: str, state: str = SUCCEEDED, reason: str = "", **results: str) -> TaskRecord:
    return TaskRecord(name, "t", state=state, reason=reason, results=dict(results))


def decide(made: PipelineSpec, name: str, known: dict[str, TaskRecord], elapsed: Elapsed | None = None) -> Decision:
    return graph.decide(next(one for one in made.tasks if one.name == name), known, elapsed or Elapsed())


def test_runs_after_its_dependencies_by_order_results_and_guards(tmp_path: Path) -> None:
    made = pipeline(tmp_path, [task("c", when=GUARD, runAfter=["b"]), task("b", params=FROM_A), task("a")])
    assert [one.name for one in graph.order(made)] == ["a", "b", "c"]
    assert graph.dependencies(made.tasks[0]) == {"a", "b"}


def test_a_cycle_names_its_tasks(tmp_path: Path) -> None:
    made = pipeline(tmp_path, [task("a", runAfter=["b"]), task("b", params=FROM_A)])
    with pytest.raises(BadInput, match="cycle detected; task a depends on b"):
        graph.order(made)


B, C = "b", "c"
WHEN_SKIPPED = done("b", SKIPPED, graph.WHEN_SKIP)


@pytest.mark.parametrize(
    ("tasks", "known", "step", "why"),
    [
        pytest.param([task("a"), task("b", runAfter=["a"])], {"a": RUNNING}, Step.WAIT, "", id="waits for its order"),
        pytest.param(
            [task("a"), task("b", params=FROM_A)], {"a": done("a", r="1")}, Step.RUN, "", id="runs with results"
        ),
        pytest.param(
            [task("a"), task("b")], {"a": done("a", FAILED)}, Step.SKIP, graph.STOPPING_SKIP, id="failed elsewhere"
        ),
        pytest.param([task("a"), task("b")], {"a": done("a", INVALID)}, Step.SKIP, graph.STOPPING_SKIP, id="invalid"),
        pytest.param(
            [task("a"), task("b")], {"a": done("a", CANCELLED)}, Step.SKIP, graph.STOPPING_SKIP, id="cancelled"
        ),
        pytest.param(
            [task("a"), task("b", when=GUARD)],
            {"a": done("a", r="fail")},
            Step.SKIP,
            graph.WHEN_SKIP,
            id="guard says no",
        ),
        pytest.param([task("a"), task("b", when=GUARD)], {"a": done("a", r="pass")}, Step.RUN, "", id="guard says yes"),
        pytest.param(
            [task("a"), task("b", runAfter=["a"])],
            {"a": done("a", SKIPPED, graph.WHEN_SKIP)},
            Step.RUN,
            "",
            id="order alone does not skip after a guard",
        ),
        pytest.param(
            [task("a"), task("b", params=FROM_A)],
            {"a": done("a", SKIPPED, graph.WHEN_SKIP)},
            Step.SKIP,
            graph.MISSING_RESULTS_SKIP,
            id="results of a guarded Task are missing",
        ),
        pytest.param(
            [task("a"), task("b", runAfter=["a"])],
            {"a": done("a", SKIPPED, graph.MISSING_RESULTS_SKIP)},
            Step.SKIP,
            graph.PARENT_SKIP,
            id="parent skipped for want of results",
        ),
        pytest.param(
            [task("a"), task("z"), task("b", runAfter=["a", "z"])],
            {"a": done("a", SKIPPED, graph.PARENT_SKIP), "z": RUNNING},
            Step.SKIP,
            graph.PARENT_SKIP,
            id="a skipped parent decides before the others end",
        ),
        pytest.param(
            [task("a"), task("b", when=GUARD)],
            {"a": done("a", SKIPPED, graph.WHEN_SKIP)},
            Step.SKIP,
            graph.WHEN_SKIP,
            id="a guard on a missing result compares the reference itself",
        ),
    ],
)
def test_a_task_waits_runs_or_is_skipped_as_in_tekton(
    tasks: list[dict[str, Any]], known: dict[str, Any], step: Step, why: str, tmp_path: Path
) -> None:
    made = pipeline(tmp_path, tasks)
    decision = decide(made, "b", records(made, **known))
    assert (decision.step, decision.why) == (step, why)


def test_a_result_that_its_task_did_not_give_is_a_failed_validation(tmp_path: Path) -> None:
    made = pipeline(tmp_path, [task("a"), task("b", params=FROM_A)])
    decision = decide(made, "b", records(made, a=done("a")))
    assert decision.step is Step.INVALID
    assert decision.why == (
        'task "a" completed successfully but did not emit the result "r", which is referenced by task "b"'
    )


@pytest.mark.parametrize(
    ("value", "given", "problem"),
    [
        ("$(tasks.a.results.list[*])", ["x"], "is of type string, not array"),
        ("$(tasks.a.results.list[1])", ["x"], "out of bound of size 1"),
    ],
)
def test_a_result_that_does_not_fit_its_param_is_a_failed_validation(
    value: str, given: Any, problem: str, tmp_path: Path
) -> None:
    made = pipeline(tmp_path, [task("a"), task("b", params=[{"name": "p", "value": value}])])
    known = records(made, a=TaskRecord("a", "t", state=SUCCEEDED, results={"list": given}))
    decision = decide(made, "b", known)
    assert decision.step is Step.INVALID
    assert problem in decision.why


@pytest.mark.parametrize(
    ("elapsed", "why"),
    [
        (Elapsed(pipeline=True), graph.PIPELINE_TIMEOUT_SKIP),
        (Elapsed(tasks=True), graph.TASKS_TIMEOUT_SKIP),
    ],
)
def test_a_task_that_may_start_only_after_a_limit_is_skipped(elapsed: Elapsed, why: str, tmp_path: Path) -> None:
    made = pipeline(tmp_path, [task("a"), task("b", runAfter=["a"])])
    assert decide(made, "b", records(made, a=SUCCEEDED), elapsed).why == why


STATUS = [{"name": "p", "value": "$(tasks.a.status) $(tasks.a.reason) $(tasks.status)"}]


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (done("a", SUCCEEDED, "Succeeded"), "Succeeded Succeeded Succeeded"),
        (done("a", FAILED, "StepFailed"), "Failed StepFailed Failed"),
        (done("a", CANCELLED, "TaskRunCancelled"), "Failed TaskRunCancelled Failed"),
        (done("a", SKIPPED, graph.WHEN_SKIP), "None  Completed"),
    ],
)
def test_finally_tasks_see_how_the_others_ended(a: TaskRecord, words: str, tmp_path: Path) -> None:
    made = pipeline(tmp_path, [task("a")], **{"finally": [task("f", params=STATUS)]})
    decision = decide(made, "f", records(made, a=a))
    assert decision.step is Step.RUN
    assert decision.task.params == {"p": words}


@pytest.mark.parametrize(
    ("a", "more", "elapsed", "step", "why"),
    [
        (RUNNING, {}, Elapsed(), Step.WAIT, ""),
        (done("a", FAILED), {"params": FROM_A}, Elapsed(), Step.SKIP, graph.MISSING_RESULTS_SKIP),
        (done("a", FAILED, r="1"), {"params": FROM_A}, Elapsed(), Step.RUN, ""),
        (done("a", r="fail"), {"when": GUARD}, Elapsed(), Step.SKIP, graph.WHEN_SKIP),
        (done("a"), {}, Elapsed(final=True), Step.SKIP, graph.FINALLY_TIMEOUT_SKIP),
        (done("a"), {}, Elapsed(pipeline=True), Step.SKIP, graph.PIPELINE_TIMEOUT_SKIP),
    ],
)
def test_a_finally_task_runs_last_or_is_skipped(
    a: Any, more: dict[str, Any], elapsed: Elapsed, step: Step, why: str, tmp_path: Path
) -> None:
    made = pipeline(tmp_path, [task("a")], **{"finally": [task("f", **more)]})
    decision = decide(made, "f", records(made, a=a), elapsed)
    assert (decision.step, decision.why) == (step, why)


@pytest.mark.parametrize(
    ("ended", "status", "reason"),
    [
        ([done("a")], "True", "Succeeded"),
        ([done("a"), done("b", SKIPPED, graph.WHEN_SKIP)], "True", "Completed"),
        ([done("a", FAILED), done("b", SKIPPED, graph.STOPPING_SKIP)], "False", "Failed"),
        ([done("a"), done("b", INVALID)], "False", "PipelineValidationFailed"),
        ([done("a", CANCELLED)], "False", "Cancelled"),
        ([TaskRecord("a", "t", state=CANCELLED, timed_out=True)], "False", "Failed"),
        ([done("a"), done("f", SKIPPED, graph.FINALLY_TIMEOUT_SKIP)], "False", "Failed"),
    ],
)
def test_a_run_ends_with_tektons_reason(ended: list[TaskRecord], status: str, reason: str) -> None:
    condition = graph.conclude(ended)
    assert (condition.status, condition.reason) == (status, reason)


def test_the_message_counts_as_tekton_counts() -> None:
    ended = [done("a"), done("b", FAILED), done("c", SKIPPED, graph.STOPPING_SKIP)]
    assert graph.conclude(ended).message == "Tasks Completed: 2 (Failed: 1, Cancelled 0), Skipped: 1"


def test_pipeline_results_leave_out_skipped_tasks_and_miss_those_of_tasks_that_succeeded(tmp_path: Path) -> None:
    results = [
        {"name": "got", "value": "$(tasks.a.results.r)!"},
        {"name": "list", "value": "$(tasks.a.results.list[*])"},
        {"name": "skipped", "value": "$(tasks.b.results.r)"},
        {"name": "missing", "value": "$(tasks.c.results.r)"},
        {"name": "beyond", "value": "$(tasks.a.results.list[5])"},
        {"name": "last", "value": "$(finally.f.results.r)"},
    ]
    made = pipeline(tmp_path, [task("a"), task("b"), task("c")], results=results, **{"finally": [task("f")]})
    known = records(made, b=WHEN_SKIPPED, c=done("c"), f=TaskRecord("f", "t", True, SUCCEEDED, results={"r": "z"}))
    known["a"] = TaskRecord("a", "t", state=SUCCEEDED, results={"r": "1", "list": ["x", "y"]})
    found, broken = graph.results_of_pipeline(made, known)
    assert found == {"got": "1!", "list": ["x", "y"], "last": "z"}
    assert broken == ["missing", "beyond"]
