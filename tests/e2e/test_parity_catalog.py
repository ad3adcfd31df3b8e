"""Pipeline inverse-heat-pinn on the local target and on the cluster, with the same params: the same normal form.

Results that are hashes, ids or measured numbers are compared by their names and by whether they are empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from local_pipeline import Target as LocalTarget
from local_pipeline import started
from normal_form import from_tekton

from e2e.cluster import Finished
from e2e.conftest import REFUSED_PARAMS
from isotherm_local.runner.normal import normal_form

# Of other data repositories, registries and machines there are other ones.
VARYING = {
    "dataset-hash", "data-version", "data-git-sha", "run-id", "model-uri", "model-digest", "pde-loss", "val-residual",
    "live-digest",
}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTarget]:
    """A local target beside the cluster."""
    with started(tmp_path_factory.mktemp("parity")) as target:
        yield target


@pytest.fixture(scope="module")
def first_here(here: LocalTarget) -> dict[str, Any]:
    """The first run there: what comes after it has a champion to beat, as on the cluster."""
    return normal_form(here.run("first"))


def masked(form: dict[str, Any]) -> dict[str, Any]:
    """A normal form without the values that vary."""

    def results(values: dict[str, Any]) -> dict[str, Any]:
        return {name: "*" if name in VARYING and value else value for name, value in values.items()}

    tasks = {name: {**task, "results": results(task["results"])} for name, task in form["tasks"].items()}
    return {**form, "results": results(form["results"]), "tasks": tasks}


def there(ended: Finished) -> dict[str, Any]:
    return masked(from_tekton(ended.run, ended.task_runs))


def test_a_first_run_ends_alike(first: Finished, first_here: dict[str, Any]) -> None:
    assert masked(first_here) == there(first)


def test_a_run_that_the_gate_refuses_ends_alike(
    refused: tuple[Finished, list[str], list[str]], here: LocalTarget, first_here: dict[str, Any]
) -> None:
    assert masked(normal_form(here.run("refused", revision=1, **REFUSED_PARAMS))) == there(refused[0])


@pytest.mark.core
def test_a_run_without_data_ends_alike(no_data: Finished, here: LocalTarget) -> None:
    assert masked(normal_form(here.run("no-data", data_path="data/none"))) == there(no_data)
