"""problem.yaml: what is accepted means one thing, what is not is refused by file and field."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isotherm import tekton
from isotherm.physics.problem import AreaMeanClosure, Problem, Quantity, Scales, load_ambient

HEATINV: dict[str, Any] = yaml.safe_load("""
schema_version: 1
id: heatinv
title: PINNacle HeatInv
units: {x: "1", t: "1", u: "1", a: "1"}
domain: {x: [-1, 1], y: [-1, 1], t: [0, 1]}
scales: {length: 1.0, time: 1.0, u: 1.0, u_offset: 0.0}
sigma: 0.1
source: {kind: builtin, name: heatinv}
boundary_u: null
initial_u: null
a_boundary: {kind: builtin, name: heatinv}
a_model: {kind: field}
reference_a: {kind: builtin, name: heatinv}
reference_u: {kind: builtin, name: heatinv}
gate: {pde_loss_max: 1.0e-3, val_residual_max: 1.0e-2, val_misfit: [0.7, 1.3], a_spread_max: 0.05}
""")

CLOSURE = {
    "kind": "area-mean-closure",
    "b": {"value": 1.2e-3, "relative_sigma": 0.2},
    "s": {"value": 0.3, "relative_sigma": 0.05},
    "x0": [0.1, -0.2],
    "ambient": "ambient.csv",
}


def changed(field: str, value: object) -> str:
    """Return HeatInv's YAML with one field set (None as text `absent` removes it)."""
    content = copy.deepcopy(HEATINV)
    *path, last = field.split(".")
    place = content
    for part in path:
        place = place[part]
    if value == "absent":
        del place[last]
    else:
        place[last] = value
    return yaml.safe_dump(content)


def test_the_documented_problem_has_its_tag_and_a_digest_of_its_content() -> None:
    problem = Problem.parse(yaml.safe_dump(HEATINV))
    assert problem.tag == "heatinv:u_t - div(a grad u) = f"
    assert len(problem.digest) == 64
    assert Problem.parse(changed("sigma", 0.2)).digest != problem.digest


def test_the_digest_does_not_depend_on_how_the_same_problem_is_spelled() -> None:
    reordered = yaml.safe_dump(dict(reversed(HEATINV.items())))
    spelled = changed("gate.pde_loss_max", "1e-3")  # YAML 1.1 reads 1e-3 as text
    without_nulls = changed("boundary_u", "absent")
    integers = changed("scales.length", 1)
    digests = {Problem.parse(text).digest for text in (reordered, spelled, without_nulls, integers)}
    assert digests == {Problem.parse(yaml.safe_dump(HEATINV)).digest}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", {"kind": "zero"}),
        ("source", {"kind": "unknown"}),
        ("source", {"kind": "table", "file": "source.parquet"}),
        ("source", CLOSURE),
        ("boundary_u", {"kind": "insulated"}),
        ("boundary_u", {"kind": "value", "value": 0}),
        ("initial_u", {"kind": "value", "value": 18.05}),
        ("a_boundary", {"kind": "unknown"}),
        ("a_model", {"kind": "constant"}),
        ("reference_a", {"kind": "value", "value": 1.1e-5}),
        ("sigma", None),
        ("gate", {}),
    ],
)
def test_every_documented_form_survives_writing_and_reading(field: str, value: object) -> None:
    problem = Problem.parse(changed(field, value))
    assert Problem.parse(problem.to_yaml()) == problem


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("extra", 1, "field extra"),
        ("title", "absent", "field title: is missing"),
        ("schema_version", 2, "field schema_version"),
        ("id", "Heat Inv", "field id"),
        ("sigma", 0, "field sigma"),
        ("sigma", -0.1, "field sigma"),
        ("sigma", float("nan"), "field sigma"),
        ("scales.length", True, "field scales.length"),
        ("scales.time", 0, "field scales.time"),
        ("scales.u", "wide", "field scales.u"),
        ("domain.x", [1, -1], "field domain.x"),
        ("domain.t", [0], "field domain.t"),
        ("domain.y", [0, float("inf")], "field domain.y"),
        ("units.a", "m2/s", "field units"),
        ("source.name", "burgers", "field source.builtin.name"),
        ("source", {"kind": "magic"}, "field source"),
        ("source", {"kind": "table", "file": "../../etc/passwd"}, "field source.table.file"),
        ("source", {**CLOSURE, "ambient": "a/b.csv"}, "field source.area-mean-closure.ambient"),
        ("source", {**CLOSURE, "b": {"value": 0, "relative_sigma": 0.2}}, "field source.area-mean-closure.b.value"),
        ("source", {**CLOSURE, "x0": [5, 0]}, "source.x0 has x = 5"),
        ("gate.val_misfit", [1.3, 0.7], "field gate.val_misfit"),
        ("gate.loss", 1, "field gate.loss"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line_that_names_file_and_field(
    tmp_path: Path, field: str, value: object, named: str
) -> None:
    file = tmp_path / "problem.yaml"
    file.write_text(changed(field, value))
    with pytest.raises(tekton.BadInput) as refusal:
        Problem.load(tmp_path)
    line = refusal.value.line()
    assert str(file) in line
    assert named in line
    assert "\n" not in line


@given(st.text(max_size=200))
def test_any_text_is_a_problem_or_bad_input_and_nothing_else(text: str) -> None:
    with pytest.raises(tekton.BadInput):
        Problem.parse(text)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x: " + b"a" * 70_000, b"- 1\n- 2\n"])
def test_what_is_no_yaml_text_of_fields_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "problem.yaml").write_bytes(content)
    with pytest.raises(tekton.BadInput, match=r"problem\.yaml"):
        Problem.load(tmp_path)


