"""What `oc apply -k` sends: the root and the overlays dev, staging and prod, rendered."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from isotherm.deploy import guard, splits
from isotherm_local.lint import gotools, overlays
from isotherm_local.lint.model import Catalog
from isotherm_local.lint.schema import complaints

ROOT = Path(__file__).resolve().parents[2]
Objects = dict[tuple[str, str], dict[str, Any]]


def render(folder: str) -> Objects:
    """Render a kustomization into objects by kind and name, or skip where nothing here can."""
    try:
        text, refusal = overlays.render(Catalog(ROOT), folder)
    except gotools.Missing as error:
        if gotools.required():
            raise
        pytest.skip(str(error))
    assert refusal == ""
    items = [item for item in yaml.safe_load_all(text) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in items}


def default(objects: Objects, param: str, pipeline: str = "inverse-heat-pinn") -> str:
    """Default of a param of a Pipeline."""
    params = objects["Pipeline", pipeline]["spec"]["params"]
    return next(item["default"] for item in params if item["name"] == param)


def test_root_is_the_catalog_without_a_namespace() -> None:
    objects = render(".")
    assert {name for kind, name in objects if kind == "Pipeline"} == {
        "deploy-model",
        "drift-retrain",
        "inverse-heat-pinn",
        "blue-green",
        "canary",
        "rollback",
        "shadow",
    }
    assert len([kind for kind, _ in objects if kind == "Task"]) == 9
    assert ("PersistentVolumeClaim", "isotherm") in objects
    assert all("namespace" not in item["metadata"] for item in objects.values())


DIFFERENCES = {
    "dev": {
        "namespace": "isotherm-dev", "storage": "10Gi", "train": ("500m", "2Gi", "cpu"), "min-improvement": "-0.02",
        "promotion": "auto", "allow-source-image": "true", "model-store": "pvc://isotherm/model-store",
        "predictor-replicas": "1", "predictor-cpu": "100m", "predictor-memory": "512Mi", "pinned": False,
    },
    "staging": {
        "namespace": "isotherm-staging", "storage": "50Gi", "train": ("2", "4Gi", "cpu"), "min-improvement": "-0.02",
        "promotion": "auto", "allow-source-image": "false", "model-store": "s3://isotherm-models/staging",
        "predictor-replicas": "1", "predictor-cpu": "250m", "predictor-memory": "512Mi", "pinned": False,
    },
    "prod": {
        "namespace": "ml-prod", "storage": "200Gi", "train": ("4", "8Gi", "auto"), "min-improvement": "0",
        "promotion": "manual", "allow-source-image": "false", "model-store": "s3://isotherm-models/prod",
        "predictor-replicas": "2", "predictor-cpu": "500m", "predictor-memory": "1Gi", "pinned": True,
    },
}  # fmt: skip
OF_BOTH = ("allow-source-image", "model-store", "predictor-replicas", "predictor-cpu", "predictor-memory")


@pytest.mark.parametrize("overlay", DIFFERENCES)
def test_overlays_differ_as_the_documents_say(overlay: str) -> None:
    wanted, objects = DIFFERENCES[overlay], render(f"overlays/{overlay}")
    labels = objects["Namespace", str(wanted["namespace"])]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    claim = objects["PersistentVolumeClaim", "isotherm"]["spec"]
    assert (claim["resources"]["requests"]["storage"], claim["accessModes"]) == (wanted["storage"], ["ReadWriteOnce"])
    train = objects["Task", "pinn-train"]["spec"]
    resources = train["steps"][0]["computeResources"]
    device = next(item["default"] for item in train["params"] if item["name"] == "device")
    assert (resources["requests"]["cpu"], resources["requests"]["memory"], device) == wanted["train"]
    assert resources["limits"] == {"memory": resources["requests"]["memory"], "nvidia.com/gpu": 0}
    for param, pipeline in product((*OF_BOTH, "min-improvement", "promotion"), ("inverse-heat-pinn", "drift-retrain")):
        assert default(objects, param, pipeline) == wanted[param], (param, pipeline)
    for param, pipeline in product(OF_BOTH, ("blue-green", "canary", "shadow", "deploy-model")):
        assert default(objects, param, pipeline) == wanted[param], (param, pipeline)
    for pipeline in ("inverse-heat-pinn", "drift-retrain", "blue-green", "canary", "shadow", "deploy-model"):
        assert ("@sha256:" in default(objects, "predictor-image", pipeline)) is wanted["pinned"]
    assert ("ConfigMap", "settings") not in objects


def test_a_pinned_digest_reaches_the_step_its_image_ref_and_the_predictor(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for room in ("tasks", "pipelines", "rollout", "triggers", "overlays"):
        shutil.copytree(ROOT / room, copy / room)
    path = copy / "overlays" / "dev" / "kustomization.yaml"
    digest = f"sha256:{'ab' * 32}"
    images = [
        {"name": f"isotherm/{family}", "newName": f"registry.example/{family}", "digest": digest}
        for family in ("ops", "pinn-api")
    ]
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "images": images}))
    try:
        command = gotools.kustomize(ROOT / "scripts" / "schemas")
    except gotools.Missing as error:
        pytest.skip(str(error))
    done = subprocess.run([*command, str(path.parent)], capture_output=True, text=True, check=True)
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)}
    step = objects["Task", "route-shift"]["spec"]["steps"][0]
    assert step["image"] == f"registry.example/ops@{digest}"
    assert {"name": "IMAGE_REF", "value": step["image"]} in step["env"]
    assert default(objects, "predictor-image") == f"registry.example/pinn-api@{digest}"


def with_component(tmp_path: Path, component: str) -> str:
    """Overlay dev with one more component, listed last, as kustomize renders it."""
    copy = tmp_path / "checkout"
    for room in ("tasks", "pipelines", "rollout", "triggers", "overlays"):
        shutil.copytree(ROOT / room, copy / room)
    path = copy / "overlays" / "dev" / "kustomization.yaml"
    path.write_text(f"{path.read_text()}  - ../components/{component}\n")
    try:
        command = gotools.kustomize(ROOT / "scripts" / "schemas")
    except gotools.Missing as error:
        pytest.skip(str(error))
    return subprocess.run([*command, str(path.parent)], capture_output=True, text=True, check=True).stdout


def test_with_openshifts_builds_every_step_and_the_predictor_take_what_was_built_here(tmp_path: Path) -> None:
    text = with_component(tmp_path, "openshift")
    (tmp_path / "rendered.yaml").write_text(text)
    try:
        accepted = complaints(Catalog(ROOT), [tmp_path / "rendered.yaml"])
    except gotools.Missing as error:
        pytest.skip(str(error))
    assert accepted == []
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text)}
    built = {item["spec"]["output"]["to"]["name"] for (kind, _), item in objects.items() if kind == "BuildConfig"}
    steps = [item["spec"]["steps"][0] for (kind, _), item in objects.items() if kind == "Task"]
    pods = [item["spec"]["template"]["spec"] for (kind, _), item in objects.items() if kind == "Deployment"]
    running = {container["image"] for pod in pods for container in pod["containers"]}
    assert {step["image"] for step in steps} | {default(objects, "predictor-image")} | running == built
    assert all({"name": "IMAGE_REF", "value": step["image"]} in step["env"] for step in steps)


def test_the_isvc_component_adds_rights_to_one_service_and_a_guard_over_it(tmp_path: Path) -> None:
    text = with_component(tmp_path, "isvc-canary")
    objects = {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text)}
    [container] = objects["Deployment", "route-guard"]["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    wanted = guard.guarded(environment)
    assert wanted["isvc:inverse-heat-pinn"] == splits.services("inverse-heat-pinn")
    assert set(wanted) == {"inverse-heat-pinn", "pouch-cell", "isvc:inverse-heat-pinn"}
    for account in ("kserve-deploy", "route-shift", "route-guard"):
        rules = objects["Role", f"{account}-isvc"]["rules"]
        granted = {(kind, name) for rule in rules for kind in rule["resources"] for name in rule["resourceNames"]}
        assert ("inferenceservices", "inverse-heat-pinn") in granted
        workloads = set(splits.services("inverse-heat-pinn").values())
        assert {name for kind, name in granted if kind == "deployments"} in (workloads, set())
        assert not any("routes" in rule["resources"] for rule in rules), "its platform alone changes that Route"


def test_plain_kubernetes_component_gives_a_run_its_volume_group(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "overlays" / "components" / "kubernetes", copy / "kubernetes")
    run = (ROOT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml").read_text()
    (copy / "heatinv.yaml").write_text(run.replace("generateName: heatinv-", "name: heatinv-1"))
    (copy / "kustomization.yaml").write_text("resources: [heatinv.yaml]\ncomponents: [kubernetes]\n")
    try:
        command = gotools.kustomize(ROOT / "scripts" / "schemas")
        done = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=True)
        rendered = copy / "rendered.yaml"
        rendered.write_text(done.stdout)
        accepted = complaints(Catalog(ROOT), [rendered])
    except gotools.Missing as error:
        pytest.skip(str(error))
    assert yaml.safe_load(done.stdout)["spec"]["taskRunTemplate"]["podTemplate"]["securityContext"]["fsGroup"] == 1001
    assert accepted == []
