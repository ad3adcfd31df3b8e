"""Argo Rollouts as its module ships it, for side-by-side measurements; started when asked for.

Its OpenShift plugin is no Go module that can be had here, so nothing of it writes Routes: what runs are AnalysisRuns.
"""

from __future__ import annotations

from lab import golang, images, manifests
from lab.part import Lab, Object, Part

NAMESPACE = "argo-rollouts"
_FOLDERS = ("base", "role", "cluster-install")
_OF_THE_CLUSTER = ("ClusterRole", "ClusterRoleBinding")


def _adapt(item: Object) -> Object:
    if item["kind"] not in _OF_THE_CLUSTER:
        item["metadata"]["namespace"] = NAMESPACE
    if item["kind"] == "Deployment":
        for container in item["spec"]["template"]["spec"]["containers"]:
            # There is one of it: waiting for a lease of the one before would only delay the start.
            container["args"] = [*container.get("args", []), "--leader-elect=false"]
            container |= {"image": images.name("rollouts", "rollouts-controller"), "imagePullPolicy": "IfNotPresent"}
    return manifests.small(item)


def start(lab: Lab) -> None:
    """CRDs, then the controller and its rights in the whole cluster."""
    images.import_modules(lab, "rollouts")
    source = golang.source("rollouts") / "manifests"
    lab.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    lab.apply_definitions(manifests.documents(*manifests.folder(source / "crds", without=["kustomization.yaml"])))
    files = [file for name in _FOLDERS for file in manifests.folder(source / name, without=["kustomization.yaml"])]
    lab.apply(_adapt(item) for item in manifests.documents(*files))


PART = Part(
    "rollouts", start, lambda lab: lab.deployments_ready(NAMESPACE), needs=("dns", "prometheus"),
    modules=("rollouts",), namespace=NAMESPACE, core=False,
)  # fmt: skip
