"""Decide what happens next in a Pipeline: order, guards, skips and the run's condition, as pure functions on records.

Source: Tekton Pipelines 1.15 `pkg/reconciler/pipelinerun/resources/{pipelinerunresolution,pipelinerunstate,apply}.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from isotherm_local.runner import checks, matrix, step_checks
from isotherm_local.runner.record import CANCELLED, CONTINUE, FAILED, INVALID, SKIPPED, SUCCEEDED, TaskRecord
from isotherm_local.runner.specs import PipelineSpec, PipelineTask, When
from isotherm_local.runner.substitution import (
    ResultReference,
    Value,
    Variables,
    apply,
    apply_input,
    apply_list,
    apply_value,
    references,
    result_reference,
    texts,
)

WHEN_SKIP = "When Expressions evaluated to false"
PARENT_SKIP = "Parent Tasks were skipped"
STOPPING_SKIP = "PipelineRun was stopping"
MISSING_RESULTS_SKIP = "Results were missing"
PIPELINE_TIMEOUT_SKIP = "PipelineRun timeout has been reached"
TASKS_TIMEOUT_SKIP = "PipelineRun Tasks timeout has been reached"
FINALLY_TIMEOUT_SKIP = "PipelineRun Finally timeout has been reached"
EMPTY_MATRIX_SKIP = "Matrix Parameters have an empty array"
_TIMEOUT_SKIPS = (PIPELINE_TIMEOUT_SKIP, TASKS_TIMEOUT_SKIP, FINALLY_TIMEOUT_SKIP)


class Step(Enum):
    """What to do with a Task that has not started."""

    WAIT = "wait"
    RUN = "run"
    SKIP = "skip"
    INVALID = "invalid"


@dataclass(frozen=True)
class Decision:
    """A step, why (a skip reason or an error), and the Task with references replaced as far as they are known."""

    step: Step
    why: str
    task: PipelineTask


@dataclass(frozen=True)
class Elapsed:
    """Which of the run's time limits have been reached."""

    pipeline: bool = False
    tasks: bool = False
    final: bool = False


def result_references(task: PipelineTask) -> list[ResultReference]:
    """List the results that a Task's params, matrix and guards, and the steps of an embedded Task, use.

    They order it after the Tasks that give them.
    """
    wanted = [text for value in task.params.values() for text in texts(value)]
    wanted += [text for _, value in matrix.values_of(task.matrix) for text in texts(value)] if task.matrix else []
    for when in task.when:
        wanted += [when.input, *when.values]
    if task.embedded:
        wanted += [text for step in task.task.steps for _, text, _ in step_checks.texts_of(step)]
    parsed = (result_reference(reference) for text in wanted for reference in references(text))
    return [reference for reference in parsed if reference]


def dependencies(task: PipelineTask) -> set[str]:
    """Name the Tasks that must be done before this one: by runAfter and by results."""
    return set(task.run_after) | {reference.task for reference in result_references(task)}


def order(pipeline: PipelineSpec) -> list[PipelineTask]:
    """Sort the Tasks so that each follows its dependencies, finally Tasks last.

    Raises `BadInput` that names a Task of a cycle.
    """
    waiting = {task.name: (task, dependencies(task)) for task in pipeline.tasks if not task.final}
    done: list[PipelineTask] = []
    while waiting:
        ready = [name for name, (_, needs) in waiting.items() if not needs & set(waiting)]
        if not ready:
            name, (task, needs) = min(waiting.items())
            others = ", ".join(sorted(needs & set(waiting)))
            raise task.source.refuse(
                problem=f": cycle detected; task {name} depends on {others}",
                remedy="remove one of the references or runAfter",
            )
        done += [waiting.pop(name)[0] for name in ready]
    return done + [task for task in pipeline.tasks if task.final]


class _Unresolved(Exception):
    """A result that a Task refers to is not there; `task` should have given it."""

    def __init__(self, task: str, message: str) -> None:
        super().__init__(message)
        self.task = task


