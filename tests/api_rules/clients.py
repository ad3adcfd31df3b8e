"""The generated clients, as programs use them: typed ones, and what they make of a refusal."""

from __future__ import annotations

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from api_rules.requests import TO
from api_rules.target import MERGE_PATCH, Api
from isotherm_local.kinds import ROUTE


def named(name: str, **content: object) -> dict[str, object]:
    return {"metadata": {"name": name}, **content}


def test_core_kinds_go_through_their_typed_client(api: Api) -> None:
    core, namespace = client.CoreV1Api(api.client), api.namespace
    ports = [client.V1ServicePort(name="http", port=80, target_port=8080)]
    spec = client.V1ServiceSpec(selector={"app": "x"}, ports=ports)
    core.create_namespaced_service(namespace, client.V1Service(metadata=client.V1ObjectMeta(name="blue"), spec=spec))
    assert core.read_namespaced_service("blue", namespace).spec.ports[0].target_port == 8080
    core.create_namespaced_config_map(namespace, named("settings", data={"a": "1", "b": "2"}))
    change = {"data": {"a": None, "c": "3"}}
    patched = core.patch_namespaced_config_map("settings", namespace, change, _content_type=MERGE_PATCH)
    assert patched.data == {"b": "2", "c": "3"}
    involved = {"kind": "Route", "name": "r", "namespace": namespace}
    event = {"metadata": {"generateName": "shift-"}, "involvedObject": involved, "reason": "Shifted", "type": "Normal"}
    name = core.create_namespaced_event(namespace, event).metadata.name
    [found] = core.list_namespaced_event(namespace, field_selector="involvedObject.name=r,reason=Shifted").items
    assert found.metadata.name == name


def test_leases_deployments_and_endpoints_go_through_their_typed_clients(api: Api) -> None:
    # With whole seconds this client writes no microseconds, which the API server demands.
    leases = client.CoordinationV1Api(api.client)
    lease = {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-11-23T15:00:00.123456Z"}
    leases.create_namespaced_lease(api.namespace, named("register", spec=lease))
    assert leases.read_namespaced_lease("register", api.namespace).spec.holder_identity == "me"
    assert client.AppsV1Api(api.client).list_namespaced_deployment(api.namespace).items == []
    slices = client.DiscoveryV1Api(api.client).list_namespaced_endpoint_slice(api.namespace)
    assert all(item.metadata.namespace == api.namespace for item in slices.items)


def test_custom_objects_go_through_the_generic_client(api: Api) -> None:
    custom, where = client.CustomObjectsApi(api.client), (ROUTE.group, ROUTE.version, api.namespace, ROUTE.plural)
    body = {"apiVersion": ROUTE.api_version, "kind": "Route", **named("heat", spec=TO)}
    custom.create_namespaced_custom_object(*where, body)
    custom.patch_namespaced_custom_object(*where, "heat", {"spec": {"to": {"weight": 5}}}, _content_type=MERGE_PATCH)
    assert custom.get_namespaced_custom_object(*where, "heat")["spec"]["to"]["weight"] == 5
    [found] = custom.list_namespaced_custom_object(*where, field_selector="metadata.name=heat")["items"]
    assert found["kind"] == "Route"
    with pytest.raises(ApiException) as raised:
        custom.create_namespaced_custom_object(*where, body)
    assert raised.value.status == 409
    with pytest.raises(ApiException) as raised:
        custom.get_namespaced_custom_object(*where, "none")
    assert raised.value.status == 404
