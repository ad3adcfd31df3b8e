"""Resolve a PipelineRun or TaskRun into typed specs: its Pipeline and Tasks, its params, bindings and timeouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from isotherm.tekton import BadInput
from isotherm_local.runner import fields, matrix, specs
from isotherm_local.runner.documents import Catalog, Document
from isotherm_local.runner.specs import Binding, PipelineSpec, PipelineTask, RunSpec, Source, TaskSpec, Timeouts

_SOURCES = {
    "persistentVolumeClaim": "claimName",
    "volumeClaimTemplate": "",
    "emptyDir": "",
    "secret": "secretName",
    "configMap": "name",
}
DEFAULT_TIMEOUT = 3600.0  # seconds: Tekton's default-timeout-minutes, for runs and for each attempt of a Task


def refuse_fields(documents: Iterable[Document]) -> None:
    """Refuse, before anything runs, every field of the documents that the runner does not know or honour.

    Raises `BadInput` that names them all.
    """
    problems = [problem for document in documents for problem in fields.check(document)]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise BadInput("; ".join(problems[:5]) + more, remedy="`isotherm fields` lists what the local runner honours")


def _task(
    reference: Mapping[str, Any] | None, embedded: Mapping[str, Any] | None, name: str, catalog: Catalog, source: Source
) -> TaskSpec:
    if (reference is None) == (embedded is None):
        raise source.refuse(problem="needs exactly one of taskRef and taskSpec", remedy="give one")
    if embedded is not None:
        return specs.task_spec(embedded, name, source / "taskSpec")
    assert reference is not None  # noqa: S101 (one of the two, see above)
    if reference.get("kind") not in (None, "Task"):
        raise source.refuse(
            "taskRef", "kind", problem=f"is {reference['kind']!r}", remedy="only Tasks of this namespace are run here"
        )
    document = catalog.find("Task", str(reference.get("name") or ""), source.at("taskRef"))
    refuse_fields([document])
    return specs.task_spec(document.body.get("spec") or {}, document.name, Source(document, ("spec",)))


def _pipeline_task(item: Mapping[str, Any], final: bool, catalog: Catalog, source: Source) -> PipelineTask:
    name = str(item["name"])
    limit = item.get("timeout")
    workspaces = {
        workspace: (str(binding.get("workspace") or workspace), str(binding.get("subPath") or ""))
        for workspace, (binding, _) in specs.by_name(item.get("workspaces"), source / "workspaces").items()
    }
    return PipelineTask(
        name=name,
        task=_task(item.get("taskRef"), item.get("taskSpec"), name, catalog, source),
        params=specs.given_params(item.get("params"), source / "params"),
        when=specs.whens(item.get("when"), source / "when"),
        run_after=tuple(item.get("runAfter") or ()),
        retries=int(item.get("retries") or 0),
        timeout=specs.duration(limit, source / "timeout") if limit is not None else None,
        workspaces=workspaces,
        final=final,
        embedded=item.get("taskSpec") is not None,
        source=source,
        matrix=matrix.parse(item.get("matrix"), source / "matrix"),
        on_error=specs.on_error(item, source),
    )


def pipeline_spec(body: Mapping[str, Any], name: str, catalog: Catalog, source: Source) -> PipelineSpec:
    """Parse a Pipeline's spec and every Task that it names."""
    if not body.get("tasks"):
        raise source.refuse(problem="has no tasks", remedy="give at least one")
    tasks = []
    for section, final in (("tasks", False), ("finally", True)):
        for item, where in specs.by_name(body.get(section), source / section).values():
            tasks.append(_pipeline_task(item, final, catalog, where))
            if any(other.name == tasks[-1].name for other in tasks[:-1]):
                raise where.refuse(problem=f"repeats the name {tasks[-1].name!r}", remedy="rename one of them")
    results = {}
    for result, (item, where) in specs.by_name(body.get("results"), source / "results").items():
        if item.get("value") is None:
            raise where.refuse(problem="has no value", remedy="give a reference to a Task's result")
        results[result] = specs.text_or(item["value"])
    return PipelineSpec(
        name=name,
        params=specs.param_specs(body.get("params"), source / "params"),
        workspaces=specs.workspace_specs(body.get("workspaces"), source / "workspaces"),
        tasks=tuple(tasks),
        results=results,
        source=source,
    )


