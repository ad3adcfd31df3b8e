"""Tekton's specs as typed values, parsed from documents that `fields.check` has passed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from isotherm.tekton import BadInput
from isotherm_local.runner.documents import Document, FieldPath, dotted
from isotherm_local.runner.substitution import Value, Variables, references

TYPES = ("string", "array", "object")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Source:
    """Where a spec stands, for messages."""

    document: Document
    path: FieldPath

    def at(self, *path: str | int) -> str:
        """Name file, line and field."""
        full = (*self.path, *path)
        return f"{self.document.where(full)}: {dotted(full)}"

    def refuse(self, *path: str | int, problem: str, remedy: str) -> BadInput:
        """Make the error that names this place."""
        gap = "" if problem.startswith(":") else " "
        return BadInput(f"{self.at(*path)}{gap}{problem}", remedy=remedy)

    def __truediv__(self, part: str | int) -> Source:
        """Go one field deeper."""
        return Source(self.document, (*self.path, part))


@dataclass(frozen=True)
class ParamSpec:
    """A declared param; `default` is None where a value must be given, `keys` are an object's required keys."""

    name: str
    type: str
    default: Value | None
    keys: tuple[str, ...]


@dataclass(frozen=True)
class ResultSpec:
    """A declared result of a Task."""

    name: str
    type: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class WorkspaceSpec:
    """A declared workspace of a Task or Pipeline."""

    name: str
    optional: bool
    read_only: bool
    mount_path: str = ""

    @property
    def path(self) -> str:
        """Name its place in a pod."""
        return self.mount_path or f"/workspace/{self.name}"


@dataclass(frozen=True)
class When:
    """A guard: `input` is, or is not, among `values`."""

    input: str
    operator: str
    values: tuple[str, ...]

    def allows(self) -> bool:
        """Tell whether the guard lets the Task run."""
        return (self.input in self.values) == (self.operator == "in")

    def as_record(self) -> dict[str, Any]:
        """Give Tekton's form."""
        return {"input": self.input, "operator": self.operator, "values": list(self.values)}


@dataclass(frozen=True)
class Step:
    """A step with its template merged in; `mounts` maps a volume's mountPath to its name.

    It has a `command` or a `script`. `on_error` is continue, stopAndFail or a reference.
    """

    name: str
    image: str
    command: tuple[str, ...]
    script: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    working_dir: str
    mounts: Mapping[str, str]
    timeout: float | None
    on_error: str
    source: Source


@dataclass(frozen=True)
class TaskSpec:
    """A Task."""

    name: str
    params: Mapping[str, ParamSpec]
    results: Mapping[str, ResultSpec]
    workspaces: Mapping[str, WorkspaceSpec]
    steps: tuple[Step, ...]
    volumes: tuple[str, ...]
    source: Source


@dataclass(frozen=True)
class Matrix:
    """What a PipelineTask fans out over: `params` whose values are arrays, and `include`d combinations."""

    params: Mapping[str, Value]
    include: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class PipelineTask:
    """A Task of a Pipeline: `workspaces` maps the Task's workspace to the Pipeline's and a subPath.

    What an embedded Task uses without declaring it: `inherited` results of earlier Tasks, `implied` params.
    """

    name: str
    task: TaskSpec
    params: Mapping[str, Value]
    when: tuple[When, ...]
    run_after: tuple[str, ...]
    retries: int
    timeout: float | None
    workspaces: Mapping[str, tuple[str, str]]
    final: bool
    embedded: bool
    source: Source
    matrix: Matrix | None = None
    on_error: str = ""
    inherited: Variables = field(default_factory=Variables)
    implied: Mapping[str, ParamSpec] = field(default_factory=dict)

    def with_(self, **changes: Any) -> PipelineTask:
        """Copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class PipelineSpec:
    """A Pipeline; `results` maps each result to its expression."""

    name: str
    params: Mapping[str, ParamSpec]
    workspaces: Mapping[str, WorkspaceSpec]
    tasks: tuple[PipelineTask, ...]
    results: Mapping[str, Value]
    source: Source


@dataclass(frozen=True)
class Binding:
    """A run's binding of a workspace to a volume of `kind` (persistentVolumeClaim, emptyDir, secret, ...).

    `items` maps the keys of a Secret or ConfigMap to their files, where not all keys are asked for.
    """

    name: str
    kind: str
    target: str
    sub_path: str
    source: Source
    items: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeouts:
    """Seconds; infinity where there is no limit, None where nothing is said."""

    pipeline: float = 3600.0
    tasks: float | None = None
    final: float | None = None


@dataclass(frozen=True)
class RunSpec:
    """What a PipelineRun or TaskRun asks for; a TaskRun's Task is the one Task of `pipeline`."""

    params: Mapping[str, Value]
    bindings: Mapping[str, Binding]
    timeouts: Timeouts
    task_timeouts: Mapping[str, float] = field(default_factory=dict)


