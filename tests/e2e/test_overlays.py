"""Staging and production for real: models in S3, images by digest, a person's word before traffic moves.

They have an MLflow of their own, so that development can go on beside them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml
from lab import catalog_images, mlflow, storage
from lab.part import CHECKOUT, NODE_IP, Lab
from waiting import eventually

from e2e import measurements
from e2e.cluster import BUILD, Finished, Target
from e2e.conftest import MODEL, WORKSPACES, Catalog
from e2e.written import Written

PORT = 5002
MEASUREMENTS = "staged-measurements"
SMALL = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}


@pytest.fixture(scope="module")
def registry(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The cluster with another MLflow, empty, a process of the node as the lab's own."""
    if target.mlflow != mlflow.URL:
        pytest.skip("the lab's own images and node are what is tried here")
    folder, address = tmp_path_factory.mktemp("mlflow"), f"{NODE_IP}:{PORT}"
    command, environment = mlflow.server(PORT, str(folder / "artifacts"), address, f"sqlite:///{folder}/mlflow.db")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | environment, cwd=folder, stdout=log, stderr=log)
    try:
        eventually(lambda: not storage.http_answers(f"http://{address}/health"), 120, every=1)
        yield replace(target, mlflow=f"http://{address}")
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def revisions(target: Target) -> list[str]:
    """Two versions of the measurements, in a repository of their own."""
    sizes = ((1000, 1), (1200, 2))
    return [measurements.publish(target, "heatinv", points, seed, to=MEASUREMENTS) for points, seed in sizes]


def environment(registry: Target, revisions: list[str], overlay: str, namespace: str) -> Catalog:
    """An overlay installed in its own namespace; the lab's node is smaller than production's."""
    space = Catalog(registry, namespace, revisions, measurements.repository(registry, MEASUREMENTS))
    space.remove(wait=True)
    folder = BUILD / f"overlay-{namespace}"
    folder.mkdir(parents=True, exist_ok=True)
    pins = [{"name": name, "digest": digest} for name, digest in catalog_images.pinned(Lab()).items()]
    kustomization = {"resources": [os.path.relpath(CHECKOUT / "overlays" / overlay, folder)]}
    if overlay == "prod":
        # What a release does with `kustomize edit set image`, on a copy of the overlay's own configuration.
        shutil.copy(CHECKOUT / "overlays/components/image-ref/kustomizeconfig.yaml", folder)
        kustomization |= {"images": pins, "configurations": ["kustomizeconfig.yaml"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    space.install(str(folder))
    return space


def run(space: Catalog, name: str, revision: int, **params: str) -> Finished:
    """One run with the overlay's own defaults, a model store in S3 and steps that fit the node."""
    workspaces = [
        *WORKSPACES["workspaces"],
        {"name": "model-store-credentials", "secret": {"secretName": "model-store"}},
    ]
    example = yaml.safe_load((CHECKOUT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml").read_text())
    specs = example["spec"]["taskRunSpecs"]
    for spec in specs:
        if spec["pipelineTaskName"] in ("train", "evaluate"):
            spec["computeResources"] = SMALL
    changes = {"workspaces": workspaces, "taskRunSpecs": specs}
    space.run(name, revision, spec=changes, predictor_cpu="100m", model_name=MODEL, **params)
    return space.wait(name)


@pytest.fixture(scope="module")
def staging(registry: Target, revisions: list[str], written: Written) -> Iterator[Catalog]:
    space = environment(registry, revisions, "staging", "isotherm-staging")
    yield space
    space.remove()


@pytest.fixture(scope="module")
def staged(staging: Catalog) -> Finished:
    """The model that production will take over: trained, judged and served in staging."""
    return run(staging, "first", 0)


@pytest.fixture
def prod(registry: Target, revisions: list[str], staging: Catalog, staged: Finished) -> Iterator[Catalog]:
    staging.remove()  # the node holds one of them
    space = environment(registry, revisions, "prod", "ml-prod")
    yield space
    space.remove()


def test_staging_serves_a_model_from_s3(staging: Catalog, staged: Finished) -> None:
    assert staged.succeeded, (staged.condition, staged.states())
    service = staging.get("inferenceservice", f"{MODEL}-blue")
    uri = service["spec"]["predictor"]["model"]["storageUri"]
    assert uri.startswith("s3://isotherm-models/staging/")
    assert staging.answers().headers["x-model-digest"] == staged.results["model-digest"]


def test_production_takes_over_a_staged_model_pins_images_by_digest_and_waits_for_a_person(
    prod: Catalog, staged: Finished
) -> None:
    """One registry serves both: the version that staging's run registered is production's first."""
    approve(prod, staged)
    assert prod.answers().headers["x-model-digest"] == staged.results["model-digest"]
    second = run(prod, "second", 1, min_improvement="-1")
    assert second.succeeded, (second.condition, second.states())
    assert "shift" in second.skipped
    for task_run in second.task_runs:
        for step in task_run["status"]["steps"]:
            assert "sha256:" in step["imageID"]
        assert "@sha256:" in task_run["status"]["taskSpec"]["steps"][0]["image"]
    digest = second.results["model-digest"]
    assert prod.answers().headers["x-model-digest"] == staged.results["model-digest"], "traffic waits"
    approve(prod, second)
    assert eventually(lambda: prod.answers().headers["x-model-digest"] == digest, 30)
    assert prod.champion().tags["model_digest"] == digest


def test_no_write_to_their_routes_was_one_that_must_never_be(written: Written) -> None:
    namespaces = {"isotherm-staging", "ml-prod"}
    assert written.sound(namespaces).keys() == {(namespace, MODEL) for namespace in namespaces}


def approve(prod: Catalog, ended: Finished) -> None:
    """What a person does: start Pipeline blue-green with version and digest of the run's report."""
    registered = ended.task_results("register")
    params = {
        "model-version": registered["model-version"],
        "model-digest": registered["model-digest"],
        "mlflow-uri": prod.target.mlflow,
        "router-url": prod.target.router,
        "tls-termination": "none",  # as in every run here: the first approval makes the Route
        "predictor-cpu": "100m",
    }
    workspaces = [
        WORKSPACES["workspaces"][0],
        {"name": "model-store-credentials", "secret": {"secretName": "model-store"}},
    ]
    name = f"approve-{registered['model-version']}"
    promoted = prod.wait(prod.pipeline_run("blue-green", name, params, workspaces=workspaces))
    logs = [prod.log(run)[-1500:] for run in promoted.task_runs]
    assert promoted.succeeded, "\n".join([str(promoted.states()), *logs])  # pytest cuts what is no string