def test_a_missing_file_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(tekton.BadInput, match=r"problem\.yaml does not exist"):
        Problem.load(tmp_path / "problem.yaml")


positive = st.floats(1e-6, 1e6)
quantities: st.SearchStrategy[Quantity] = st.sampled_from(["x", "y", "t", "u", "a", "f"])


@given(positive, positive, positive, st.floats(-1e3, 1e3), quantities, st.floats(-10, 10))
def test_scaling_there_and_back_gives_the_same_value(
    length: float, time: float, u: float, offset: float, quantity: Quantity, value: float
) -> None:
    scales = Scales(length=length, time=time, u=u, u_offset=offset)
    physical = scales.to_physical(quantity, np.array([value]))
    assert scales.to_nondimensional(quantity, physical) == pytest.approx(value, abs=1e-6 * (1 + abs(offset) / u))


def test_the_scales_of_a_and_f_follow_from_the_equation() -> None:
    scales = Scales(length=0.1, time=1000, u=10, u_offset=18.05)
    assert scales.of("a") == pytest.approx(1e-5)
    assert scales.of("f") == pytest.approx(0.01)


def test_the_ambient_record_is_read_and_its_first_wrong_row_named(tmp_path: Path) -> None:
    closure = AreaMeanClosure.model_validate(CLOSURE)
    file = tmp_path / "ambient.csv"
    file.write_text("t,ambient\n0,18\n10,18.5\n")
    t, ambient = load_ambient(tmp_path, closure)
    assert t.tolist() == [0, 10]
    assert ambient.tolist() == [18, 18.5]
    for text, named in [
        ("t,ambient\n0,18\n0,19\n", "row 3, column t"),
        ("t,ambient\n0,nan\n1,2\n", "row 2"),
        ("t,ambient\n0\n1,2\n", "row 2"),
        ("time,ambient\n0,18\n", "row 1"),
        ("t,ambient\n0,18\n", "1 rows"),
    ]:
        file.write_text(text)
        with pytest.raises(tekton.BadInput, match=named):
            load_ambient(tmp_path, closure)