def duration(value: str | int, source: Source) -> float:
    """Parse Go's durations (`1h30m`, `90s`) into seconds; 0 means no limit and gives infinity."""
    text = str(value)
    if text in ("0", "0s", "0m", "0h"):
        return math.inf
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise source.refuse(problem=f"is {text!r}, not a duration", remedy="write it as 90s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def text_or(value: Any) -> Value:
    """Read a param's value as Tekton does: a number or a boolean is the text of its JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [str(item) for item in value]
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    return json.dumps(value)


def on_error(item: Mapping[str, Any], source: Source) -> str:
    """Read `onError`: continue, stopAndFail or a reference to a param."""
    value = str(item.get("onError") or "")
    if value not in ("", "continue", "stopAndFail") and not references(value):
        raise source.refuse("onError", problem=f"is {value!r}", remedy="use continue or stopAndFail")
    return value


def type_of(value: Value) -> str:
    """Name the type of a value as Tekton does."""
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def by_name(items: Sequence[Mapping[str, Any]] | None, source: Source) -> dict[str, tuple[Mapping[str, Any], Source]]:
    """Index a list of named things; a missing or repeated name is refused."""
    found: dict[str, tuple[Mapping[str, Any], Source]] = {}
    for index, item in enumerate(items or ()):
        name = item.get("name")
        if not name:
            raise source.refuse(index, problem="has no name", remedy="name it")
        if name in found:
            raise source.refuse(index, problem=f"repeats the name {name!r}", remedy="rename one of them")
        found[name] = (item, source / index)
    return found


def _typed(item: Mapping[str, Any], source: Source) -> tuple[str, tuple[str, ...]]:
    keys = tuple(item.get("properties") or ())
    kind = item.get("type") or (
        "object" if keys else type_of(text_or(item["default"])) if item.get("default") is not None else "string"
    )
    if kind not in TYPES:
        raise source.refuse("type", problem=f"is {kind!r}", remedy="use string, array or object")
    return kind, keys


def param_specs(items: Sequence[Mapping[str, Any]] | None, source: Source) -> dict[str, ParamSpec]:
    """Parse declared params; a default of another type than the declared one is refused."""
    found = {}
    for name, (item, where) in by_name(items, source).items():
        kind, keys = _typed(item, where)
        default = None if item.get("default") is None else text_or(item["default"])
        if default is not None and type_of(default) != kind:
            raise where.refuse(
                "default",
                problem=f"of param {name} is of type {type_of(default)}, not {kind}",
                remedy="change the default or the type",
            )
        if kind == "object" and not keys:
            raise where.refuse(
                problem=f": object param {name} has no properties", remedy="name its keys under properties"
            )
        found[name] = ParamSpec(name, kind, default, keys)
    return found


def workspace_specs(items: Sequence[Mapping[str, Any]] | None, source: Source) -> dict[str, WorkspaceSpec]:
    """Parse declared workspaces."""
    return {
        name: WorkspaceSpec(
            name, bool(item.get("optional")), bool(item.get("readOnly")), str(item.get("mountPath") or "").rstrip("/")
        )
        for name, (item, _) in by_name(items, source).items()
    }


def given_params(items: Sequence[Mapping[str, Any]] | None, source: Source) -> dict[str, Value]:
    """Parse given params."""
    values = {}
    for name, (item, where) in by_name(items, source).items():
        if item.get("value") is None:
            raise where.refuse(problem=f"gives param {name} no value", remedy="give one, or leave the param out")
        values[name] = text_or(item["value"])
    return values


def _env(template: Mapping[str, Any], step: Mapping[str, Any], source: Source) -> tuple[tuple[str, str], ...]:
    """Merge as a strategic merge does: the step's new names first, then the template's order with the step's values."""
    by_name(template.get("env"), source / "env")
    by_name(step.get("env"), source / "env")
    inherited = {item["name"]: str(item.get("value") or "") for item in template.get("env") or ()}
    own = {item["name"]: str(item.get("value") or "") for item in step.get("env") or ()}
    return tuple({**{name: value for name, value in own.items() if name not in inherited}, **inherited, **own}.items())


def _step(item: Mapping[str, Any], template: Mapping[str, Any], index: int, source: Source) -> Step:
    merged = {**template, **{key: value for key, value in item.items() if value is not None}}
    mounts = {}
    for mount in [*(template.get("volumeMounts") or ()), *(item.get("volumeMounts") or ())]:
        if not mount.get("name") or not mount.get("mountPath"):
            raise source.refuse("volumeMounts", problem="needs name and mountPath", remedy="give both")
        mounts[mount["mountPath"].rstrip("/")] = mount["name"]
    if not merged.get("image"):
        raise source.refuse(problem="has no image", remedy="give image")
    script = str(item.get("script") or "")
    if script and merged.get("command"):
        raise source.refuse(problem="has both script and command", remedy="give one of them, as Tekton demands")
    if not script and not merged.get("command"):
        raise source.refuse(
            problem="has no command", remedy="give command: an image's own entry point is not known here"
        )
    limit = merged.get("timeout")
    return Step(
        name=merged.get("name") or f"unnamed-{index}",
        image=merged["image"],
        command=tuple(merged.get("command") or ()),
        script=script,
        args=tuple(merged.get("args") or ()),
        env=_env(template, item, source),
        working_dir=merged.get("workingDir") or "",
        mounts=mounts,
        timeout=duration(limit, source / "timeout") if limit is not None else None,
        on_error=on_error(item, source),
        source=source,
    )


def task_spec(body: Mapping[str, Any], name: str, source: Source) -> TaskSpec:
    """Parse a Task's spec."""
    if not body.get("steps"):
        raise source.refuse(problem="has no steps", remedy="give at least one")
    template = body.get("stepTemplate") or {}
    results = {}
    for result, (item, where) in by_name(body.get("results"), source / "results").items():
        kind, keys = _typed(item, where)
        results[result] = ResultSpec(result, kind, keys)
    volumes = by_name(body.get("volumes"), source / "volumes")
    for volume, (item, where) in volumes.items():
        if "emptyDir" not in item:
            raise where.refuse(problem=f": volume {volume} has no emptyDir", remedy="only emptyDir volumes exist here")
    steps = tuple(_step(item, template, index, source / "steps" / index) for index, item in enumerate(body["steps"]))
    for step in steps:
        for mount in step.mounts.values():
            if mount not in volumes:
                raise step.source.refuse(
                    "volumeMounts", problem=f"names volume {mount!r}, which the Task does not have", remedy="declare it"
                )
    return TaskSpec(
        name=name,
        params=param_specs(body.get("params"), source / "params"),
        results=results,
        workspaces=workspace_specs(body.get("workspaces"), source / "workspaces"),
        steps=steps,
        volumes=tuple(volumes),
        source=source,
    )


def whens(items: Sequence[Mapping[str, Any]] | None, source: Source) -> tuple[When, ...]:
    """Parse guards."""
    found = []
    for index, item in enumerate(items or ()):
        operator, values = item.get("operator"), item.get("values")
        if operator not in ("in", "notin"):
            raise source.refuse(index, "operator", problem=f"is {operator!r}", remedy="use in or notin")
        if not values:
            raise source.refuse(index, "values", problem="is empty", remedy="give at least one value")
        found.append(When(item.get("input") or "", operator, tuple(values)))
    return tuple(found)
