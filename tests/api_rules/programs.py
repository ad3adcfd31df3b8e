"""The deploy programs' own client (`isotherm.kube`), on a wire that loses and refuses requests."""

from __future__ import annotations

import pytest

from api_rules.target import Api
from isotherm import kube, tekton
from isotherm.deploy import plan, render


def programs(api: Api) -> kube.Cluster:
    """The client in the namespace under test; the fixture's faults stand between."""
    return kube.Cluster(api.client, api.namespace, deadline_seconds=5.0)


def runtime(name: str, image: str = "isotherm/pinn-api:0.1.0") -> kube.Object:
    body = render.serving_runtime(image)
    body["metadata"]["name"] = name
    return body


def version(stored: kube.Object) -> str:
    return str(stored["metadata"]["resourceVersion"])


@pytest.fixture(autouse=True)
def every_fault_is_met(api: Api) -> object:
    api.wire.methods.clear()
    yield
    assert (api.wire.before, api.wire.after) == ([], []), "an injected fault was not met"


def test_what_is_created_is_read_back_and_absence_is_none(api: Api) -> None:
    cluster, body = programs(api), runtime("read-back")
    assert cluster.get(kube.SERVING_RUNTIME, "read-back") is None
    assert kube.contains(cluster.create(kube.SERVING_RUNTIME, body), body)
    assert kube.contains(cluster.get(kube.SERVING_RUNTIME, "read-back"), body)
    service = render.service(name="blue", model_name="plate", colour="blue")
    assert kube.contains(cluster.create(kube.SERVICE, service), service)
    assert kube.contains(cluster.get(kube.SERVICE, "blue"), service)
    assert cluster.get(kube.SERVICE, "green") is None
    with pytest.raises(kube.Conflict):
        cluster.create(kube.SERVICE, service)


def test_a_kind_that_is_not_served_is_told_from_an_object_that_is_not_there(api: Api) -> None:
    with pytest.raises(tekton.BadInput, match=r"does not know things\.none\.example/v1"):
        programs(api).get(kube.Kind("Thing", "none.example", "v1", "things"), "a")


@pytest.mark.parametrize("codes", [[500], [503, 429], [504, 500, 502]], ids=str)
def test_reads_are_repeated(api: Api, codes: list[int]) -> None:
    api.wire.before = list(codes)
    assert programs(api).get(kube.SERVING_RUNTIME, "absent") is None
    assert api.wire.methods == ["GET"] * (len(codes) + 1)


@pytest.mark.parametrize("code", [500, 504])
def test_a_write_whose_answer_is_lost_happens_once(api: Api, code: int) -> None:
    cluster, name = programs(api), f"lost-{code}"
    api.wire.after = [code]
    created = cluster.create(kube.SERVING_RUNTIME, runtime(name))
    assert api.wire.methods == ["POST", "POST", "GET"]
    api.wire.after = [code]
    change = {"metadata": {"annotations": {"note": "one"}}}
    patched = cluster.patch(kube.SERVING_RUNTIME, name, change, version(created))
    assert api.wire.methods[3:] == ["PATCH", "PATCH", "GET"]
    assert patched["metadata"]["annotations"] == {"note": "one"}
    stored = cluster.get(kube.SERVING_RUNTIME, name)
    assert stored is not None
    assert version(stored) == version(patched)


def test_a_lost_write_that_somebody_else_overtook_is_a_conflict(api: Api) -> None:
    cluster = programs(api)
    created = cluster.create(kube.SERVING_RUNTIME, runtime("overtaken"))
    cluster.patch(kube.SERVING_RUNTIME, "overtaken", {"metadata": {"labels": {"by": "other"}}}, version(created))
    api.wire.before = [500]
    with pytest.raises(kube.Conflict):
        cluster.patch(kube.SERVING_RUNTIME, "overtaken", {"metadata": {"labels": {"by": "us"}}}, version(created))


@pytest.mark.parametrize("code", [429, 500])
def test_a_write_that_was_turned_away_is_repeated(api: Api, code: int) -> None:
    api.wire.before = [code]
    programs(api).create(kube.SERVING_RUNTIME, runtime(f"away-{code}"))
    assert api.wire.methods == ["POST", "POST"]


def test_a_stale_write_is_a_conflict_and_a_write_without_version_impossible(api: Api) -> None:
    cluster = programs(api)
    created = cluster.create(kube.SERVING_RUNTIME, runtime("stale"))
    change = {"metadata": {"labels": {"a": "b"}}}
    cluster.patch(kube.SERVING_RUNTIME, "stale", change, version(created))
    with pytest.raises(kube.Conflict, match="another writer was faster"):
        cluster.patch(kube.SERVING_RUNTIME, "stale", change, version(created))
    with pytest.raises(ValueError, match="resourceVersion"):
        cluster.patch(kube.SERVING_RUNTIME, "stale", change, "")


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        (403, tekton.Refused, r"not allowed: get routes\.route\.openshift\.io plate in namespace "),
        (401, tekton.Refused, "does not accept the token"),
        (404, tekton.BadInput, r"does not know routes\.route\.openshift\.io/v1"),
        (422, tekton.BadInput, "refuses get"),
    ],
)
def test_a_final_answer_is_not_repeated_and_says_what_was_asked(
    api: Api, code: int, error: type[Exception], reason: str
) -> None:
    api.wire.before = [code]
    with pytest.raises(error, match=reason):
        programs(api).get(kube.ROUTE, "plate")
    assert api.wire.methods == ["GET"]


def test_a_controllers_note_does_not_stop_a_planned_patch_but_a_person_does(api: Api) -> None:
    cluster = programs(api)
    wanted = render.inference_service(
        model_name="plate", colour="green", digest="d" * 64, semver="1.2.0", data_version="dvc-123456",
        claimed_by="run-2", storage_uri="pvc://isotherm/model-store/plate/d", size=render.Size(1, "250m", "512Mi"),
    )  # fmt: skip
    cluster.create(kube.INFERENCE_SERVICE, wanted)
    newer = {**wanted, "metadata": {**wanted["metadata"], "annotations": {**wanted["metadata"]["annotations"]}}}
    newer["metadata"]["annotations"]["isotherm.dev/claimed-by"] = "run-3"

    change = plan.inference_service(cluster.get(kube.INFERENCE_SERVICE, "plate-green"), newer)
    touch(cluster, "plate-green", {"labels": {"seen": "yes"}})
    plan.apply(cluster, change)
    change = plan.inference_service(cluster.get(kube.INFERENCE_SERVICE, "plate-green"), wanted)
    touch(cluster, "plate-green", {"annotations": {"isotherm.dev/claimed-by": "run-4"}})
    with pytest.raises(kube.Conflict):
        plan.apply(cluster, change)


def touch(cluster: kube.Cluster, name: str, metadata: kube.Object) -> None:
    """Write metadata as somebody else would, between the writes of KServe's controller."""
    for _ in range(5):
        stored = cluster.get(kube.INFERENCE_SERVICE, name)
        assert stored is not None
        try:
            cluster.patch(kube.INFERENCE_SERVICE, name, {"metadata": metadata}, version(stored))
        except kube.Conflict:
            continue
        return
    raise AssertionError(f"{name} never stood still")
