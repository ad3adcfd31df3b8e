"""What is the embedded API's own: its secret path, what it refuses and in which words; `api_rules` has the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException
from local_target import (
    ROUTES,
    Clients,
    clients,
    cluster,
    named,
    route,
)

from isotherm_local.cluster import Cluster

__all__ = ["clients", "cluster"]

MODEL = {"modelFormat": {"name": "isotherm-pinn"}}
RUNTIME = {"containers": [{"name": "kserve-container", "image": "isotherm/pinn-api:0.1.0"}]}


def status(error: ApiException) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(error.body)
    assert body["kind"] == "Status"
    assert body["code"] == error.status
    return body


def raw(cluster: Cluster, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    server = json.loads(cluster.kubeconfig().read_text())["clusters"][0]["cluster"]["server"]
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server + path, data=body, method=method, headers=names)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "code", "words"),
    [
        ("GET", "/api/v1/namespaces/n/configmaps/none", {}, None, 404, 'configmaps "none" not found'),
        ("GET", "/api/v1/namespaces/n/configmaps?watch=true", {}, None, 405, "poll"),
        ("GET", "/api/v1/namespaces/n/configmaps?labelSelector=a+in+b", {}, None, 400, "labelSelector"),
        ("GET", "/api/v1/namespaces/n/configmaps?fieldSelector=spec.x=1", {}, None, 400, "field label not supported"),
        ("PUT", "/api/v1/namespaces/n/configmaps/c", {}, b"{}", 405, "get, list, create and merge-patch"),
        ("DELETE", "/api/v1/namespaces/n/configmaps/c", {}, None, 405, "get, list, create and merge-patch"),
        ("POST", "/apis/apps/v1/namespaces/n/deployments", {}, b"{}", 405, "own controller"),
        ("PATCH", "/apis/route.openshift.io/v1/namespaces/n/routes/r/status", {}, b"{}", 405, "status"),
        ("POST", "/api/v1/namespaces/n/configmaps", {"content_type": "text/plain"}, b"{}", 415, "application/json"),
        ("POST", "/api/v1/namespaces/n/configmaps", {"content_type": "application/json"}, b"{", 400, "not JSON"),
        ("POST", "/api/v1/namespaces/n/configmaps", {"content_type": "application/json"}, b"[1]", 400, "JSON object"),
        ("POST", "/api/v1/namespaces/n/configmaps", {"content_type": "application/json"}, b"{}", 422, "metadata.name"),
        ("POST", "/api/v1/namespaces/N/configmaps", {"content_type": "application/json"}, b"{}", 400, "DNS label"),
        (
            "POST",
            "/api/v1/namespaces/n/configmaps",
            {"content_type": "application/json"},
            b" " * (2 << 20),
            413,
            "1 MiB",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    cluster: Cluster, method: str, path: str, headers: dict[str, str], body: bytes | None, code: int, words: str
) -> None:
    answered, found = raw(cluster, method, path, body, **headers)
    assert (answered, found["kind"]) == (code, "Status")
    assert words in found["message"]


def test_a_kind_that_is_not_served_is_answered_with_those_that_are(cluster: Cluster) -> None:
    server = json.loads(cluster.kubeconfig().read_text())["clusters"][0]["cluster"]["server"]
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{server}/apis/apps/v1/namespaces/n/statefulsets", timeout=10)
    text = raised.value.read().decode()
    assert (raised.value.code, text[:18]) == (404, "404 page not found")
    assert "InferenceService (serving.kserve.io/v1beta1)" in text


def test_a_route_without_a_host_gets_one_at_once(clients: Clients) -> None:
    made = clients.create(ROUTES, named("heat", spec={"to": {"name": "blue"}}))
    assert made["spec"]["host"] == f"heat-{clients.namespace}.apps.localhost"


@pytest.mark.parametrize("name", ["../../../../tmp/x", "a/b", "UPPER", "-x", "x" * 260, ""])
def test_no_name_leads_out_of_the_store(cluster: Cluster, clients: Clients, name: str) -> None:
    with pytest.raises(ApiException) as raised:
        clients.create(ROUTES, named(name, spec={"to": {"name": "blue"}}))
    assert raised.value.status == 422


def test_json_patch_is_refused_with_the_media_type_to_use(clients: Clients) -> None:
    clients.core.create_namespaced_config_map(clients.namespace, named("settings", data={}))
    with pytest.raises(ApiException) as raised:
        clients.core.patch_namespaced_config_map("settings", clients.namespace, {"data": {"a": "b"}})
    assert raised.value.status == 415
    assert "application/merge-patch+json" in status(raised.value)["message"]


def test_without_the_secret_path_nothing_is_answered(cluster: Cluster) -> None:
    url = f"http://127.0.0.1:{cluster.endpoints.api_port}"
    for path in ("/api/v1/namespaces/n/configmaps", "/wrong/api/v1/configmaps", "/"):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(url + path, timeout=10)
        assert raised.value.code == 401
    assert cluster.kubeconfig().stat().st_mode & 0o077 == 0


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_lists_what_a_namespace_holds(cluster: Cluster, clients: Clients) -> None:
    clients.create(ROUTES, route("heat", {"blue": 1}))
    command = ["kubectl", "--kubeconfig", str(cluster.kubeconfig(clients.namespace)), "get", "routes,svc", "-o", "name"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["route.route.openshift.io/heat"]
