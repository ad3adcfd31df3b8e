"""The trainer as a program: killed and started again, twice with one MLflow run, refusing what cannot be trained on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import final_parameters, finish, heatinv, kill_after_checkpoint, plate, start

from isotherm import contract
from isotherm.pinn import manifest
from isotherm.registry.client import connect

SHORT = ("--epochs", "6", "--restarts", "2")


def report(work: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((work / "reports" / contract.REPORT_TRAIN).read_text())
    return content


def test_a_killed_training_ends_with_the_parameters_of_one_that_was_not(tmp_path: Path) -> None:
    data = heatinv(tmp_path / "data", 400)
    flags = ("--epochs", "30", "--restarts", "1")
    finish(start(data, tmp_path / "whole", *flags))
    cut = start(data, tmp_path / "cut", *flags)
    kill_after_checkpoint(cut, tmp_path / "cut")
    log = finish(start(data, tmp_path / "cut", *flags))
    whole, resumed = final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "cut")
    assert len(whole) == len(resumed) == 1
    assert torch.equal(whole[0], resumed[0])
    assert "iteration 1/30" not in log
    assert report(tmp_path / "whole")["model_digest"] == report(tmp_path / "cut")["model_digest"]


def test_a_training_leaves_one_run_one_model_and_a_whole_bundle_however_often_it_is_started(
    tmp_path: Path, mlflow_url: str
) -> None:
    data, work = heatinv(tmp_path / "data"), tmp_path / "work"
    flags = (*SHORT, "--mlflow", mlflow_url, "--experiment", "twice")
    results = {f"RESULT_{name}": str(tmp_path / name) for name in ("RUN_ID", "MODEL_URI", "MODEL_DIGEST", "PDE_LOSS")}
    finish(start(data, work, *flags, **results))
    first = report(work)
    log = finish(start(data, work, *flags, **results))
    second = report(work)
    assert "iteration" not in log, "a finished training was trained again"
    for name in ("run_id", "model_uri", "model_digest", "metrics", "run_manifest"):
        assert first[name] == second[name]
    client = connect(mlflow_url)
    experiment = client.get_experiment_by_name("twice")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in runs] == [first["run_id"]]
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    assert_logged(client, runs[0], first)
    for name, value in (("RUN_ID", "run_id"), ("MODEL_URI", "model_uri"), ("MODEL_DIGEST", "model_digest")):
        assert (tmp_path / name).read_text() == first[value]
    assert float((tmp_path / "PDE_LOSS").read_text()) == pytest.approx(first["metrics"]["pde_loss"], rel=1e-4)
    assert_bundle(work / "model" / "bundle", first)


def test_a_model_that_a_killed_attempt_did_not_finish_is_replaced_not_left_beside_the_whole_one(
    tmp_path: Path, mlflow_url: str
) -> None:
    data, work = heatinv(tmp_path / "data"), tmp_path / "work"
    flags = ("--epochs", "2", "--restarts", "1", "--mlflow", mlflow_url, "--experiment", "cut-off")
    finish(start(data, work, *flags))
    first, client = report(work), connect(mlflow_url)
    client.delete_logged_model(first["model_uri"].removeprefix("models:/"))
    experiment = client.get_experiment_by_name("cut-off").experiment_id
    tags = {contract.TAG_MODEL_DIGEST: first["model_digest"]}
    client.create_logged_model(experiment, name="model", source_run_id=first["run_id"], tags=tags)
    another = client.create_run(experiment).info.run_id
    other = client.create_logged_model(experiment, name="model", source_run_id=another, tags=tags)
    finish(start(data, work, *flags))
    found = {model.model_id: str(model.status) for model in client.search_logged_models([experiment])}
    again = report(work)["model_uri"].removeprefix("models:/")
    assert found.keys() == {again, other.model_id}, "another run's model is not ours to remove"
    assert found[again] == "READY"


def assert_logged(client: Any, run: Any, first: dict[str, Any]) -> None:
    assert run.info.run_name == contract.RUN_NAME
    assert run.info.status == "FINISHED"
    assert {"epochs", "lr", "a_reg", "f_reg", "dataset_hash", "data_version", "architecture"} <= set(run.data.params)
    wanted = {*contract.LINEAGE_TAGS, "domain", "equation", "dataset_branch", "depth", "w_pde", "pipeline_run"}
    assert all(run.data.tags.get(tag) for tag in wanted)
    assert run.data.tags["model_digest"] == first["model_digest"]
    steps = [m.step for m in client.get_metric_history(run.info.run_id, contract.TRAIN_RESIDUAL)]
    assert sorted(steps) == list(range(1, first["restarts"][0]["iterations"] + 1))
    assert run.data.metrics["pde_loss"] == first["metrics"]["pde_loss"]
    assert run.inputs.dataset_inputs[0].dataset.digest == run.data.params["dataset_hash"]
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id, "plots")}
    assert "plots/residual_map.png" in artifacts


def assert_bundle(bundle: Path, first: dict[str, Any]) -> None:
    for line in (bundle / contract.MANIFEST_FILE).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    built = json.loads((bundle / contract.RUN_MANIFEST_FILE).read_text())
    assert set(manifest.BLOCKS) < set(built)
    assert built["digest"] == manifest.digest(built) == first["run_manifest"]
    metadata = json.loads((bundle / contract.MODEL_METADATA).read_text())
    module = torch.export.load(bundle / "model.pt2").module()
    with torch.no_grad():
        columns = module(torch.tensor(metadata["samples"]["points"], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(columns[:, 0], metadata["samples"]["u"], rtol=1e-12)
    np.testing.assert_allclose(columns[:, 1], metadata["samples"]["a"], rtol=1e-12)
    arrays = np.load(bundle / "fields.npz", allow_pickle=False)
    assert arrays["a"].shape == (2, 61, 61)
    assert arrays["history_1"].shape == (first["restarts"][1]["iterations"], 6)


def test_a_plate_in_si_units_is_trained_with_its_nuisance_parameters(tmp_path: Path) -> None:
    finish(start(plate(tmp_path / "data"), tmp_path / "work", "--epochs", "10", "--restarts", "1"))
    found = report(tmp_path / "work")
    assert {"bc_loss", "ic_loss", "nuisance_b", "nuisance_s", "a_mean"} <= set(found["metrics"])
    assert "a_spread" not in found["metrics"]
    assert found["a_model"] == "constant"
    assert found["run_id"] == ""


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("--lr", "0.1"), "recipe lm has no learning rate"),
        (("--epochs", "many"), "is not a whole number from 1"),
        (("--data", "nowhere"), "nowhere"),
        (("--mlflow", "http://127.0.0.1:9"), "did not answer"),
    ],
)
def test_a_wrong_input_ends_with_one_line_that_says_why(flags: tuple[str, ...], cause: str, tmp_path: Path) -> None:
    data = heatinv(tmp_path / "data")
    results = {"RESULT_RUN_ID": str(tmp_path / "RUN_ID"), "MLFLOW_DEADLINE_SECONDS": "2"}
    process = start(data, tmp_path / "work", *SHORT, *flags, **results)
    log, _ = process.communicate(timeout=120)
    assert process.returncode in (2, 4)
    assert cause in log.splitlines()[-1]
    assert (tmp_path / "RUN_ID").read_text() == ""


def test_bad_measurements_are_refused_before_training_naming_file_column_and_row(tmp_path: Path) -> None:
    import h5py

    data = heatinv(tmp_path / "data")
    with h5py.File(data / "measurements.h5", "r+") as file:
        file["u"][7] = np.nan
    process = start(data, tmp_path / "work", *SHORT)
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    last = log.splitlines()[-1]
    assert all(word in last for word in ("measurements.h5", "column u", "row 7"))
    assert not (tmp_path / "work" / "model" / "checkpoints").exists()
    assert f"error: {report(tmp_path / 'work')['error']}" == last


def test_params_come_from_the_environment_when_no_flag_is_given(tmp_path: Path) -> None:
    heatinv(tmp_path / "data" / "abc")
    env = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "DATASET_HASH": "abc", "LR": "0.5", "RECIPE": "lm"}
    command = [sys.executable, "-m", "isotherm.pinn.train"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "lr is 0.5" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["RECIPE", "A_MODEL", "DEVICE"])
def test_a_param_that_names_no_choice_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    process = start(heatinv(tmp_path / "data"), tmp_path / "work", **{name: "none-such"})
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "'none-such' is none of " in log.splitlines()[-1]
    assert not (tmp_path / "work" / "model").exists()
