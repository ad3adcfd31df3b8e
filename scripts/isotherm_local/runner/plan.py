"""Turn a PipelineRun's or TaskRun's file into a plan that has passed every check: nothing runs before.

Raises `BadInput` that names file, line and field for whatever the runner does not honour or cannot run.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isotherm.tekton import BadInput
from isotherm_local.runner import (
    checks,
    companions,
    fields,
    graph,
    matrix,
    propagation,
    resolve,
    step_checks,
    workspaces,
)
from isotherm_local.runner.companions import Companion
from isotherm_local.runner.documents import Catalog, Document, load, shown
from isotherm_local.runner.record import Namespace
from isotherm_local.runner.specs import ParamSpec, PipelineSpec, PipelineTask, RunSpec
from isotherm_local.runner.substitution import Value, Variables, apply, apply_value, params, references, texts

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # those of Kubernetes' generated names


@dataclass(frozen=True)
class Request:
    """What a person asks for: the run's file and what overrides it."""

    file: Path
    root: Path
    state: Path
    namespace: str = ""
    params: Mapping[str, str] | None = None
    files: Sequence[Path] = ()
    name: str = ""
    foreign: bool = False


@dataclass(frozen=True)
class Plan:
    """A run that can start: its Pipeline with the run's params in place, Tasks sorted by their order."""

    document: Document
    name: str
    namespace: Namespace
    uid: str
    pipeline: PipelineSpec
    run: RunSpec
    params: Mapping[str, Value]
    variables: Variables
    without_effect: list[str]
    beside: Sequence[Companion] = ()

    @property
    def written(self) -> frozenset[str]:
        """Name the workspaces of the run that some Task may write."""
        pairs = (
            (task.task.workspaces[name], outer)
            for task in self.pipeline.tasks
            for name, (outer, _) in task.workspaces.items()
        )
        return frozenset(outer for spec, outer in pairs if not spec.read_only)


def _documents(request: Request) -> tuple[Document, list[Document]]:
    documents = [document for file in [request.file, *request.files] for document in load(file)]
    runs = [document for document in documents if document.kind in ("PipelineRun", "TaskRun")]
    if len(runs) != 1:
        raise BadInput(
            f"{shown(request.file)} holds {len(runs)} PipelineRuns or TaskRuns", remedy="give a file with exactly one"
        )
    return runs[0], documents


def _name(document: Document, wanted: str) -> str:
    metadata: dict[str, Any] = document.body.get("metadata") or {}
    prefix = str(metadata.get("generateName") or "")
    if wanted or document.name:
        return wanted or document.name
    if not prefix:
        raise BadInput(
            f"{document.where(('metadata',))}: metadata has neither name nor generateName", remedy="give one, or --name"
        )
    return prefix + "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))


def typed(name: str, text: str, spec: ParamSpec | None) -> Value:
    """Read `-p name=text` by the param's type: an array as `a,b` or JSON, an object as JSON or `key:value,...`."""
    if spec is None or spec.type == "string":
        return text
    try:
        value = json.loads(text) if text[:1] in "[{" and text else None
    except json.JSONDecodeError as error:
        raise BadInput(f"-p {name}: {text[:80]!r} is not JSON ({error})", remedy="correct it") from error
    if value is not None:
        return (
            [str(item) for item in value]
            if isinstance(value, list)
            else {str(key): str(item) for key, item in value.items()}
        )
    items = text.split(",") if text else []
    return items if spec.type == "array" else {item.partition(":")[0]: item.partition(":")[2] for item in items}


def _defaults(specs: Mapping[str, ParamSpec], given: Mapping[str, Value]) -> dict[str, Value]:
    """Fill in defaults, which may refer to other params."""
    values: dict[str, Value] = dict(given)
    waiting = {
        spec.name: spec.default for spec in specs.values() if spec.default is not None and spec.name not in given
    }
    while waiting:
        ready = [
            name
            for name, value in waiting.items()
            if not any(f"params.{other}" in ref for ref in _names(value) for other in waiting)
        ]
        if not ready:
            raise BadInput(
                f"the defaults of params {', '.join(sorted(waiting))} refer to each other",
                remedy="give one of them a plain default",
            )
        for name in ready:
            values[name] = apply_value(waiting.pop(name), params(values))
    for name, value in given.items():
        default = specs[name].default
        if isinstance(value, dict) and isinstance(default, dict):
            values[name] = {**default, **value}
    return values


def _names(value: Value) -> list[str]:
    return [reference for text in texts(value) for reference in references(text)]