def _result_variables(task: PipelineTask, records: Mapping[str, TaskRecord]) -> Variables:
    variables = Variables()
    for reference in result_references(task):
        record = records[reference.task]
        if record.state not in (SUCCEEDED, FAILED, CANCELLED):
            raise _Unresolved(reference.task, f'task "{reference.task}" referenced by result was not finished')
        value = record.results.get(reference.result)
        if value is None and record.state == SUCCEEDED:
            text = f'task "{reference.task}" completed successfully but did not emit the result "{reference.result}"'
            raise _Unresolved(reference.task, f'{text}, which is referenced by task "{task.name}"')
        if value is None:
            text = f"Could not find result with name {reference.result} for pipeline task {reference.task}"
            raise _Unresolved(reference.task, f"Invalid task result reference: {text}")
        if reference.index is not None and isinstance(value, list) and reference.index >= len(value):
            bound = f"Task {reference.task} Result {reference.result} is out of bound of size {len(value)}"
            raise _Unresolved(reference.task, f"array Result Index {reference.index} for {bound}")
        variables.define([f"tasks.{reference.task}.results.{reference.result}"], value)
    return variables


def _with_results(task: PipelineTask, records: Mapping[str, TaskRecord]) -> PipelineTask:
    variables = _result_variables(task, records)
    return replaced(task, variables).with_(inherited=variables)


def statuses(records: Iterable[TaskRecord]) -> Variables:
    """Make what finally Tasks see: `tasks.T.status`, `tasks.T.reason` and the aggregate `tasks.status`."""
    regular = [record for record in records if not record.final]
    strings = {}
    for record in regular:
        failed = record.state in (FAILED, CANCELLED)
        strings[f"tasks.{record.name}.status"] = (
            SUCCEEDED if record.state == SUCCEEDED else FAILED if failed else "None"
        )
        strings[f"tasks.{record.name}.reason"] = record.reason if record.state == SUCCEEDED or failed else ""
    aggregate = SUCCEEDED
    if any(record.state in (FAILED, CANCELLED) for record in regular):
        aggregate = FAILED
    elif any(record.state == SKIPPED for record in regular):
        aggregate = "Completed"
    return Variables({**strings, "tasks.status": aggregate})


def replaced(task: PipelineTask, variables: Variables) -> PipelineTask:
    """Put values in place of references in a Task's params, guards and subPaths."""
    guards = []
    for when in task.when:
        values = tuple(apply_list(when.values, variables))
        guards.append(When(apply_input(when.input, variables), when.operator, values))
    return task.with_(
        params={name: apply_value(value, variables) for name, value in task.params.items()},
        matrix=matrix.replaced(task.matrix, variables) if task.matrix else None,
        on_error=apply(task.on_error, variables.strings),
        when=tuple(guards),
        workspaces={name: (outer, apply(path, variables.strings)) for name, (outer, path) in task.workspaces.items()},
    )


def decide(task: PipelineTask, records: Mapping[str, TaskRecord], elapsed: Elapsed) -> Decision:
    """Decide on a Task that has not started; Tekton's order of questions decides which skip reason a Task gets."""
    regular = [record for record in records.values() if not record.final]
    if task.final:
        return (
            _decide_final(task, records, elapsed)
            if all(record.done for record in regular)
            else Decision(Step.WAIT, "", task)
        )
    if any(record.stopping for record in regular):
        return Decision(Step.SKIP, STOPPING_SKIP, task)
    parents = [records[name] for name in sorted(dependencies(task))]
    ready = all(parent.done for parent in parents)
    unresolved: _Unresolved | None = None
    if ready:
        try:
            task = _with_results(task, records)
        except _Unresolved as error:
            # Tekton replaces all references of a Task or none: a guard then compares the reference's own text.
            unresolved = error
        if not all(when.allows() for when in task.when):
            return Decision(Step.SKIP, WHEN_SKIP, task)
    if any(parent.state == SKIPPED and parent.reason != WHEN_SKIP for parent in parents):
        return Decision(Step.SKIP, PARENT_SKIP, task)
    if not ready:
        return Decision(Step.WAIT, "", task)
    excused = unresolved and (task.on_error == CONTINUE or records[unresolved.task].reason == WHEN_SKIP)
    if excused and _asks_outright(task):
        return Decision(Step.SKIP, MISSING_RESULTS_SKIP, task)
    if elapsed.pipeline or elapsed.tasks:
        return Decision(Step.SKIP, PIPELINE_TIMEOUT_SKIP if elapsed.pipeline else TASKS_TIMEOUT_SKIP, task)
    return _start(task, records, str(unresolved) if unresolved else "")


def _asks_outright(task: PipelineTask) -> bool:
    # Tekton looks at params and guards only: a result that just a matrix or a step asks for is a failed validation.
    return bool(result_references(task.with_(matrix=None, embedded=False)))