def bindings(items: Any, source: Source) -> dict[str, Binding]:
    """Parse a run's workspace bindings; each needs exactly one kind of volume."""
    found = {}
    for name, (item, where) in specs.by_name(items, source).items():
        kinds = [kind for kind in _SOURCES if kind in item]
        if len(kinds) != 1:
            raise where.refuse(
                problem=f"binds workspace {name} to {len(kinds)} volumes", remedy=f"give one of {', '.join(_SOURCES)}"
            )
        key = _SOURCES[kinds[0]]
        target = str((item[kinds[0]] or {}).get(key) or "") if key else ""
        if key and not target:
            raise where.refuse(kinds[0], key, problem="is missing", remedy="name the object")
        chosen = _items((item[kinds[0]] or {}).get("items"), where / kinds[0])
        found[name] = Binding(name, kinds[0], target, str(item.get("subPath") or ""), where, chosen)
    return found


def _items(items: Any, source: Source) -> dict[str, str]:
    found = {}
    for index, item in enumerate(items or ()):
        path = PurePosixPath(str(item.get("path") or ""))
        if not item.get("key") or not path.name or path.is_absolute() or ".." in path.parts:
            raise source.refuse("items", index, problem="needs a key and a relative path", remedy="give both")
        found[str(item["key"])] = str(path)
    return found


def timeouts(body: Mapping[str, Any] | None, source: Source) -> Timeouts:
    """Parse `timeouts`; as in Tekton, tasks or finally follow from the other two; the sum must fit into pipeline."""
    body = body or {}
    given = {key: specs.duration(value, source / key) for key, value in body.items() if value is not None}
    pipeline = given.get("pipeline", DEFAULT_TIMEOUT)
    tasks, final = given.get("tasks"), given.get("finally")
    if pipeline < math.inf and (tasks or 0) + (final or 0) > pipeline:
        raise source.refuse(
            problem=f": tasks and finally together exceed pipeline ({pipeline:g} s)",
            remedy="raise pipeline or lower the others",
        )
    if given.get("pipeline", math.inf) < math.inf:
        if tasks is None and final is not None:
            tasks = pipeline - final
        elif final is None and tasks is not None:
            final = pipeline - tasks
    return Timeouts(pipeline, tasks, final)


def run_spec(document: Document) -> RunSpec:
    """Parse what is common to PipelineRun and TaskRun."""
    source, body = Source(document, ("spec",)), document.body.get("spec") or {}
    overrides = {}
    for index, item in enumerate(body.get("taskRunSpecs") or ()):
        if item.get("timeout") is not None:
            overrides[str(item.get("pipelineTaskName"))] = specs.duration(
                item["timeout"], source / "taskRunSpecs" / index / "timeout"
            )
    return RunSpec(
        params=specs.given_params(body.get("params"), source / "params"),
        bindings=bindings(body.get("workspaces"), source / "workspaces"),
        timeouts=timeouts(body.get("timeouts"), source / "timeouts")
        if document.kind == "PipelineRun"
        else Timeouts(pipeline=math.inf),
        task_timeouts=overrides,
    )


def pipeline_of(document: Document, catalog: Catalog) -> PipelineSpec:
    """Find or parse the Pipeline of a PipelineRun; a TaskRun becomes a Pipeline of its one Task."""
    source, body = Source(document, ("spec",)), document.body.get("spec") or {}
    if document.kind == "TaskRun":
        return _of_task_run(body, catalog, source)
    reference, embedded = body.get("pipelineRef"), body.get("pipelineSpec")
    if (reference is None) == (embedded is None):
        raise source.refuse(problem="needs exactly one of pipelineRef and pipelineSpec", remedy="give one")
    if embedded is not None:
        return pipeline_spec(embedded, document.name, catalog, source / "pipelineSpec")
    found = catalog.find("Pipeline", str((reference or {}).get("name") or ""), source.at("pipelineRef"))
    refuse_fields([found])
    return pipeline_spec(found.body.get("spec") or {}, found.name, catalog, Source(found, ("spec",)))


def _of_task_run(body: Mapping[str, Any], catalog: Catalog, source: Source) -> PipelineSpec:
    task = _task(body.get("taskRef"), body.get("taskSpec"), "task", catalog, source)
    limit = body.get("timeout")
    only = PipelineTask(
        name="task",
        task=task,
        params=specs.given_params(body.get("params"), source / "params"),
        when=(),
        run_after=(),
        retries=int(body.get("retries") or 0),
        timeout=specs.duration(limit, source / "timeout") if limit is not None else None,
        workspaces={name: (name, "") for name in task.workspaces},
        final=False,
        embedded=False,
        source=source,
    )
    return PipelineSpec(name="", params={}, workspaces=task.workspaces, tasks=(only,), results={}, source=source)
