"""The embedded API through the generated Kubernetes clients and over plain HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from local_target import (
    INFERENCE_SERVICES,
    ROUTES,
    SERVING_RUNTIMES,
    Clients,
    clients,
    cluster,
    eventually,
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
    ("resource", "spec", "change"),
    [
        (ROUTES, route("x", {"blue": 100})["spec"], {"to": {"weight": 3}}),
        (INFERENCE_SERVICES, {"predictor": {"model": MODEL}}, {"predictor": {"minReplicas": 0}}),
        (SERVING_RUNTIMES, RUNTIME, {"supportedModelFormats": [{"name": "isotherm-pinn"}]}),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else "",
)
def test_custom_object_is_created_read_listed_and_patched(
    clients: Clients, resource: tuple[str, str, str], spec: dict[str, Any], change: dict[str, Any]
) -> None:
    labels = {"labels": {"colour": "blue"}}
    made = clients.create(resource, {"metadata": {"name": "one", **labels}, "spec": spec})
    clients.create(resource, named("two", spec=spec))
    assert made["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert made["apiVersion"] == f"{resource[0]}/{resource[1]}"
    assert [o["metadata"]["name"] for o in clients.list(resource)] == ["one", "two"]
    assert [o["metadata"]["name"] for o in clients.list(resource, label_selector="colour=blue")] == ["one"]
    assert [o["metadata"]["name"] for o in clients.list(resource, field_selector="metadata.name=two")] == ["two"]

    labelled = clients.patch(resource, "one", {"metadata": {"labels": {"colour": None, "new": "yes"}}})
    assert labelled["metadata"]["labels"] == {"new": "yes"}
    assert labelled["metadata"]["generation"] == 1
    changed = clients.patch(resource, "one", {"spec": change})
    assert changed["metadata"]["generation"] == 2
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert int(changed["metadata"]["resourceVersion"]) > int(labelled["metadata"]["resourceVersion"])
    assert clients.get(resource, "one")["spec"] == changed["spec"]


def test_core_kinds_and_leases_go_through_their_typed_clients(clients: Clients) -> None:
    core, namespace = clients.core, clients.namespace
    ports = [client.V1ServicePort(name="http", port=80, target_port=8080)]
    spec = client.V1ServiceSpec(selector={"app": "x"}, ports=ports)
    core.create_namespaced_service(namespace, client.V1Service(metadata=client.V1ObjectMeta(name="blue"), spec=spec))
    assert core.read_namespaced_service("blue", namespace).spec.ports[0].target_port == 8080
    core.create_namespaced_config_map(namespace, named("settings", data={"a": "1", "b": "2"}))
    merge = {"_content_type": "application/merge-patch+json"}
    patched = core.patch_namespaced_config_map("settings", namespace, {"data": {"a": None, "c": "3"}}, **merge)
    assert patched.data == {"b": "2", "c": "3"}
    involved = {"kind": "Route", "name": "r", "namespace": namespace}
    event = {"metadata": {"generateName": "shift-"}, "involvedObject": involved, "reason": "Shifted", "type": "Normal"}
    names = {core.create_namespaced_event(namespace, event).metadata.name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("shift-") for name in names)
    found = core.list_namespaced_event(namespace, field_selector="involvedObject.name=r,reason=Shifted").items
    assert len(found) == 2
    leases = client.CoordinationV1Api(clients.api)
    lease = {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-11-23T15:00:00.000000Z"}
    leases.create_namespaced_lease(namespace, named("register", spec=lease))
    assert leases.read_namespaced_lease("register", namespace).spec.holder_identity == "me"
    assert client.AppsV1Api(clients.api).list_namespaced_deployment(namespace).items == []
    discovery = client.DiscoveryV1Api(clients.api)
    eventually(lambda: discovery.list_namespaced_endpoint_slice(namespace).items)


def test_a_route_gets_the_defaults_of_openshift_and_a_host(clients: Clients) -> None:
    made = clients.create(ROUTES, named("heat", spec={"to": {"name": "blue"}}))
    assert made["spec"]["to"] == {"kind": "Service", "name": "blue", "weight": 100}
    assert made["spec"]["host"] == f"heat-{clients.namespace}.apps.localhost"


def test_a_write_onto_an_old_version_conflicts_and_changes_nothing(clients: Clients) -> None:
    old = clients.create(ROUTES, route("heat", {"blue": 100, "green": 0}))["metadata"]["resourceVersion"]
    clients.patch(ROUTES, "heat", {"metadata": {"annotations": {"a": "b"}}})
    with pytest.raises(ApiException) as raised:
        clients.patch(ROUTES, "heat", {"metadata": {"resourceVersion": old}, "spec": {"to": {"weight": 1}}})
    assert raised.value.status == 409
    assert status(raised.value)["reason"] == "Conflict"
    now = clients.get(ROUTES, "heat")
    assert now["spec"]["to"]["weight"] == 100
    clients.patch(ROUTES, "heat", {"metadata": {"resourceVersion": now["metadata"]["resourceVersion"]}})


def test_a_client_cannot_write_status_and_a_dry_run_writes_nothing(clients: Clients) -> None:
    clients.create(INFERENCE_SERVICES, named("blue", spec={"predictor": {"model": MODEL}}, status={"fake": True}))
    patched = clients.patch(INFERENCE_SERVICES, "blue", {"status": {"fake": True}})
    assert "fake" not in patched.get("status", {})
    group, version, plural = ROUTES
    body = route("dry", {"blue": 1})
    made = clients.custom.create_namespaced_custom_object(
        group, version, clients.namespace, plural, body, dry_run="All"
    )
    assert made["spec"]["host"]
    assert clients.list(ROUTES) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.to"),
        ({"to": {"name": "blue", "weight": 257}}, "spec.to.weight"),
        ({"to": {"name": "blue", "weight": -1}}, "spec.to.weight"),
        ({"to": {"name": "blue", "kind": "Pod"}}, "spec.to.kind"),
        ({"to": {"name": "blue"}, "alternateBackends": [{"name": n} for n in "abcd"]}, "spec.alternateBackends"),
        ({"to": {"name": "blue"}, "alternateBackends": [{"weight": 1}]}, "spec.alternateBackends[0].name"),
        ({"to": {"name": "blue"}, "tls": {"termination": "passthrough"}}, "spec.tls.termination"),
        ({"to": {"name": "blue"}, "path": "/v2"}, "spec.path"),
        ({"to": {"name": "blue"}, "host": "a b\n c"}, "spec.host"),
    ],
)
def test_an_invalid_route_is_refused_with_its_field(clients: Clients, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiException) as raised:
        clients.create(ROUTES, named("heat", spec=spec))
    assert raised.value.status == 422
    found = status(raised.value)
    assert found["reason"] == "Invalid"
    assert field in [cause["field"] for cause in found["details"]["causes"]]
    assert clients.list(ROUTES) == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "code", "words"),
    [
        (
            "GET",
            "/apis/apps/v1/namespaces/n/statefulsets",
            {},
            None,
            404,
            "InferenceService (serving.kserve.io/v1beta1)",
        ),
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