def _decide_final(task: PipelineTask, records: Mapping[str, TaskRecord], elapsed: Elapsed) -> Decision:
    task = replaced(task, statuses(records.values()))
    try:
        task = _with_results(task, records)
    except _Unresolved:
        return Decision(Step.SKIP, MISSING_RESULTS_SKIP, task)
    if not all(when.allows() for when in task.when):
        return Decision(Step.SKIP, WHEN_SKIP, task)
    if elapsed.pipeline or elapsed.final:
        return Decision(Step.SKIP, PIPELINE_TIMEOUT_SKIP if elapsed.pipeline else FINALLY_TIMEOUT_SKIP, task)
    return _start(task, records, "")


def _start(task: PipelineTask, records: Mapping[str, TaskRecord], error: str) -> Decision:
    if task.matrix is not None and matrix.empty(task.matrix):
        return Decision(Step.SKIP, EMPTY_MATRIX_SKIP, task)
    task = replaced(task, matrix.lengths(task, records))
    if not error and task.matrix is not None:
        error = matrix.problem(task.matrix)
    if not error:
        found = (
            (name, checks.mismatch(task.task.params[name], value))
            for name, value in task.params.items()
            if name in task.task.params
        )
        error = "; ".join(
            f"invalid input params for task {task.task.name}: param {name} {problem}"
            for name, problem in found
            if problem
        )
    return Decision(Step.INVALID, error, task) if error else Decision(Step.RUN, "", task)


@dataclass(frozen=True)
class Condition:
    """A run's condition Succeeded: status True or False, reason and message as Tekton words them."""

    status: str
    reason: str
    message: str


def conclude(records: Sequence[TaskRecord]) -> Condition:
    """Judge a run whose Tasks are all done and that no time limit or cancel has ended."""
    cancelled = [record for record in records if record.state == CANCELLED and not record.timed_out]
    ignored = sum(record.ignored for record in records)
    failed = [
        record
        for record in records
        if (record.state == FAILED and not record.ignored) or (record.state == CANCELLED and record.timed_out)
    ]
    invalid = [record for record in records if record.state == INVALID]
    skipped = [record for record in records if record.state == SKIPPED]
    succeeded = sum(record.state == SUCCEEDED for record in records)
    completed = succeeded + len(failed) + ignored + len(cancelled)
    failures = f"{len(failed) + ignored} (Ignored: {ignored})" if ignored else str(len(failed))
    message = f"Tasks Completed: {completed} (Failed: {failures}, Cancelled {len(cancelled)}), Skipped: {len(skipped)}"
    if invalid:
        details = "; ".join(record.message for record in invalid)
        return Condition(
            "False", "PipelineValidationFailed", f"{message}, Failed Validation: {len(invalid)} ({details})"
        )
    if failed or any(record.reason in _TIMEOUT_SKIPS for record in skipped):
        return Condition("False", "Failed", message)
    if cancelled:
        return Condition("False", "Cancelled", message)
    return Condition("True", "Completed" if skipped else "Succeeded", message)


def results_of_pipeline(
    pipeline: PipelineSpec, records: Mapping[str, TaskRecord]
) -> tuple[dict[str, Value], list[str]]:
    """Compute a Pipeline's results; return them and the names of those whose Task succeeded without giving them.

    A result of a Task that was skipped or failed is left out, as in Tekton.
    """
    found: dict[str, Value] = {}
    broken: list[str] = []
    consumed = {reference.task for task in pipeline.tasks for reference in result_references(task)}
    for name, value in pipeline.results.items():
        variables, complete = Variables(), True
        parsed = [result_reference(reference) for text in texts(value) for reference in references(text)]
        for reference in filter(None, parsed):
            record = records[reference.task]
            known = record.results.get(reference.result)
            if record.children and reference.task not in consumed:
                known = None  # Tekton gathers a matrix' results only where another Task asks for them
            if known is None:
                complete = False
                if record.state == SUCCEEDED:
                    broken.append(name)
            else:
                variables.define([f"{reference.section}.{reference.task}.results.{reference.result}"], known)
        if complete:
            found[name] = apply_value(value, variables)
            if any(references(text) and text in texts(value) for text in texts(found[name])):
                broken.append(name)  # an index or key beyond what the Task gave
                del found[name]
    return found, broken
