"""KServe's controller in Standard mode: no Knative, no Istio, no cert-manager; certificates are the lab's own."""

from __future__ import annotations

import json
import subprocess

from isotherm import contract
from lab import catalog_images, golang, images, manifests, pki
from lab.part import Lab, LabError, Object, Part

NAMESPACE = "kserve"
WEBHOOK_SERVICE = "kserve-webhook-server-service"
CERTIFICATE = "kserve-webhook-server-cert"
_LEFT_OUT = ("Certificate", "Issuer")


def _rendered(lab: Lab) -> list[Object]:
    default = golang.source("kserve") / "config" / "default"
    command = [str(golang.binary(lab, "kubernetes", "kubectl")), "kustomize", str(default)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"kustomize of KServe's config/default: {done.stderr.strip()[-300:]}")
    file = lab.folder("manifests") / "kserve.yaml"
    file.write_text(done.stdout)
    return list(manifests.documents(file))


def _config() -> Object:
    """KServe's settings: Standard mode, no ingress, the lab's storage initialiser; driver isvc's notes reach no pod."""
    file = golang.source("kserve") / "config" / "configmap" / "inferenceservice.yaml"
    [config] = manifests.documents(file)
    config["data"].pop("_example", None)
    config["metadata"]["namespace"] = NAMESPACE
    changes = {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {"disableIngressCreation": True},
        "inferenceService": {"serviceAnnotationDisallowedList": [contract.ANNOTATION_SHIFT]},
        "storageInitializer": {
            "image": catalog_images.STORAGE_INITIALIZER,
            "cpuRequest": "10m",
            "memoryRequest": "64Mi",
        },
    }
    for key, change in changes.items():
        config["data"][key] = json.dumps(json.loads(config["data"][key]) | change)
    return config


def _storage_container() -> Object:
    """Which image copies s3:// models, with the security context that a restricted namespace asks for."""
    [item] = manifests.documents(golang.source("kserve") / "config" / "storagecontainers" / "default.yaml")
    container = item["spec"]["container"]
    container["image"] = catalog_images.STORAGE_INITIALIZER
    container["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    container["securityContext"] = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return dict(item)


def _adapt(item: Object, ca: str) -> Object:
    if item["kind"].endswith("WebhookConfiguration"):
        for webhook in item["webhooks"]:
            webhook["clientConfig"]["caBundle"] = ca
    if item["kind"] == "CustomResourceDefinition":
        client = item["spec"].get("conversion", {}).get("webhook", {}).get("clientConfig")
        if client is not None:
            client["caBundle"] = ca
    if item["kind"] == "Deployment":
        pod = item["spec"]["template"]["spec"]
        pod["containers"] = [c for c in pod["containers"] if c["name"] == "manager"]
        for container in pod["containers"]:
            container |= {"image": images.name("kserve", "manager"), "imagePullPolicy": "IfNotPresent"}
            container["args"] = [argument for argument in container.get("args", []) if argument != "--leader-elect"]
    return manifests.small(item)


def start(lab: Lab) -> None:
    """CRDs, then the controller with its certificate, then the webhooks that need both."""
    images.import_modules(lab, "kserve")
    ca = pki.encoded(lab, "ca.crt")
    items = [_adapt(item, ca) for item in _rendered(lab) if item["kind"] not in _LEFT_OUT]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    crds = [item for item in items if item["kind"] == "CustomResourceDefinition"]
    lab.apply([namespace])
    lab.apply_definitions(crds)
    rest = [item for item in items if item not in crds]
    secret = pki.serving_secret(lab, CERTIFICATE, NAMESPACE, WEBHOOK_SERVICE)
    lab.apply([secret, _config(), *rest])


def ready(lab: Lab) -> str:
    """The controller is rolled out and its webhook answers."""
    late = lab.deployments_ready(NAMESPACE)
    if late:
        return late
    try:
        lab.kubectl("apply", "--dry-run=server", "-n", "default", "-f", "-", stdin=json.dumps(_PROBE))
    except LabError as error:
        return f"its webhook does not answer: {str(error)[-200:]}"
    return ""


def finish(lab: Lab) -> None:
    """The storage container, which the webhook judges."""
    lab.apply([_storage_container()])


_PROBE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "probe"},
    "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "x"}]}},
}

PART = Part("kserve", start, ready, finish=finish, needs=("dns",), modules=("kserve",), namespace=NAMESPACE)
