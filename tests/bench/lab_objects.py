"""The objects of a lane: two models that cost next to nothing, and the catalog's own Task and guard beside them.

The InferenceServices hold the notes that the programs read. KServe leaves them alone (they say that ModelMesh serves
them, which nobody runs), so that a claim rolls no pods: five lanes of real predictors would not fit on the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import task_program
import yaml

from isotherm import contract
from isotherm.deploy import render, routes

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("light_predictor.py")
SCRIPT = "light-predictor"
VERSIONS = {"blue": "1", "green": "2"}  # of the registry
Object = dict[str, Any]


def _documents(path: str) -> Iterator[Object]:
    yield from filter(None, yaml.safe_load_all((ROOT / path).read_text()))


def task() -> Object:
    """Task route-shift as the catalog has it."""
    return task_program.task("route-shift")


def catalog(lanes: Mapping[str, routes.Services], namespace: str) -> Iterator[Object]:
    """Task route-shift with its rights, the guard of these Routes, and the light predictor's program."""
    yield task()
    for found in _documents("tasks/route-shift/rbac.yaml"):
        yield _bound(found, namespace)
    for found in _documents("rollout/guard.yaml"):
        yield _guarding(_bound(found, namespace), lanes)
    yield {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SCRIPT},
        "data": {PROGRAM.name: PROGRAM.read_text()},
    }  # fmt: skip


def _bound(found: Object, namespace: str) -> Object:
    """A RoleBinding names its accounts' namespace, as kustomize fills it in."""
    for subject in found.get("subjects", []):
        subject["namespace"] = namespace
    return found


def _guarding(found: Object, lanes: Mapping[str, routes.Services]) -> Object:
    """One of the guard's objects, with what an overlay adds for further models."""
    if found["kind"] == "Role":
        for rule in found["rules"]:
            if "routes" in rule["resources"]:
                rule["resourceNames"] = list(lanes)
    if found["kind"] == "Deployment":
        [container] = found["spec"]["template"]["spec"]["containers"]
        known = {one["value"].partition("=")[0] for one in container["env"]}
        container["env"] += [
            {"name": f"GUARDED_{number}", "value": f"{name}={services['blue']},{services['green']}"}
            for number, (name, services) in enumerate(lanes.items())
            if name not in known
        ]
    return found


def lane(name: str, services: routes.Services, digests: Mapping[str, str]) -> Iterator[Object]:
    """A Route and, for each colour, a Service, an InferenceService's notes and a Deployment."""
    for colour in contract.COLOURS:
        yield _notes(name, colour, digests[colour])
        yield _deployment(name, colour, digests[colour])
        yield render.service(name=services[colour], model_name=name, colour=colour)
    yield render.route(
        name=name, model_name=name, live="blue", services=services, host="", termination="none",
        digest=digests["blue"], holder="", live_since="2026-01-01T00:00:00Z",
    )  # fmt: skip


def _notes(name: str, colour: str, digest: str) -> Object:
    annotations = {
        "serving.kserve.io/deploymentMode": "ModelMesh",
        contract.ANNOTATION_MODEL_DIGEST: digest,
        contract.ANNOTATION_MODEL_VERSION: contract.semver(VERSIONS[colour]),
        contract.ANNOTATION_CLAIMED_BY: "",
    }
    container = {"name": "kserve-container", "image": _image()}
    return {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": render.inference_service_name(name, colour), "annotations": annotations},
        "spec": {"predictor": {"containers": [container]}},
    }  # fmt: skip


def _image() -> str:
    return str(task()["spec"]["steps"][0]["image"])


def _deployment(name: str, colour: str, digest: str) -> Object:
    service = render.inference_service_name(name, colour)
    labels = {"serving.kserve.io/inferenceservice": service}
    env = {
        contract.ENV_MODEL_DIGEST: digest,
        contract.ENV_MODEL_VERSION: contract.semver(VERSIONS[colour]),
        contract.ENV_TRACK: colour,
    }
    container = {
        "name": "predictor", "image": _image(), "command": ["python", f"/program/{PROGRAM.name}"],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "ports": [{"name": "http", "containerPort": contract.PREDICTOR_PORT}],
        "readinessProbe": {"tcpSocket": {"port": contract.PREDICTOR_PORT}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }  # fmt: skip
    pod = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": SCRIPT}}],
    }
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(contract.PREDICTOR_PORT)}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": render.predictor_name(service)},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels, "annotations": scraped}, "spec": pod},
        },
    }  # fmt: skip
