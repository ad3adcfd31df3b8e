"""Check a resolved Pipeline as Tekton's webhook and controller do before the first TaskRun, and a little stricter.

Stricter: a param that nothing declares, a reference that nothing defines and a name that is no file name are refused,
never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from isotherm.tekton import BadInput
from isotherm_local.runner import matrix
from isotherm_local.runner.specs import ParamSpec, PipelineSpec, PipelineTask, Source, type_of
from isotherm_local.runner.substitution import Value, references, result_reference, texts

_PARAM = re.compile(r"""params(?:\.([^.\[\]]+)|\["([^"]+)"\]|\['([^']+)'\])(?:\[(\d+|\*)\]|\.(.+))?""")
_LENGTH = re.compile(r"tasks\.([^.]+)\.matrix(?:\.([^.]+))?\.length")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PIPELINE_CONTEXT = {
    "context.pipelineRun.name",
    "context.pipelineRun.namespace",
    "context.pipelineRun.uid",
    "context.pipeline.name",
    "context.pipelineTask.retries",
}


def label(name: str, where: str) -> None:
    """Refuse a name that is no DNS label: it names objects and folders."""
    if not _LABEL.fullmatch(name):
        raise BadInput(
            f"{where}: {name!r} is not a name for Kubernetes", remedy="use at most 63 small letters, digits and dashes"
        )


def given(specs: Mapping[str, ParamSpec], values: Mapping[str, Value], source: Source, owner: str) -> None:
    """Refuse params that `owner` does not declare, misses, or that have another type (results wait until known)."""
    unknown = sorted(set(values) - set(specs))
    if unknown:
        known = ", ".join(specs) or "none"
        raise source.refuse("params", problem=f": {owner} has no param {', '.join(unknown)}", remedy=f"it has {known}")
    missing = [spec.name for spec in specs.values() if spec.default is None and spec.name not in values]
    if missing:
        raise source.refuse(
            "params", problem=f": {owner} needs param {', '.join(missing)}", remedy="give a value (-p name=value)"
        )
    for name, value in values.items():
        problem = mismatch(specs[name], value)
        if problem and not (isinstance(value, str) and references(value)):
            raise source.refuse("params", problem=f": param {name} of {owner} {problem}", remedy="change the value")


def mismatch(spec: ParamSpec, value: Value) -> str:
    """Say how a value differs from its param's type or misses keys; empty where it fits."""
    if type_of(value) != spec.type:
        return f"is of type {spec.type}, not {type_of(value)}"
    if isinstance(value, dict):
        default = spec.default if isinstance(spec.default, dict) else {}
        missing = sorted(set(spec.keys) - set(value) - set(default))
        return f"lacks the keys {', '.join(missing)}" if missing else ""
    return ""


def param(reference: str, specs: Mapping[str, ParamSpec], whole: bool) -> str:
    """Say what is wrong with a reference to a param; `whole` allows a whole array or object."""
    match = _PARAM.fullmatch(reference)
    if match is None:
        return "is not a reference to a param"
    name, index, key = match[1] or match[2] or match[3], match[4], match[5]
    spec = specs.get(name)
    if spec is None:
        return f"names param {name}, which is not declared"
    if index is not None and spec.type == "string":
        return f"indexes param {name}, which is a string"
    if index not in (None, "*") and spec.type == "object":
        return f"indexes param {name}, which is an object"
    if key is not None and (spec.type != "object" or key not in spec.keys):
        return f"names key {key} of param {name}, which has no such key"
    if spec.type != "string" and index in (None, "*") and key is None and not whole:
        return f"puts the whole {spec.type} {name} into a text"
    return ""


