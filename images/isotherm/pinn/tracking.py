"""The MLflow side of a training: one run and one model per content key and PipelineRun, however often it is started.

Everything is searched for before it is created, and a POST that may have been lost is not repeated blindly.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotherm import contract
from isotherm.registry.client import no_answer, no_repeats
from isotherm.tekton import Unavailable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mlflow import MlflowClient
    from numpy.typing import NDArray

TAG_KEY = "training_key"
MODEL_NAME = "model"
BATCH = 900  # the server takes at most 1000 metrics at once


@dataclass(frozen=True)
class Run:
    """A run of this training in MLflow."""

    run_id: str
    experiment_id: str


def open_run(client: MlflowClient, experiment: str, key: str, pipeline_run: str) -> Run:
    """Find this training's run, or create it; of two attempts that both create one, one run stays."""
    experiment_id = _experiment(client, experiment)
    found = _find_run(client, experiment_id, key, pipeline_run)
    if found is None:
        from mlflow.exceptions import MlflowException

        tags = {TAG_KEY: key, contract.TAG_PIPELINE_RUN: pipeline_run}
        try:
            with no_repeats():
                found = client.create_run(experiment_id, tags=tags, run_name=contract.RUN_NAME).info.run_id
        except MlflowException as error:
            if not no_answer(error):
                raise
            # The server may have made the run before the answer was lost.
            time.sleep(1)
            found = _find_run(client, experiment_id, key, pipeline_run)
            if found is None:
                raise Unavailable("MLflow did not answer while the run was created", remedy="run again") from error
        found = _keep_one(client, experiment_id, key, pipeline_run, found)
    return Run(found, experiment_id)


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException as error:
        # Another training made it in between.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise error
        return str(found.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, key: str, pipeline_run: str) -> str | None:
    runs = _find_runs(client, experiment_id, key, pipeline_run)
    return str(runs[0].info.run_id) if runs else None


def _find_runs(client: MlflowClient, experiment_id: str, key: str, pipeline_run: str) -> list[Any]:
    """All runs of this training that are not deleted, the earliest first."""
    wanted = f"tags.{TAG_KEY} = '{key}'"
    runs = client.search_runs([experiment_id], filter_string=wanted, order_by=["attributes.start_time ASC"])
    return [run for run in runs if run.data.tags.get(contract.TAG_PIPELINE_RUN, "") == pipeline_run]


def _keep_one(client: MlflowClient, experiment_id: str, key: str, pipeline_run: str, mine: str) -> str:
    """Settle a race between two creates: a run in which work is noted stays, else the one with the lowest id.

    The one that was created here is removed where another stays. MLflow has no compare-and-set: an attempt that lives
    on after Tekton gave its pod up is held off so, and two that begin in the same moment.
    """
    others = [run for run in _find_runs(client, experiment_id, key, pipeline_run) if run.info.run_id != mine]
    begun = [str(run.info.run_id) for run in others if run.data.params]
    kept = begun[0] if begun else min([mine, *(str(run.info.run_id) for run in others)])
    if kept != mine:
        print(f"another attempt has run {kept} of this training; {mine} is removed", flush=True)
        client.delete_run(mine)
    return kept


def describe(client: MlflowClient, run: Run, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Log params and tags; repeating it changes nothing."""
    from mlflow.entities import Param, RunTag

    client.log_batch(
        run.run_id,
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def log_metrics(
    client: MlflowClient, run: Run, finals: Mapping[str, float], curve: Sequence[tuple[int, float]]
) -> None:
    """Log the final metrics and `train_residual` by step, once: a curve that is there already is left alone."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    logged = client.get_run(run.run_id).data.metrics
    if contract.PDE_LOSS in logged:
        return
    metrics = [Metric(contract.TRAIN_RESIDUAL, value, now, step) for step, value in curve]
    done = {m.step for m in client.get_metric_history(run.run_id, contract.TRAIN_RESIDUAL)}
    metrics = [m for m in metrics if m.step not in done]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run.run_id, metrics=metrics[start : start + BATCH])
    # These come last and in one transaction: where they are, the curve is whole.
    client.log_batch(run.run_id, metrics=[Metric(n, v, now, len(curve)) for n, v in finals.items()])


def log_dataset(client: MlflowClient, run: Run, name: str, md5: str, source: Mapping[str, str]) -> None:
    """Link the dataset, with DVC's md5 as its digest, unless it is linked."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if client.get_run(run.run_id).inputs.dataset_inputs:
        return
    dataset = Dataset(name=name, digest=md5, source_type="dvc", source=json.dumps(dict(source)))
    client.log_inputs(run.run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def log_model(
    client: MlflowClient,
    run: Run,
    module: torch.nn.Module,
    example: NDArray[np.float64],
    digest: str,
    extra: list[Path],
) -> str:
    """Log the model as pt2 with `extra` files beside it, or find the one that a former attempt logged.

    One that a former attempt did not finish is removed: it would stay PENDING for ever. An attempt that still lives
    against all expectation fails then, and finds this one's model when it is repeated; where both finished one, the
    later one removes its own. Returns `models:/m-...`.
    """
    found, unfinished = _find_models(client, run, digest)
    if found is None:
        import mlflow
        import mlflow.pytorch
        import torch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        for model_id in unfinished:
            client.delete_logged_model(model_id)
        with torch.no_grad():
            columns = module(torch.from_numpy(example)).shape[1]
        signature = ModelSignature(
            inputs=Schema([TensorSpec(example.dtype, (-1, 3))]),
            outputs=Schema([TensorSpec(example.dtype, (-1, columns))]),
        )
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # its advice on requirements is not for this image
        with mlflow.start_run(run_id=run.run_id, log_system_metrics=False):
            info = mlflow.pytorch.log_model(
                module,
                name=MODEL_NAME,
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                extra_files=[str(path) for path in extra],
                # Given, not inferred: inference starts a second Python and loads the model there.
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
                tags={contract.TAG_MODEL_DIGEST: digest},
                validate_serving_input=False,  # a second load of the model; evaluate-metrics compares pt2 with ONNX
            )
        first, _ = _find_models(client, run, digest)
        found = first or str(info.model_id)
        if found != info.model_id:
            client.delete_logged_model(info.model_id)
    return f"models:/{found}"


def _find_models(client: MlflowClient, run: Run, digest: str) -> tuple[str | None, list[str]]:
    """Ids of this run's models of the digest: the first one that is READY, and those that are not."""
    wanted = f"tags.{contract.TAG_MODEL_DIGEST} = '{digest}'"
    models = client.search_logged_models([run.experiment_id], filter_string=wanted)
    models = sorted(models, key=lambda model: (model.creation_timestamp, model.model_id))
    mine = {str(m.model_id): str(m.status) for m in models if m.source_run_id == run.run_id}
    ready = [name for name, status in mine.items() if status in ("READY", "LoggedModelStatus.READY")]
    return next(iter(ready), None), [name for name in mine if name not in ready]


def finish(client: MlflowClient, run: Run, files: Mapping[str, Sequence[Path]]) -> None:
    """Upload artifacts by folder and end the run."""
    for folder, paths in files.items():
        for path in paths:
            client.log_artifact(run.run_id, str(path), folder or None)
    client.set_terminated(run.run_id, "FINISHED")
