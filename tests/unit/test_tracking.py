"""A training's run and model in MLflow where two attempts of it are alive: one of each stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch

from isotherm import contract
from isotherm.pinn import tracking
from isotherm.registry.client import connect

DIGEST = "d" * 64


@pytest.mark.parametrize("begun", [True, False])
def test_of_two_runs_that_two_attempts_create_one_stays(
    begun: bool, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(mlflow_url)
    create, former = client.create_run, []

    def beaten(*arguments: Any, **options: Any) -> Any:
        """Another attempt's create arrives first."""
        former.append(create(*arguments, **options).info.run_id)
        if begun:
            client.log_param(former[0], "epochs", "2")
        return create(*arguments, **options)

    monkeypatch.setattr(client, "create_run", beaten)
    found = tracking.open_run(client, f"race-{begun}", "key", "run-1")
    if not begun:  # the other attempt looks as well, and both keep the same one
        assert tracking._keep_one(client, found.experiment_id, "key", "run-1", former[0]) == found.run_id
    runs = client.search_runs([found.experiment_id])
    assert [run.info.run_id for run in runs] == [found.run_id]
    assert not begun or found.run_id == former[0], "work was noted in the other one"
    monkeypatch.undo()
    assert tracking.open_run(client, f"race-{begun}", "key", "run-1") == found
    assert tracking.open_run(client, f"race-{begun}", "key", "run-2") != found, "another PipelineRun has its own"


def test_of_two_models_that_two_attempts_log_the_first_stays(
    tmp_path: Path, mlflow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(mlflow_url)
    run = tracking.open_run(client, "race-model", "key", "run-1")
    log, former = mlflow.pytorch.log_model, []

    def beaten(*arguments: Any, **options: Any) -> Any:
        """Another attempt's model is READY first."""
        model = client.create_logged_model(run.experiment_id, "model", run.run_id, {contract.TAG_MODEL_DIGEST: DIGEST})
        client.finalize_logged_model(model.model_id, "READY")
        former.append(model.model_id)
        return log(*arguments, **options)

    monkeypatch.setattr(mlflow.pytorch, "log_model", beaten)
    module, example = torch.nn.Linear(3, 2).double(), np.zeros((2, 3))
    (tmp_path / "extra.txt").write_text("beside it")
    uri = tracking.log_model(client, run, module, example, DIGEST, [tmp_path / "extra.txt"])
    assert uri == f"models:/{former[0]}"
    assert [model.model_id for model in client.search_logged_models([run.experiment_id])] == former