def _result(reference: str, pipeline: PipelineSpec, final: bool) -> str:
    """Say what is wrong with a reference to a Task's result or status."""
    tasks = {task.name: task for task in pipeline.tasks}
    parsed = result_reference(reference)
    if parsed is not None and parsed.section == "tasks":
        if parsed.task not in tasks:
            return f"names Task {parsed.task}, which the Pipeline does not have"
        if tasks[parsed.task].final:
            return f"names Task {parsed.task}, which runs in finally"
        producer = tasks[parsed.task]
        if producer.matrix is not None and not reference.endswith("[*]"):
            return "names a result of a matrix, which can only be consumed in aggregate using [*] notation"
        return _result_use(parsed.result, parsed.key, parsed.index, producer)
    length = _LENGTH.fullmatch(reference)
    if length:
        known = length[1] in tasks and not tasks[length[1]].final
        return "" if known else f"names Task {length[1]}, which the Pipeline does not have"
    if final and reference == "tasks.status":
        return ""
    status = re.fullmatch(r"tasks\.([^.]+)\.(status|reason)", reference)
    if status and not final:
        return "asks for a status, which only finally Tasks can"
    if status:
        known = status[1] in tasks and not tasks[status[1]].final
        return "" if known else f"names Task {status[1]}, which the Pipeline does not have"
    return "is not known to Tekton here"


def _result_use(result: str, key: str, index: int | None, task: PipelineTask) -> str:
    spec = task.task.results.get(result)
    if spec is None:
        return f"names result {result}, which Task {task.task.name} does not declare"
    if task.matrix is not None:
        return "" if spec.type == "string" else f"gathers result {result}, which is of type {spec.type}, not string"
    if key and (spec.type != "object" or key not in spec.keys):
        return f"names key {key} of result {result}, which has no such key"
    if index is not None and spec.type != "array":
        return f"indexes result {result}, which is not an array"
    return ""


def in_pipeline(reference: str, pipeline: PipelineSpec, task: PipelineTask, whole: bool) -> str:
    """Say what is wrong with a reference in a PipelineTask; empty where all is well."""
    if reference.startswith("params"):
        return param(reference, pipeline.params, whole)
    if reference in PIPELINE_CONTEXT:
        return ""
    bound = re.fullmatch(r"workspaces\.([^.]+)\.bound", reference)
    if bound:
        return (
            ""
            if bound[1] in pipeline.workspaces
            else f"names workspace {bound[1]}, which the Pipeline does not declare"
        )
    if reference.startswith("tasks."):
        return _result(reference, pipeline, task.final)
    return "is not known to Tekton here"


def _pipeline_texts(task: PipelineTask) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for name, value in task.params.items():
        yield from ((("params", list(task.params).index(name), "value"), text) for text in texts(value))
    for index, when in enumerate(task.when):
        yield ("when", index, "input"), when.input
        yield from ((("when", index, "values"), text) for text in when.values)
    for place, value in matrix.values_of(task.matrix) if task.matrix else ():
        yield from ((place, text) for text in texts(value))
    if references(task.on_error):
        yield ("onError",), task.on_error


def pipeline_task(task: PipelineTask, pipeline: PipelineSpec) -> None:
    """Check one Task of a Pipeline: name, references, params, workspaces, order."""
    source = task.source
    if source.document.kind != "TaskRun":
        label(task.name, source.at("name"))
    for path, text in _pipeline_texts(task):
        for reference in references(text):
            problem = in_pipeline(reference, pipeline, task, whole=text == f"$({reference})")
            if _LENGTH.fullmatch(reference) and path[0] == "when":
                problem = "is replaced in params only"
            if problem:
                raise source.refuse(*path, problem=f": $({reference}) {problem}", remedy="correct the reference")
    for index, (_, sub_path) in enumerate(task.workspaces.values()):
        for reference in references(sub_path):
            problem = "" if not reference.startswith("tasks.") else "would not make this Task wait"
            problem = problem or in_pipeline(reference, pipeline, task, whole=False)
            if problem:
                raise source.refuse(
                    "workspaces",
                    index,
                    "subPath",
                    problem=f": $({reference}) {problem}",
                    remedy="correct the reference",
                )
    _matrix(task)
    gives = {**task.params, **dict.fromkeys(matrix.names(task.matrix) if task.matrix else (), "")}
    given({**task.task.params, **task.implied}, gives, source, f"Task {task.task.name}")
    _workspaces(task, pipeline)
    if task.on_error == "continue" and task.retries:
        raise source.refuse("onError", problem="is continue, which Tekton refuses with retries", remedy="remove one")
    names = {other.name for other in pipeline.tasks if not other.final}
    if task.final and task.run_after:
        raise source.refuse("runAfter", problem="is not allowed in finally", remedy="remove it")
    for other in task.run_after:
        if other not in names:
            raise source.refuse(
                "runAfter", problem=f"names {other!r}, which the Pipeline does not have", remedy="correct the name"
            )


