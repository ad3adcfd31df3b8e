"""The table of Tekton's fields is what the runner applies: nothing unknown or refused gets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from isotherm.tekton import BadInput
from isotherm_local.runner import fields
from isotherm_local.runner.documents import Document, load
from isotherm_local.runner.field_table import TYPES, Treatment

_EXAMPLE: dict[str, Any] = {
    "text": "x", "bool": True, "int": 1, "duration": "1m", "value": "x", "any": {}, "texts": ["x"],
}  # fmt: skip
# Kubernetes' own types inside Tekton's, and the names that Tekton's schema gives to the runner's types.
_IN_TEKTON = {
    "TaskSpec": "v1.TaskSpec", "Step": "v1.Step", "StepTemplate": "v1.StepTemplate", "ParamSpec": "v1.ParamSpec",
    "Param": "v1.Param", "TaskResult": "v1.TaskResult", "WorkspaceDeclaration": "v1.WorkspaceDeclaration",
    "PipelineSpec": "v1.PipelineSpec", "PipelineWorkspace": "v1.PipelineWorkspaceDeclaration",
    "PipelineResult": "v1.PipelineResult", "PipelineTask": "v1.PipelineTask", "EmbeddedTask": "v1.EmbeddedTask",
    "TaskWorkspace": "v1.WorkspacePipelineTaskBinding", "When": "v1.WhenExpression", "TaskRef": "v1.TaskRef",
    "PipelineRef": "v1.PipelineRef", "PipelineRunSpec": "v1.PipelineRunSpec", "Timeouts": "v1.TimeoutFields",
    "TaskRunOverride": "v1.PipelineTaskRunSpec", "WorkspaceBinding": "v1.WorkspaceBinding",
    "TaskRunSpec": "v1.TaskRunSpec", "PropertySpec": "v1.PropertySpec", "Matrix": "v1.Matrix",
    "IncludeParams": "v1.IncludeParams",
}  # fmt: skip


def document(folder: Path, body: dict[str, Any]) -> Document:
    file = folder / "given.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return load(file)[0]


def nest(path: str, value: Any) -> Any:
    """Build the nested value in which `path` (as the table prints it) holds `value`."""
    for part in reversed(path.split(".")):
        value = value if part == "*" else {part.removesuffix("[]"): [value] if part.endswith("[]") else value}
        if part == "*":
            value = {"key": value}
    return value


def rows(treatment: Treatment) -> list[str]:
    return [row.path for row in fields.table() if row.treatment is treatment]


@pytest.mark.parametrize("path", rows(Treatment.REFUSED))
def test_each_refused_field_bites_and_is_named_with_its_line(path: str, tmp_path: Path) -> None:
    kind, _, rest = path.partition(".")
    body = {"apiVersion": "tekton.dev/v1", "kind": kind, **nest(rest, {})}
    given = document(tmp_path, {**body, "apiVersion": "tekton.dev/v1", "kind": kind})
    problems = fields.check(given)
    assert len(problems) == 1
    assert "is refused by the local runner: " in problems[0]
    named = rest.replace("[]", "[0]").replace("*", "key")
    assert f": {named} is refused" in problems[0]
    assert "given.yaml:" in problems[0]


@pytest.mark.parametrize("path", rows(Treatment.INERT))
def test_each_field_without_effect_passes_and_is_listed(path: str, tmp_path: Path) -> None:
    kind, _, rest = path.partition(".")
    given = document(tmp_path, {**nest(rest, {}), "apiVersion": "tekton.dev/v1", "kind": kind})
    assert fields.check(given) == []
    assert rest.replace("[]", "[0]") in fields.inert(given)


@pytest.mark.parametrize("path", rows(Treatment.HONOURED))
def test_each_honoured_field_is_checked_for_its_shape(path: str, tmp_path: Path) -> None:
    kind, _, rest = path.partition(".")
    shape = shape_of(path)
    if rest in ("apiVersion", "kind") or shape == "any":
        return
    wrong: Any = {"deep": {"deeper": 1}} if shape in ("text", "bool", "int", "duration", "texts", "value") else "text"
    given = document(tmp_path, {**nest(rest, wrong), "apiVersion": "tekton.dev/v1", "kind": kind})
    assert [problem for problem in fields.check(given) if " must be " in problem]
    right = {
        "apiVersion": "tekton.dev/v1",
        "kind": kind,
        **nest(rest, _EXAMPLE.get(shape, [] if "[]" in shape else {})),
    }
    assert fields.check(document(tmp_path, right)) == []


def shape_of(path: str) -> str:
    shape, *parts = path.split(".")
    for part in parts:
        inner = shape[2:] if shape[:2] in ("[]", "{}") else shape
        shape = inner if part == "*" else TYPES[inner][part.removesuffix("[]")].shape
    return shape


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"kind": "Task", "spec": {"stepz": []}}, "spec.stepz is not a field of Tekton (did you mean steps?)"),
        ({"kind": "Pipeline", "spec": {"tasks": [{"name": "a", "retrys": 1}]}}, "spec.tasks[0].retrys is not a field"),
        ({"kind": "PipelineRun", "spec": {"timeout": "1h"}}, "spec.timeout is not a field"),
        ({"kind": "TaskRun", "extra": 1}, "extra is not a field"),
    ],
)
def test_an_unknown_field_is_named_with_its_path(body: dict[str, Any], message: str, tmp_path: Path) -> None:
    (problem,) = fields.check(document(tmp_path, {"apiVersion": "tekton.dev/v1", **body}))
    assert message in problem


def test_a_field_stands_on_the_line_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(
        "apiVersion: tekton.dev/v1\nkind: Task\nspec:\n  steps:\n    - name: a\n      ref:\n        name: x\n"
    )
    (problem,) = fields.check(load(file)[0])
    assert "task.yaml:6: spec.steps[0].ref is refused" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apiVersion: tekton.dev/v1\nkind: Task\nkind: Task\n", "kind is given twice"),
        ("apiVersion: tekton.dev/v1beta1\nkind: Task\n", "apiVersion 'tekton.dev/v1beta1' is not known"),
        ("kind: [\n", "is not YAML"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r".") as error:
        load(file)
    assert message in error.value.line()


def test_the_table_names_every_field_of_tektons_schema(tekton_module: Path) -> None:
    schema = json.loads((tekton_module / "pkg/apis/pipeline/v1/swagger.json").read_text())["definitions"]
    for ours, theirs in _IN_TEKTON.items():
        inlined = {"resolver", "params"} if ours in ("TaskRef", "PipelineRef") else set()  # the schema leaves them out
        assert set(TYPES[ours]) - inlined == set(schema[theirs]["properties"]), ours