def _values(
    request: Request, document: Document, pipeline: PipelineSpec, run: RunSpec, context: Mapping[str, str]
) -> dict[str, Value]:
    """Give every param of the run its value: those given, with the run's context in place, and defaults."""
    declared = pipeline.params if document.kind == "PipelineRun" else pipeline.tasks[0].task.params
    given = dict(run.params)
    for name, text in (request.params or {}).items():
        given[name] = typed(name, text, declared.get(name))
    source = pipeline.source if document.kind == "PipelineRun" else pipeline.tasks[0].source
    owner = f"Pipeline {pipeline.name}" if document.kind == "PipelineRun" else f"Task {pipeline.tasks[0].task.name}"
    given = {name: apply_value(value, Variables(dict(context))) for name, value in given.items()}
    for name, value in given.items():
        if _names(value):
            raise source.refuse(
                "params",
                problem=f": the value of {name} contains a reference, $({_names(value)[0]})",
                remedy="give a plain value",
            )
    checks.given(declared, given, replace(source, document=document, path=("spec",)), owner)
    return _defaults(declared, given)


def _check_bindings(
    document: Document, pipeline: PipelineSpec, run: RunSpec, namespace: Namespace, beside: Sequence[Companion]
) -> None:
    for binding in run.bindings.values():
        if binding.name not in pipeline.workspaces:
            known = ", ".join(pipeline.workspaces) or "none"
            raise binding.source.refuse(
                problem=f": nothing declares workspace {binding.name}", remedy=f"there are: {known}"
            )
        workspaces.check(binding, namespace, beside)
    if document.kind == "PipelineRun":
        workspaces.check_claims(run.bindings)
    for name, spec in pipeline.workspaces.items():
        if not spec.optional and name not in run.bindings:
            raise BadInput(
                f"{document.where(('spec', 'workspaces'))}: workspace {name} is not bound",
                remedy="bind it under spec.workspaces",
            )


def _check_tasks(document: Document, pipeline: PipelineSpec, run: RunSpec) -> None:
    for task in pipeline.tasks:
        if document.kind == "PipelineRun":
            checks.pipeline_task(task, pipeline)
        step_checks.task_body(task, pipeline)
    checks.pipeline_results(pipeline)
    unknown = set(run.task_timeouts) - {task.name for task in pipeline.tasks}
    if unknown:
        raise BadInput(
            f"{document.where(('spec', 'taskRunSpecs'))}: no Task is named {', '.join(sorted(unknown))}",
            remedy="correct the name",
        )


def make(request: Request) -> Plan:
    """Load, resolve and check a run."""
    document, documents = _documents(request)
    resolve.refuse_fields(documents)
    catalog = Catalog(request.root, documents)
    pipeline, run = resolve.pipeline_of(document, catalog), resolve.run_spec(document)
    pipeline = propagation.propagate(document, pipeline, run)
    metadata = document.body.get("metadata") or {}
    namespace = Namespace(request.state.resolve(), request.namespace or str(metadata.get("namespace") or "default"))
    name, uid = _name(document, request.name), str(uuid.uuid4())
    pipeline = replace(pipeline, name=pipeline.name or name)
    namespace.run(name)
    context = {
        "context.pipelineRun.name": name,
        "context.pipelineRun.namespace": namespace.name,
        "context.pipelineRun.uid": uid,
        "context.pipeline.name": pipeline.name,
    }
    values = _values(request, document, pipeline, run, context)
    beside = companions.read(dict.fromkeys([request.file, *request.files]))
    _check_bindings(document, pipeline, run, namespace, beside)
    _check_tasks(document, pipeline, run)
    step_checks.programs(pipeline, request.root, request.foreign)
    bound = {
        f"workspaces.{workspace}.bound": str(workspace in run.bindings).lower() for workspace in pipeline.workspaces
    }
    variables = params(values) | Variables(context | bound)
    if document.kind == "TaskRun":
        tasks = [pipeline.tasks[0].with_(params=values)]
    else:
        tasks = [_with_context(task, variables) for task in graph.order(pipeline)]
        tasks = [graph.replaced(task, _lengths(tasks)) for task in tasks]
    for task in tasks:
        workspaces.check_one_claim(task, run.bindings)
        workspaces.check_read_only(task, run.bindings)
    return Plan(
        document=document,
        name=name,
        namespace=namespace,
        uid=uid,
        pipeline=replace(pipeline, tasks=tuple(tasks)),
        run=run,
        params=values,
        variables=variables,
        without_effect=fields.inert(document),
        beside=beside,
    )


def _with_context(task: PipelineTask, variables: Variables) -> PipelineTask:
    own = Variables({"context.pipelineTask.retries": str(task.retries)})
    replaced = graph.replaced(task, variables | own)
    for name, (_, path) in replaced.workspaces.items():
        if references(apply(path, {})):
            raise task.source.refuse(
                "workspaces", problem=f": subPath of {name} is {path!r}", remedy="correct the reference"
            )
    if replaced.on_error not in ("", "continue", "stopAndFail"):
        raise task.source.refuse("onError", problem=f"is {replaced.on_error!r}", remedy="use continue or stopAndFail")
    return replaced


def _lengths(tasks: Sequence[PipelineTask]) -> Variables:
    """Make `tasks.T.matrix.length` as Tekton does from the Pipeline alone: 0 without a matrix, results not counted."""
    return Variables(
        {
            f"tasks.{task.name}.matrix.length": str(matrix.count(task.matrix) if task.matrix else 0)
            for task in tasks
            if not task.final
        }
    )
