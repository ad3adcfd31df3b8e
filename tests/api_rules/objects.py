"""What happens to objects: metadata, merge patches, versions, lists. Each test holds on both APIs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api_rules.requests import ISVC, PORTS, RUNTIME, TO
from api_rules.target import Api
from isotherm_local.kinds import (
    CONFIG_MAP,
    EVENT,
    INFERENCE_SERVICE,
    LEASE,
    ROUTE,
    SERVICE,
    SERVING_RUNTIME,
    Kind,
    Object,
)

CONTENT: dict[Kind, Object] = {
    CONFIG_MAP: {"data": {"a": "1"}}, LEASE: {"spec": {"holderIdentity": "me"}}, SERVICE: {"spec": PORTS},
    # With a host, so that no router fills one in beside the test.
    ROUTE: {"spec": {**TO, "host": "rules.example"}}, INFERENCE_SERVICE: {"spec": ISVC},
    SERVING_RUNTIME: {"spec": RUNTIME},
}  # fmt: skip
CUSTOM = {
    ROUTE: {"to": {"weight": 3}},
    INFERENCE_SERVICE: {"predictor": {"minReplicas": 0}},
    SERVING_RUNTIME: {"supportedModelFormats": [{"name": "isotherm-pinn"}]},
}
every_kind = pytest.mark.parametrize("kind", CONTENT, ids=lambda kind: kind.kind)
custom_kinds = pytest.mark.parametrize("kind", CUSTOM, ids=lambda kind: kind.kind)


def ours(metadata: Object) -> Object:
    """Metadata without what controllers add in their own time."""
    return {key: value for key, value in metadata.items() if key not in ("managedFields", "finalizers", "annotations")}


@every_kind
def test_the_server_gives_identity_time_and_version(api: Api, kind: Kind) -> None:
    mine = {"uid": "mine", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {"a": "b"}}
    made = api.create(kind, "a", metadata=mine, **CONTENT[kind])
    metadata = ours(made["metadata"])
    assert (made["apiVersion"], made["kind"]) == (kind.api_version, kind.kind)
    assert (metadata["name"], metadata["namespace"], metadata["labels"]) == ("a", api.namespace, {"a": "b"})
    assert len(metadata["uid"]) == 36
    at = datetime.strptime(metadata["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=60)
    assert int(metadata["resourceVersion"]) > 0
    assert metadata.get("generation") == (1 if kind.custom else None)
    assert api.get(kind, "a")["metadata"]["uid"] == metadata["uid"]


@every_kind
def test_labels_change_the_version_and_not_the_generation(api: Api, kind: Kind) -> None:
    made = api.create(kind, "a", metadata={"labels": {"a": "1", "b": "2"}}, **CONTENT[kind])["metadata"]
    changed = api.patch(kind, "a", {"metadata": {"labels": {"a": None, "c": "3"}}})["metadata"]
    assert changed["labels"] == {"b": "2", "c": "3"}
    assert int(changed["resourceVersion"]) > int(made["resourceVersion"])
    kept = ("uid", "creationTimestamp", "generation", "name", "namespace")
    assert {key: changed.get(key) for key in kept} == {key: made.get(key) for key in kept}
    assert "labels" not in api.patch(kind, "a", {"metadata": {"labels": {"b": None, "c": None}}})["metadata"]


@custom_kinds
def test_a_changed_spec_is_a_new_generation(api: Api, kind: Kind) -> None:
    made = api.create(kind, "a", **CONTENT[kind])
    changed = api.patch(kind, "a", {"spec": CUSTOM[kind]})
    assert (made["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)
    assert api.get(kind, "a")["spec"] == changed["spec"]


# Not of a Route or an InferenceService: their controllers write beside the test.
@pytest.mark.parametrize("kind", [CONFIG_MAP, SERVICE, LEASE, SERVING_RUNTIME], ids=lambda kind: kind.kind)
def test_a_patch_that_changes_nothing_writes_nothing(api: Api, kind: Kind) -> None:
    made = api.create(kind, "a", **CONTENT[kind])
    for change in ({}, {"metadata": {}}, CONTENT[kind]):
        after = api.patch(kind, "a", change)["metadata"]
        assert after["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_a_merge_patch_replaces_lists_removes_nulls_and_leaves_the_rest(api: Api) -> None:
    one, two = ({"kind": "Service", "name": name, "weight": 1} for name in ("one", "two"))
    api.create(ROUTE, "a", spec={**TO, "host": "a.example", "alternateBackends": [one, two]})
    spec = api.patch(ROUTE, "a", {"spec": {"alternateBackends": [two]}})["spec"]
    assert spec["alternateBackends"] == [two]
    assert spec["to"] == {"kind": "Service", "name": "blue", "weight": 100}
    spec = api.patch(ROUTE, "a", {"spec": {"to": {"weight": 7}, "alternateBackends": None}})["spec"]
    assert (spec["to"]["weight"], spec["to"]["name"], spec["host"]) == (7, "blue", "a.example")
    assert "alternateBackends" not in spec
    api.create(CONFIG_MAP, "a", data={"a": "1", "b": "2"})
    assert api.patch(CONFIG_MAP, "a", {"data": {"a": None, "c": "3"}})["data"] == {"b": "2", "c": "3"}
    assert "data" not in api.patch(CONFIG_MAP, "a", {"data": {"b": None, "c": None}})


def test_nulls_in_a_new_object_say_nothing(api: Api) -> None:
    spec = api.create(ROUTE, "a", spec={**TO, "host": "a.example", "path": None, "alternateBackends": None})["spec"]
    assert spec == {"host": "a.example", "to": {**TO["to"], "weight": 100}, "wildcardPolicy": "None"}


def test_a_route_gets_the_defaults_of_openshift(api: Api) -> None:
    spec = api.create(ROUTE, "a", spec={"to": {"name": "blue"}, "alternateBackends": [{"name": "green"}]})["spec"]
    assert spec["to"] == {"kind": "Service", "name": "blue", "weight": 100}
    assert spec["alternateBackends"] == [{"kind": "Service", "name": "green", "weight": 100}]
    assert spec["wildcardPolicy"] == "None"


def test_a_service_gets_its_defaults(api: Api) -> None:
    spec = api.create(SERVICE, "a", spec={"ports": [{"port": 80}], "selector": {"a": "b"}})["spec"]
    assert (spec["type"], spec["selector"]) == ("ClusterIP", {"a": "b"})
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]


@pytest.mark.parametrize("kind", [CONFIG_MAP, SERVICE, LEASE, ROUTE], ids=lambda kind: kind.kind)
def test_a_write_onto_an_old_version_conflicts_and_changes_nothing(api: Api, kind: Kind) -> None:
    old = api.create(kind, "a", **CONTENT[kind])["metadata"]["resourceVersion"]
    api.patch(kind, "a", {"metadata": {"annotations": {"first": "yes"}}})
    refused = api.merge(kind, "a", {"metadata": {"resourceVersion": old, "annotations": {"second": "yes"}}})
    assert str(refused) == "409 Conflict"
    assert {key: refused.status["details"][key] for key in ("name", "kind")} == {"name": "a", "kind": kind.plural}
    now = api.get(kind, "a")["metadata"]
    assert "second" not in now["annotations"]

    def write() -> str:
        version = api.get(kind, "a")["metadata"]["resourceVersion"]
        return str(api.merge(kind, "a", {"metadata": {"resourceVersion": version, "annotations": {"second": "yes"}}}))

    # The router may write a Route between the read and the write: then it is read again, as programs do.
    assert "200" in (write() for _ in range(5))


def test_only_one_of_two_writers_on_one_version_wins(api: Api) -> None:
    version = api.create(LEASE, "a", spec={"holderIdentity": "nobody"})["metadata"]["resourceVersion"]
    change: dict[str, Any] = {"metadata": {"resourceVersion": version}}
    answers = [str(api.merge(LEASE, "a", {**change, "spec": {"holderIdentity": who}})) for who in ("me", "you")]
    assert answers == ["200", "409 Conflict"]
    assert api.get(LEASE, "a")["spec"]["holderIdentity"] == "me"


def test_a_client_cannot_write_status(api: Api) -> None:
    made = api.post(INFERENCE_SERVICE, {"metadata": {"name": "a"}, "spec": ISVC, "status": {"url": "http://fake"}})
    assert "fake" not in str(made.body.get("status"))
    assert "fake" not in str(api.patch(INFERENCE_SERVICE, "a", {"status": {"url": "http://fake"}}).get("status"))
    api.create(SERVICE, "a", spec=PORTS)
    fake = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    assert "192.0.2.1" not in str(api.patch(SERVICE, "a", {"status": fake}).get("status"))


def test_a_dry_run_writes_nothing(api: Api) -> None:
    made = api.post(ROUTE, {"metadata": {"name": "a"}, "spec": TO}, dryRun="All")
    assert (made.code, made.body["spec"]["to"]["weight"]) == (201, 100)
    assert "resourceVersion" not in made.body["metadata"]
    assert api.read(ROUTE, "a").code == 404
    api.create(CONFIG_MAP, "a", data={"a": "1"})
    changed = api.merge(CONFIG_MAP, "a", {"data": {"a": "2"}}, dryRun="All")
    assert changed.body["data"] == {"a": "2"}
    assert api.get(CONFIG_MAP, "a")["data"] == {"a": "1"}


def test_an_invalid_patch_changes_nothing_and_names_its_field(api: Api) -> None:
    api.create(ROUTE, "a", spec={**TO, "host": "a.example"})
    refused = api.merge(ROUTE, "a", {"spec": {"to": {"weight": 257}}, "metadata": {"labels": {"a": "b"}}})
    assert (str(refused), refused.fields) == ("422 Invalid", {"spec.to.weight"})
    now = api.get(ROUTE, "a")
    assert (now["spec"]["to"]["weight"], "labels" in now["metadata"]) == (100, False)


def test_refusals_name_the_object(api: Api) -> None:
    missing = api.read(ROUTE, "none").status
    assert missing["details"] == {"name": "none", "group": ROUTE.group, "kind": "routes"}
    assert (missing["status"], missing["code"]) == ("Failure", 404)
    assert api.read(CONFIG_MAP, "none").status["details"] == {"name": "none", "kind": "configmaps"}


def test_lists_select_by_label_and_field(api: Api) -> None:
    for name, labels in {"one": {"a": "b"}, "two": {"a": "c"}, "three": {}}.items():
        api.create(ROUTE, name, metadata={"labels": labels}, spec={**TO, "host": f"{name}.example"})
    table = {
        "a=b": ["one"], "a": ["one", "two"], "!a": ["three"], "a!=b": ["three", "two"], "a in (b,c),a!=c": ["one"],
        "a notin (b)": ["three", "two"], "a=d": [],
    }  # fmt: skip
    assert {text: api.names(ROUTE, labelSelector=text) for text in table} == table
    assert api.names(ROUTE, fieldSelector="metadata.name=two") == ["two"]
    assert api.names(ROUTE, fieldSelector="metadata.name!=two") == ["one", "three"]
    assert api.names(ROUTE, labelSelector="a", fieldSelector="metadata.name!=two") == ["one"]
    assert api.names(ROUTE, fieldSelector=f"metadata.namespace={api.namespace}") == ["one", "three", "two"]


@pytest.mark.parametrize("kind", [CONFIG_MAP, ROUTE], ids=lambda kind: kind.kind)
def test_a_list_has_a_version_and_items_as_their_kind_has_them(api: Api, kind: Kind) -> None:
    made = api.create(kind, "a", **CONTENT[kind])
    found = api.ask("GET", api.path(kind), fieldSelector="metadata.name=a").body
    assert (found["apiVersion"], found["kind"]) == (kind.api_version, f"{kind.kind}List")
    assert int(found["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])
    [item] = found["items"]
    assert ("kind" in item, "apiVersion" in item) == (kind.custom, kind.custom)
    everywhere = api.path(kind).replace(f"/namespaces/{api.namespace}", "")
    uids = {item["metadata"]["uid"] for item in api.ask("GET", everywhere).body["items"]}
    assert made["metadata"]["uid"] in uids


def test_a_generated_name_begins_as_asked_and_is_short_enough(api: Api) -> None:
    about = {"kind": "Route", "name": "r", "namespace": api.namespace}
    event = {"involvedObject": about, "reason": "Shifted", "type": "Normal"}
    names = {
        api.post(EVENT, {"metadata": {"generateName": base}, **event}).body["metadata"]["name"]
        for base in ("shift-", "shift-", "x" * 70)
    }
    assert len(names) == 3
    assert {name[:6] for name in names} == {"shift-", "xxxxxx"}
    assert sorted(map(len, names)) == [11, 11, 63]
    assert len(api.names(EVENT, fieldSelector="involvedObject.name=r,reason=Shifted")) == 3
    assert api.names(EVENT, fieldSelector="involvedObject.name=r,reason!=Shifted") == []
