"""Rules about a Pipeline: what it gives its Tasks, in which order they run, and what a gate stops."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from isotherm_local.lint.durations import seconds
from isotherm_local.lint.graph import Graph, result_references
from isotherm_local.lint.model import Catalog, Doc, Keys, Place, rule
from isotherm_local.lint.steps import references

IDEMPOTENT = "isotherm.dev/idempotent"
FINALLY_MAY_ASK = ("params.", "context.", "workspaces.")


def uses(catalog: Catalog, *sections: str) -> Iterator[tuple[Doc, Keys, dict[str, Any], Doc]]:
    """Walk the PipelineTasks whose Task the catalog has: Pipeline, place, PipelineTask, Task."""
    for doc in catalog.pipelines.values():
        for section in sections or ("tasks", "finally"):
            for keys, task in doc.items(section):
                definition = catalog.tasks.get((task.get("taskRef") or {}).get("name", ""))
                if definition:
                    yield doc, keys, task, definition


@rule("task-ref")
def task_refs(catalog: Catalog) -> Iterable[Place]:
    """A PipelineTask names a Task of this catalog."""
    for doc in catalog.pipelines.values():
        for section in ("tasks", "finally"):
            for keys, task in doc.items(section):
                name = (task.get("taskRef") or {}).get("name", "")
                if name not in catalog.tasks:
                    yield (
                        doc,
                        keys,
                        f"{task['name']} refers to Task {name!r}, which tasks/ does not hold; write it or name another",
                    )


@rule("pipeline-params")
def pipeline_params(catalog: Catalog) -> Iterable[Place]:
    """A PipelineTask gives each required param of its Task, no unknown one, and the right type."""
    for doc, keys, task, definition in uses(catalog):
        declared = definition.by_name("params")
        given = {item["name"]: item.get("value") for item in task.get("params") or ()}
        for name in sorted(set(declared) - set(given)):
            if "default" not in declared[name]:
                yield doc, keys, f"{task['name']} gives no {name}, which {definition.name} requires; add it"
        for index, item in enumerate(task.get("params") or ()):
            at = (*keys, "params", index)
            if item["name"] not in declared:
                yield doc, at, f"{definition.name} has no param {item['name']}; drop it or declare it there"
            elif declared[item["name"]].get("type", "string") != _type(doc, item.get("value")):
                yield (
                    doc,
                    at,
                    (
                        f"{item['name']} of {definition.name} is of type "
                        f"{declared[item['name']].get('type', 'string')}; give that"
                    ),
                )


def _type(doc: Doc, value: Any) -> str:
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    whole = [
        name
        for name, param in doc.by_name("params").items()
        if value == f"$(params.{name}[*])" and param.get("type") == "array"
    ]
    return "array" if whole else "string" if isinstance(value, str) else type(value).__name__


@rule("defaults")
def defaults(catalog: Catalog) -> Iterable[Place]:
    """A Pipeline's param has the default of the Task's param that it is passed to, where both have one."""
    for doc, keys, task, definition in uses(catalog):
        ours, theirs = doc.by_name("params"), definition.by_name("params")
        for index, item in enumerate(task.get("params") or ()):
            matched = re.fullmatch(r"\$\(params\.([a-z0-9-]+)\)", str(item.get("value")))
            mine = ours.get(matched[1], {}).get("default") if matched else None
            other = theirs.get(item["name"], {}).get("default")
            if mine and other and mine != other:
                message = f"{item['name']} is {mine} by default here, {other} in {definition.name}; make them equal"
                yield doc, (*keys, "params", index), message


@rule("pipeline-params-used")
def pipeline_params_used(catalog: Catalog) -> Iterable[Place]:
    """Every param and workspace of a Pipeline is used, and what is used is declared."""
    for doc in catalog.pipelines.values():
        body = [task for section in ("tasks", "finally") for _, task in doc.items(section)]
        asked = {found.split(".", 1)[1].split("[")[0] for found in references(body) if found.startswith("params.")}
        declared = doc.by_name("params")
        for keys, param in doc.items("params"):
            if param["name"] not in asked:
                yield doc, keys, f"param {param['name']} is used by no Task; pass it on or drop it"
        for name in sorted(asked - set(declared)):
            yield doc, ("spec", "params"), f"$(params.{name}) is used and not declared; declare it"
        bound = {item.get("workspace", item["name"]) for task in body for item in task.get("workspaces") or ()}
        for keys, workspace in doc.items("workspaces"):
            if workspace["name"] not in bound:
                yield doc, keys, f"workspace {workspace['name']} is used by no Task; map it or drop it"


@rule("result-ref")
def result_refs(catalog: Catalog) -> Iterable[Place]:
    """A result that is taken exists."""
    for doc in catalog.pipelines.values():
        tasks = doc.by_name("tasks")
        places = [*doc.items("tasks"), *doc.items("finally"), *doc.items("results")]
        for keys, item in places:
            for source, result in sorted(result_references(item)):
                definition = catalog.tasks.get((tasks.get(source, {}).get("taskRef") or {}).get("name", ""))
                if source not in tasks:
                    yield (
                        doc,
                        keys,
                        f"takes a result of {source}, which is not among the tasks; name one of {', '.join(tasks)}",
                    )
                elif definition and result not in definition.by_name("results"):
                    yield (
                        doc,
                        keys,
                        (
                            f"{definition.name} has no result {result}; name one of "
                            f"{', '.join(definition.by_name('results'))}"
                        ),
                    )


@rule("workspaces")
def workspaces(catalog: Catalog) -> Iterable[Place]:
    """Each workspace of a Task is mapped; one volume, by subPath, serves all but the optional ones."""
    for doc in catalog.pipelines.values():
        volumes = [name for name, item in doc.by_name("workspaces").items() if not item.get("optional")]
        if len(volumes) != 1:
            yield (
                doc,
                ("spec", "workspaces"),
                (
                    f"needs {len(volumes)} volumes ({', '.join(volumes)}); two in one "
                    "Task do not schedule: keep one, use subPath"
                ),
            )
    for doc, keys, task, definition in uses(catalog):
        offered, wanted = doc.by_name("workspaces"), definition.by_name("workspaces")
        given = {item["name"]: item for item in task.get("workspaces") or ()}
        for name, workspace in wanted.items():
            if name not in given and not workspace.get("optional"):
                yield doc, keys, f"{task['name']} maps no workspace to {name} of {definition.name}; map it"
        for index, item in enumerate(task.get("workspaces") or ()):
            at, source = (*keys, "workspaces", index), item.get("workspace", item["name"])
            if item["name"] not in wanted:
                yield doc, at, f"{definition.name} has no workspace {item['name']}; drop it"
            elif source not in offered:
                yield doc, at, f"the Pipeline has no workspace {source}; declare it"
            elif offered[source].get("optional") and not wanted[item["name"]].get("optional"):
                yield doc, at, f"{source} is optional here and required by {definition.name}; make both the same"
            elif not offered[source].get("optional") and not item.get("subPath"):
                yield doc, at, f"{item['name']} takes the whole volume; give it a subPath of its own"


@rule("cycle")
def cycles(catalog: Catalog) -> Iterable[Place]:
    """The Tasks of a Pipeline do not wait for each other in a circle, and runAfter names Tasks that exist."""
    for doc in catalog.pipelines.values():
        graph = Graph(doc)
        for keys, task in doc.items("tasks"):
            if task["name"] in graph.ancestors(task["name"]):
                yield (
                    doc,
                    keys,
                    (
                        f"{task['name']} waits for itself, by way of "
                        f"{', '.join(sorted(graph.before[task['name']]))}; break the circle"
                    ),
                )
            for name in task.get("runAfter") or ():
                if name not in graph.tasks:
                    yield doc, keys, f"runAfter names {name}, which is not among the tasks; correct it"


@rule("gate")
def gates(catalog: Catalog) -> Iterable[Place]:
    """What follows a gate is guarded by its verdict: a when, or a result of a guarded Task, never runAfter alone."""
    for doc in catalog.pipelines.values():
        graph = Graph(doc)
        for gate, task in graph.tasks.items():
            definition = catalog.tasks.get((task.get("taskRef") or {}).get("name", ""))
            if definition is None or "verdict" not in definition.by_name("results"):
                continue
            guarded = graph.guarded_by(gate)
            if not guarded:
                yield (
                    doc,
                    ("spec", "tasks"),
                    f"no Task asks for the verdict of {gate}; add a when to the first one after it",
                )
            for keys, later in doc.items("tasks"):
                if gate in graph.ancestors(later["name"]) and later["name"] not in guarded:
                    yield (
                        doc,
                        keys,
                        (
                            f"{later['name']} runs though {gate} says fail; add its when, or take a "
                            f"result of {', '.join(sorted(guarded)) or 'a guarded Task'}"
                        ),
                    )


@rule("run-after")
def run_after(catalog: Catalog) -> Iterable[Place]:
    """A Task does not follow one that may be skipped by runAfter alone."""
    for doc in catalog.pipelines.values():
        graph = Graph(doc)
        for keys, task in doc.items("tasks"):
            for name in sorted(set(task.get("runAfter") or ()) & graph.skippable - graph.by_result[task["name"]]):
                if task["name"] not in graph.skippable:
                    yield (
                        doc,
                        (*keys, "runAfter"),
                        f"{task['name']} runs though {name} was skipped; take one of its results, or repeat its when",
                    )


@rule("finally")
def finally_tasks(catalog: Catalog) -> Iterable[Place]:
    """A finally Task takes statuses, context and params, never results (they may be missing); it hears of all Tasks."""
    for doc in catalog.pipelines.values():
        names = list(doc.by_name("tasks"))
        allowed = {"tasks.status", *(f"tasks.{name}.{word}" for name in names for word in ("status", "reason"))}
        if "report-run" not in [(task.get("taskRef") or {}).get("name") for _, task in doc.items("finally")]:
            yield doc, ("spec",), "does not end with report-run; add it to finally, it says what happened"
        for keys, task in doc.items("finally"):
            for found in sorted(references(task)):
                if found not in allowed and not found.startswith(FINALLY_MAY_ASK):
                    yield (
                        doc,
                        keys,
                        (
                            f"{task['name']} asks for $({found}), which may be missing and would "
                            "skip it; read the workspace's reports instead"
                        ),
                    )
            given = {item["name"]: item.get("value") for item in task.get("params") or ()}
            if "task-statuses" in given and given["task-statuses"] != [
                f"{name}=$(tasks.{name}.status)" for name in names
            ]:
                yield (
                    doc,
                    keys,
                    "task-statuses does not list NAME=$(tasks.NAME.status) of every Task in order; complete it",
                )


@rule("pipeline-results")
def pipeline_results(catalog: Catalog) -> Iterable[Place]:
    """A Pipeline's result comes from a Task that no gate skips."""
    for doc in catalog.pipelines.values():
        graph = Graph(doc)
        for keys, item in doc.items("results"):
            for name in sorted({source for source, _ in result_references(item)} & graph.skippable):
                yield (
                    doc,
                    keys,
                    (
                        f"result {item['name']} comes from {name}, which may be skipped; "
                        "take it from an earlier Task or drop it"
                    ),
                )


@rule("timeouts")
def timeouts(catalog: Catalog) -> Iterable[Place]:
    """A PipelineTask has a timeout, longer than its step's (the pod must start too)."""
    for doc, keys, task, definition in uses(catalog):
        whole, step = (
            seconds(task.get("timeout")),
            sum(seconds(step.get("timeout")) for _, step in definition.items("steps")),
        )
        if whole <= step:
            yield (
                doc,
                keys,
                (
                    f"{task['name']} ends after {task.get('timeout') or 'the default'}, its "
                    f"step after {step:.0f} s; give it more than the step has"
                ),
            )


@rule("retries")
def retries(catalog: Catalog) -> Iterable[Place]:
    """Only a Task annotated isotherm.dev/idempotent is retried: the first attempt may still run beside it."""
    for doc, keys, task, definition in uses(catalog):
        idempotent = (definition.data["metadata"].get("annotations") or {}).get(IDEMPOTENT) == "true"
        if task.get("retries") and not idempotent:
            yield (
                doc,
                (*keys, "retries"),
                (
                    f"{definition.name} does not say that it may be repeated; drop "
                    "retries, or prove it and annotate the Task"
                ),
            )
