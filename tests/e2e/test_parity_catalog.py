"""Pipeline inverse-heat-pinn on the local target and on the cluster, with the same params: the same normal form.

Results that are hashes, ids or measured numbers are compared by their names and by whether they are empty. The local
runs are made beside earlier tests (fixture `local_forms`).
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from normal_form import from_tekton

from e2e.cluster import Finished

# Of other data repositories, registries and machines there are other ones.
VARYING = {
    "dataset-hash", "data-version", "data-git-sha", "run-id", "model-uri", "model-digest", "pde-loss", "val-residual",
    "live-digest",
}  # fmt: skip


def masked(form: dict[str, Any]) -> dict[str, Any]:
    """A normal form without the values that vary."""

    def results(values: dict[str, Any]) -> dict[str, Any]:
        return {name: "*" if name in VARYING and value else value for name, value in values.items()}

    tasks = {name: {**task, "results": results(task["results"])} for name, task in form["tasks"].items()}
    return {**form, "results": results(form["results"]), "tasks": tasks}


def there(ended: Finished) -> dict[str, Any]:
    return masked(from_tekton(ended.run, ended.task_runs))


@pytest.mark.parametrize("run", ["first", "refused", pytest.param("no-data", marks=pytest.mark.core)])
def test_a_run_ends_alike(run: str, request: pytest.FixtureRequest, local_forms: dict[str, Future[Any]]) -> None:
    ended = request.getfixturevalue(run.replace("-", "_"))
    on_cluster = ended[0] if isinstance(ended, tuple) else ended
    assert masked(local_forms[run].result()) == there(on_cluster)