def _matrix(task: PipelineTask) -> None:
    """Check a matrix as Tekton's webhook does: arrays to fan out over, texts for the Task, not too many."""
    if task.matrix is None:
        return
    source = task.source / "matrix"
    for name in matrix.names(task.matrix):
        if name in task.params:
            raise task.source.refuse("params", problem=f": {name} is also in the matrix", remedy="give it in one place")
        spec = task.task.params.get(name)
        if spec is not None and spec.type != "string":
            raise source.refuse(
                problem=f": param {name} of Task {task.task.name} is of type {spec.type}, not string",
                remedy="a combination gives each param one text",
            )
    for name, value in task.matrix.params.items():
        if not isinstance(value, list) and not (isinstance(value, str) and references(value)):
            raise source.refuse(
                "params", problem=f": {name} is of type {type_of(value)}, not array", remedy="give a list of texts"
            )
    if matrix.count(task.matrix) > matrix.LIMIT:
        raise source.refuse(
            problem=f"makes {matrix.count(task.matrix)} combinations, more than {matrix.LIMIT}",
            remedy="make it smaller (Tekton's default-max-matrix-combinations-count)",
        )


def _workspaces(task: PipelineTask, pipeline: PipelineSpec) -> None:
    for name, (outer, _) in task.workspaces.items():
        if name not in task.task.workspaces:
            raise task.source.refuse(
                "workspaces", problem=f": Task {task.task.name} has no workspace {name}", remedy="correct the name"
            )
        if outer not in pipeline.workspaces:
            raise task.source.refuse(
                "workspaces", problem=f": the Pipeline has no workspace {outer}", remedy="declare it"
            )
        if pipeline.workspaces[outer].optional and not task.task.workspaces[name].optional:
            raise task.source.refuse(
                "workspaces",
                problem=f": workspace {outer} is optional, but Task {task.task.name} requires {name}",
                remedy="make both agree",
            )
    for name, spec in task.task.workspaces.items():
        if not spec.optional and name not in task.workspaces:
            raise task.source.refuse(
                "workspaces", problem=f": Task {task.task.name} needs workspace {name}", remedy="bind it"
            )


def pipeline_results(pipeline: PipelineSpec) -> None:
    """Check that each result of the Pipeline refers to declared results of its Tasks, finally Tasks included."""
    tasks = {task.name: task for task in pipeline.tasks}
    for index, (name, value) in enumerate(pipeline.results.items()):
        found = [reference for text in texts(value) for reference in references(text)]
        for reference in found or [""]:
            parsed = result_reference(reference)
            task = tasks.get(parsed.task) if parsed else None
            if parsed is None:
                problem = "is not a reference to a Task's result"
            elif task is None or task.final != (parsed.section == "finally"):
                problem = f"names Task {parsed.task}, which is not among {parsed.section}"
            else:
                problem = _result_use(parsed.result, parsed.key, parsed.index, task)
            if problem:
                raise pipeline.source.refuse(
                    "results",
                    index,
                    problem=f": result {name}: $({reference}) {problem}",
                    remedy="correct the reference",
                )
