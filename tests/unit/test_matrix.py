"""A matrix fans out as Tekton's does: combinations, their order and count, the TaskRuns' names, results together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.tekton import BadInput
from isotherm_local.runner import matrix
from isotherm_local.runner.documents import Document
from isotherm_local.runner.record import SUCCEEDED, TaskRecord
from isotherm_local.runner.specs import Matrix, Source

SOURCE = Source(Document(Path("m.yaml"), "Pipeline", "p", {}, {}), ())
# The examples of Tekton's docs/matrix.md.
PLATFORMS = {"platform": ["linux", "mac"], "browser": ["safari", "chrome"]}


@pytest.mark.parametrize(
    ("params", "include", "combinations"),
    [
        pytest.param(PLATFORMS, [], [
            {"platform": "linux", "browser": "safari"}, {"platform": "mac", "browser": "safari"},
            {"platform": "linux", "browser": "chrome"}, {"platform": "mac", "browser": "chrome"},
        ], id="the first param varies fastest"),
        pytest.param(PLATFORMS, [{"platform": "linux", "url": "u"}, {"browser": "none"}], [
            {"platform": "linux", "browser": "safari", "url": "u"}, {"platform": "mac", "browser": "safari"},
            {"platform": "linux", "browser": "chrome", "url": "u"}, {"platform": "mac", "browser": "chrome"},
            {"browser": "none"},
        ], id="an include extends what it fits, or adds"),
        pytest.param({}, [{"a": "1"}, {"a": "2", "b": "3"}], [{"a": "1"}, {"a": "2", "b": "3"}], id="include alone"),
        pytest.param({"a": ["1"]}, [{"c": "x"}], [{"a": "1", "c": "x"}], id="an include of new params fits all"),
        pytest.param({"a": []}, [], [], id="an empty array"),
    ],
)  # fmt: skip
def test_a_matrix_fans_out(params: Any, include: Any, combinations: list[dict[str, str]]) -> None:
    made = Matrix(params, tuple(include))
    assert matrix.fan_out(made) == combinations
    assert matrix.count(made) == (len(combinations) or 1)  # Tekton counts an empty array as one, and skips the Task
    assert matrix.problem(made) == ""


def test_a_count_that_differs_from_the_combinations_is_named() -> None:
    made = Matrix({"a": ["1"], "b": ["2"]}, ({"a": "new", "b": "2"},))
    assert (matrix.count(made), len(matrix.fan_out(made))) == (2, 1)
    assert "Tekton counts 2 combinations of this matrix and makes 1" in matrix.problem(made)


NAME = st.sampled_from("abc")
TEXT = st.sampled_from("123")


@given(st.dictionaries(NAME, st.lists(TEXT, min_size=1, max_size=3, unique=True), min_size=1))
def test_params_alone_make_the_whole_product_once(params: dict[str, list[str]]) -> None:
    made = Matrix(params, ())
    combinations = matrix.fan_out(made)
    assert len(combinations) == math.prod(len(values) for values in params.values()) == matrix.count(made)
    assert len({tuple(sorted(one.items())) for one in combinations}) == len(combinations)


@given(st.dictionaries(NAME, st.lists(TEXT, max_size=3)), st.lists(st.dictionaries(NAME, TEXT), max_size=3))
def test_an_include_never_changes_a_value_of_the_matrix(params: Any, include: Any) -> None:
    plain = matrix.fan_out(Matrix(params, ()))
    for before, after in zip(plain, matrix.fan_out(Matrix(params, tuple(include))), strict=False):
        assert {name: after[name] for name in before} == before


def test_task_runs_are_named_as_on_a_cluster() -> None:
    assert matrix.run_names("run", "task", 1) == ["run-task"]
    assert matrix.run_names("run", "task", 3) == ["run-task-0", "run-task-1", "run-task-2"]
    long = matrix.run_names("r" * 50, "t" * 40, 12)
    assert len(set(long)) == 12
    assert all(len(name) <= 63 and name.endswith(f"-{index}") for index, name in enumerate(long))


def test_results_come_together_sorted_by_the_names_of_task_runs() -> None:
    children = [
        TaskRecord(f"run-t-{index}", "t", state=SUCCEEDED, results={} if index == 1 else {"r": str(index)})
        for index in range(11)
    ]
    assert matrix.results(children) == {"r": ["0", "10", "2", "3", "4", "5", "6", "7", "8", "9"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"params": [{"name": "a", "value": ["1"]}, {"name": "a", "value": ["2"]}]}, "repeats the name 'a'"),
        ({"include": [{"params": [{"name": "a", "value": ["1"]}]}]}, "a is of type array"),
    ],
)
def test_a_matrix_that_is_not_sound_is_refused(body: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        matrix.parse(body, SOURCE)


def test_a_matrix_without_params_is_none() -> None:
    assert matrix.parse({"params": [], "include": []}, SOURCE) is None
