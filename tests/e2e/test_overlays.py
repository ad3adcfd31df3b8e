"""Staging and production for real: models in S3, images by digest, a person's word before traffic moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import yaml
from lab import catalog_images
from lab.part import CHECKOUT, Lab
from waiting import eventually

from e2e.cluster import BUILD, Finished, Target
from e2e.conftest import MODEL, WORKSPACES, Catalog, wipe

SMALL = {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}


def environment(target: Target, catalog: Catalog, overlay: str, namespace: str) -> Catalog:
    """An overlay installed in its own namespace; the lab's node is smaller than production's."""
    space = Catalog(target, namespace, catalog.revisions, catalog.repository)
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
    """One run with the overlay's own defaults, a model store in S3 and a train step that fits the node."""
    workspaces = [
        *WORKSPACES["workspaces"],
        {"name": "model-store-credentials", "secret": {"secretName": "model-store"}},
    ]
    example = yaml.safe_load((CHECKOUT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml").read_text())
    specs = example["spec"]["taskRunSpecs"]
    for spec in specs:
        if spec["pipelineTaskName"] == "train":
            spec["computeResources"] = SMALL
    changes = {"workspaces": workspaces, "taskRunSpecs": specs}
    space.run(name, revision, spec=changes, predictor_cpu="100m", model_name=MODEL, **params)
    return space.wait(name)


@pytest.fixture(scope="module")
def staging(target: Target, catalog: Catalog) -> Iterator[Catalog]:
    space = environment(target, catalog, "staging", "isotherm-staging")
    wipe(space)
    yield space
    space.remove()


@pytest.fixture(scope="module")
def staged(staging: Catalog) -> Finished:
    """The model that production will take over: trained, judged and served in staging."""
    return run(staging, "first", 0)


@pytest.fixture
def prod(target: Target, catalog: Catalog, staging: Catalog, staged: Finished) -> Iterator[Catalog]:
    staging.remove()  # the node holds one of them
    space = environment(target, catalog, "prod", "ml-prod")
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
    assert promoted.succeeded, (promoted.condition, promoted.states())
