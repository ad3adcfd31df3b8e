"""Tekton Pipelines and Triggers as their modules ship them, with pods that a restricted namespace admits."""

from __future__ import annotations

import json
from collections.abc import Iterable

from lab import catalog_images, golang, images, manifests
from lab.admission import RANGE
from lab.part import Lab, LabError, Object, Part

NAMESPACE = "tekton-pipelines"
RESOLVERS = "tekton-pipelines-resolvers"
SHELL = catalog_images.BASE  # Tekton's own init container for `script` and volumes needs a shell
# Beyond Tekton's defaults; the catalog itself needs only the first.
FLAGS = {"set-security-context": "true", "enable-cel-in-whenexpression": "true", "enable-param-enum": "true"}
# As OpenShift's restricted-v2 SCC does to every pod: a UID of the namespace's range, group 0, a group for its volumes.
POD_TEMPLATE = {"securityContext": {"runAsUser": RANGE, "runAsGroup": 0, "fsGroup": RANGE}}
SETTINGS = {"feature-flags": FLAGS, "config-defaults": {"default-pod-template": json.dumps(POD_TEMPLATE)}}


def _adapt(item: Object, version: str) -> Object:
    item = manifests.small(manifests.tekton(item, version))
    if item["kind"] == "ConfigMap":
        item.get("data", {}).pop("_example", None)
        if item["metadata"]["namespace"] == NAMESPACE:
            item["data"] = item.get("data", {}) | SETTINGS.get(item["metadata"]["name"], {})
    if item["kind"] == "Deployment" and item["metadata"]["name"] == "tekton-pipelines-controller":
        arguments = item["spec"]["template"]["spec"]["containers"][0]["args"]
        arguments[arguments.index("-shell-image") + 1] = SHELL
    return item


def _install(lab: Lab, module: str, items: Iterable[Object]) -> None:
    """Everything but ConfigMaps; those wait until the webhook that checks them answers (`_configure`)."""
    version = manifests.version(module)
    adapted = [_adapt(item, version) for item in items if item["kind"] != "HorizontalPodAutoscaler"]
    namespaces = [item for item in adapted if item["kind"] == "Namespace"]
    definitions = [item for item in adapted if item["kind"] == "CustomResourceDefinition"]
    if namespaces:
        lab.apply(namespaces)
    lab.apply_definitions(definitions)
    rest = [item for item in adapted if item["kind"] not in ("Namespace", "CustomResourceDefinition")]
    # The webhook's configuration exists only once it is applied, so ConfigMaps of a first installation pass it by.
    lab.apply(sorted(rest, key=lambda item: item["kind"].endswith("WebhookConfiguration")))


def start_pipelines(lab: Lab) -> None:
    """Apply Tekton Pipelines and its resolvers."""
    images.import_modules(lab, "pipelines")
    config = golang.source("pipelines") / "config"
    items = [
        *manifests.documents(*manifests.folder(config / "100-namespace")),
        *manifests.documents(*manifests.folder(config / "300-crds")),
        *manifests.documents(*manifests.folder(config, without=["webhook-hpa.yaml"])),
        *manifests.documents(*manifests.folder(config / "resolvers")),
    ]
    _install(lab, "pipelines", items)


def start_triggers(lab: Lab) -> None:
    """Apply Tekton Triggers and its core interceptors."""
    images.import_modules(lab, "triggers")
    config = golang.source("triggers") / "config"
    items = list(manifests.documents(*manifests.folder(config), *manifests.folder(config / "interceptors")))
    if lab.kubectl("get", "secret", "tekton-triggers-core-interceptors-certs", "-n", NAMESPACE, check=False):
        items = [item for item in items if item["metadata"]["name"] != "tekton-triggers-core-interceptors-certs"]
    _install(lab, "triggers", items)


def pipelines_ready(lab: Lab) -> str:
    """Every Deployment is rolled out and the webhook admits a Task."""
    late = lab.deployments_ready(NAMESPACE) or lab.deployments_ready(RESOLVERS)
    if late:
        return late
    task = '{"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "probe"}, '
    task += '"spec": {"steps": [{"name": "s", "image": "x", "command": ["/bin/true"]}]}}'
    try:
        lab.kubectl("apply", "--dry-run=server", "-n", "default", "-f", "-", stdin=task)
    except LabError as error:
        return f"the webhook does not answer: {str(error)[-200:]}"
    return ""


PIPELINES = Part(
    "tekton-pipelines",
    start_pipelines,
    pipelines_ready,
    needs=("dns", "catalog-images"),
    modules=("pipelines",),
    namespace=NAMESPACE,
)
TRIGGERS = Part(
    "tekton-triggers", start_triggers, lambda lab: lab.deployments_ready(NAMESPACE), needs=("tekton-pipelines",),
    modules=("triggers",), namespace=NAMESPACE,
)  # fmt: skip
