"""A local target of its own (without MLflow) in a temporary folder, and Kubernetes clients for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from isotherm_local import kinds
from isotherm_local.cluster import Cluster

ROUTES = ("route.openshift.io", "v1", "routes")
INFERENCE_SERVICES = ("serving.kserve.io", "v1beta1", "inferenceservices")
SERVING_RUNTIMES = ("serving.kserve.io", "v1alpha1", "servingruntimes")
_numbers = itertools.count(1)


class Clients:
    """The generated clients, on one namespace of one target."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.api = config.new_client_from_config(str(cluster.kubeconfig(namespace)))
        self.custom = client.CustomObjectsApi(self.api)
        self.core = client.CoreV1Api(self.api)

    def create(self, resource: tuple[str, str, str], body: dict[str, Any]) -> Any:
        group, version, plural = resource
        body = {"apiVersion": f"{group}/{version}", "kind": kinds.find(*resource).kind, **body}
        return self.custom.create_namespaced_custom_object(group, version, self.namespace, plural, body)

    def get(self, resource: tuple[str, str, str], name: str) -> Any:
        group, version, plural = resource
        return self.custom.get_namespaced_custom_object(group, version, self.namespace, plural, name)

    def patch(self, resource: tuple[str, str, str], name: str, body: dict[str, Any]) -> Any:
        group, version, plural = resource
        return self.custom.patch_namespaced_custom_object(group, version, self.namespace, plural, name, body)

    def list(self, resource: tuple[str, str, str], **selectors: str) -> Any:
        group, version, plural = resource
        return self.custom.list_namespaced_custom_object(group, version, self.namespace, plural, **selectors)["items"]


def named(name: str, **content: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **content}


def route(name: str, weights: dict[str, int], **metadata: Any) -> dict[str, Any]:
    """A Route whose first Service is `to`."""
    backends = [{"kind": "Service", "name": service, "weight": weight} for service, weight in weights.items()]
    return {"metadata": {"name": name, **metadata}, "spec": {"to": backends[0], "alternateBackends": backends[1:]}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running target, shared by the tests of a module: they keep apart by namespace."""
    target = Cluster(tmp_path_factory.mktemp("local") / "state", with_mlflow=False)
    target.start()
    yield target
    target.stop()


def own_namespace(request: pytest.FixtureRequest) -> str:
    """A name for the namespace of a test, which no other test has."""
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in request.node.name.lower())
    return f"{name[:40].strip('-')}-{next(_numbers)}"


@pytest.fixture
def clients(cluster: Cluster, request: pytest.FixtureRequest) -> Clients:
    """Clients in a namespace of the test's own."""
    return Clients(cluster, own_namespace(request))


def files(folder: Path) -> dict[str, str]:
    """Every file of a folder with its text."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.json"))}
