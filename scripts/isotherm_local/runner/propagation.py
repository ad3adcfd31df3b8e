"""What an embedded spec uses without declaring it: Tekton hands params and workspaces of the run down to it.

Only a name that the spec really mentions is handed down, so that a misspelt one is still refused.
Source: Tekton Pipelines 1.15 `docs/pipelineruns.md`, propagated parameters and workspaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from isotherm_local.runner import matrix, step_checks
from isotherm_local.runner.documents import Document
from isotherm_local.runner.specs import ParamSpec, PipelineSpec, PipelineTask, RunSpec, TaskSpec, WorkspaceSpec, type_of
from isotherm_local.runner.substitution import Value, references, result_reference, texts

_NAME = re.compile(r"""(?:inputs\.)?(params|workspaces)(?:\.([^.\[\]]+)|\["([^"]+)"\]|\['([^']+)'\])""")


def _mentioned(written: Iterable[str], kind: str) -> set[str]:
    """Name the params or workspaces that texts refer to."""
    found = (_NAME.match(reference) for text in written for reference in references(text))
    return {match[2] or match[3] or match[4] for match in found if match and match[1] == kind}


def _in_steps(task: TaskSpec) -> list[str]:
    return [text for step in task.steps for _, text, _ in step_checks.texts_of(step)]


def _in_task(task: PipelineTask) -> list[str]:
    values: list[Value] = list(task.params.values())
    values += [value for _, value in matrix.values_of(task.matrix)] if task.matrix else []
    guards = [text for when in task.when for text in (when.input, *when.values)]
    paths = [path for _, path in task.workspaces.values()]
    return [*(text for value in values for text in texts(value)), *guards, *paths, task.on_error]


def _result_type(value: Value, pipeline: PipelineSpec) -> str:
    """Name the type that a reference to a whole result gives; empty for anything else."""
    reference = value[2:-1] if isinstance(value, str) and value.startswith("$(") and value.endswith("[*])") else ""
    parsed = result_reference(reference)
    task = next((task for task in pipeline.tasks if parsed and task.name == parsed.task), None)
    if task is None or parsed is None or parsed.result not in task.task.results:
        return ""
    return "array" if task.matrix else task.task.results[parsed.result].type


def _spec(name: str, value: Value, outer: Mapping[str, ParamSpec], result_type: str = "") -> ParamSpec:
    same = outer.get(name)
    kind = result_type or (same.type if same and isinstance(value, str) and references(value) else type_of(value))
    keys = tuple(value) if isinstance(value, dict) else ()
    return ParamSpec(name, kind, None, tuple(dict.fromkeys([*keys, *(same.keys if same else ())])))


def propagate(document: Document, pipeline: PipelineSpec, run: RunSpec) -> PipelineSpec:
    """Declare what embedded specs use of the run and of the Pipeline around them."""
    body = document.body.get("spec") or {}
    if document.kind == "TaskRun":
        return _of_task_run(pipeline, run) if body.get("taskSpec") is not None else pipeline
    if body.get("pipelineSpec") is not None:
        written = [text for task in pipeline.tasks for text in _in_task(task)]
        written += [text for task in pipeline.tasks if task.embedded for text in _in_steps(task.task)]
        params = {
            name: _spec(name, value, {})
            for name, value in run.params.items()
            if name not in pipeline.params and name in _mentioned(written, "params")
        }
        named = _mentioned(written, "workspaces") | {
            outer for task in pipeline.tasks for outer, _ in task.workspaces.values()
        }
        pipeline = replace(
            pipeline,
            params={**pipeline.params, **params},
            workspaces={**_bound(named & set(run.bindings)), **pipeline.workspaces},
        )
    tasks = tuple(_embedded(task, pipeline) if task.embedded else task for task in pipeline.tasks)
    return replace(pipeline, tasks=tasks)


def _bound(names: Iterable[str]) -> dict[str, WorkspaceSpec]:
    return {name: WorkspaceSpec(name, optional=False, read_only=False) for name in sorted(names)}


def _embedded(task: PipelineTask, pipeline: PipelineSpec) -> PipelineTask:
    written = _in_steps(task.task)
    given: dict[str, Value] = {**task.params, **dict.fromkeys(matrix.names(task.matrix) if task.matrix else (), "")}
    implied = {
        name: _spec(name, value, pipeline.params, _result_type(value, pipeline))
        for name, value in given.items()
        if name not in task.task.params and name in _mentioned(written, "params")
    }
    names = (_mentioned(written, "workspaces") - set(task.task.workspaces)) & set(pipeline.workspaces)
    specs = {name: replace(pipeline.workspaces[name], read_only=False) for name in sorted(names)}
    return task.with_(
        implied=implied,
        task=replace(task.task, workspaces={**task.task.workspaces, **specs}),
        workspaces={**task.workspaces, **{name: (name, "") for name in specs}},
    )


def _of_task_run(pipeline: PipelineSpec, run: RunSpec) -> PipelineSpec:
    (only,) = pipeline.tasks
    written = _in_steps(only.task)
    params = {
        name: _spec(name, value, {})
        for name, value in run.params.items()
        if name not in only.task.params and name in _mentioned(written, "params")
    }
    bound = _bound((_mentioned(written, "workspaces") & set(run.bindings)) - set(only.task.workspaces))
    task = replace(only.task, params={**only.task.params, **params}, workspaces={**only.task.workspaces, **bound})
    only = only.with_(task=task, workspaces={name: (name, "") for name in task.workspaces})
    return replace(pipeline, tasks=(only,), workspaces=task.workspaces)
