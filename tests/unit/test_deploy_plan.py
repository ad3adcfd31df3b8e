"""Which colour a model goes to, and what may be changed for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm import contract, kube, tekton
from isotherm.deploy import deploy, plan, readiness, render, routes, splits

DIGEST, ELSE, NONE = "d" * 64, "e" * 64, ""
SERVICES = routes.pair("blue", "green")
HELD = st.fixed_dictionaries({colour: st.sampled_from([DIGEST, ELSE, NONE]) for colour in contract.COLOURS})
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=60)


def route(blue: int, green: int, **notes: str) -> routes.Route:
    return routes.Route("plate", "7", {"blue": blue, "green": green}, notes, "plate.example", True, "", False)


@pytest.mark.parametrize(
    ("at", "held", "choice"),
    [
        (None, {"blue": NONE, "green": NONE}, ("blue", "created")),
        (None, {"blue": DIGEST, "green": NONE}, ("blue", "reused")),
        (None, {"blue": ELSE, "green": DIGEST}, ("blue", "created")),
        (route(100, 0), {"blue": ELSE, "green": NONE}, ("green", "created")),
        (route(100, 0), {"blue": ELSE, "green": DIGEST}, ("green", "reused")),
        (route(100, 0), {"blue": DIGEST, "green": ELSE}, ("blue", "unchanged")),
        (route(0, 100), {"blue": ELSE, "green": DIGEST}, ("green", "unchanged")),
        (route(0, 1), {"blue": ELSE, "green": ELSE}, ("blue", "created")),
    ],
)
def test_a_model_goes_to_the_colour_without_traffic_unless_it_has_some_already(at, held, choice) -> None:
    assert plan.choose_colour(at, held, DIGEST, "run-1") == plan.Choice(*choice)


@settings(deadline=None)
@given(st.integers(0, 256), st.integers(0, 256), HELD, st.sampled_from(["run-1", "run-2"]))
def test_a_colour_with_traffic_is_never_given_another_model(blue, green, held, holder) -> None:
    at = route(blue, green, **{contract.ANNOTATION_SHIFT_HOLDER: holder})
    try:
        choice = plan.choose_colour(at, held, DIGEST, "run-1")
    except tekton.Refused:
        assert (blue > 0) == (green > 0)
        return
    assert at.weights[choice.colour] == 0 or held[choice.colour] == DIGEST
    assert (choice.outcome == "created") == (held[choice.colour] != DIGEST)


def test_a_shift_in_progress_is_resumed_by_its_own_run_only() -> None:
    at = route(90, 10, **{contract.ANNOTATION_SHIFT_HOLDER: "run-1"})
    held = {"blue": ELSE, "green": DIGEST}
    assert plan.choose_colour(at, held, DIGEST, "run-1") == plan.Choice("green", "reused")
    with pytest.raises(tekton.Refused, match="by PipelineRun run-1"):
        plan.choose_colour(at, held, DIGEST, "run-2")
    with pytest.raises(tekton.Refused, match="being shifted"):
        plan.choose_colour(at, {"blue": ELSE, "green": ELSE}, DIGEST, "run-1")
    with pytest.raises(tekton.Refused, match="no traffic at all"):
        plan.choose_colour(route(0, 0), held, DIGEST, "run-1")


def wanted(size: render.Size = deploy.ONE_SMALL, **changes: str) -> kube.Object:
    values = {
        "model_name": "plate", "colour": "green", "digest": DIGEST, "semver": "1.2.0", "data_version": "dvc-1",
        "claimed_by": "run-1", "storage_uri": "pvc://claim/plate",
    }  # fmt: skip
    return render.inference_service(**(values | changes), size=size)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_values_stay_values_in_every_template(text: str, other: str) -> None:
    made = wanted(claimed_by=text, storage_uri=other)
    assert made["metadata"]["annotations"][contract.ANNOTATION_CLAIMED_BY] == text
    assert made["spec"]["predictor"]["model"]["storageUri"] == other
    assert set(made["spec"]["predictor"]["model"]) == {"modelFormat", "runtime", "storageUri", "env", "resources"}
    assert render.serving_runtime(text)["spec"]["containers"][0]["image"] == text
    assert render.service(name=text, model_name=other, colour="blue")["metadata"]["name"] == text


@pytest.mark.parametrize("uri", ["pvc://claim/store/plate", "pvc://claims/store/plate", "s3://claim/store/plate"])
def test_a_pod_never_has_one_claim_as_two_volumes(uri: str) -> None:
    """KServe adds the volume of a model's claim by itself, unless the container mounts one of that name."""
    predictor = wanted(render.Size(log_claim="claim"), storage_uri=uri)["spec"]["predictor"]
    [volume] = predictor["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "claim"}
    mounts = {one["mountPath"]: one for one in predictor["model"]["volumeMounts"]}
    assert {one["name"] for one in mounts.values()} == {volume["name"]}
    assert mounts["/predictions"]["subPath"] == "predictions/plate"
    if uri == "pvc://claim/store/plate":
        assert volume["name"] == "kserve-pvc-source"
        assert mounts["/mnt/models"] == {
            "name": "kserve-pvc-source", "mountPath": "/mnt/models", "subPath": "store/plate", "readOnly": True
        }  # fmt: skip
    else:
        assert (volume["name"], set(mounts)) == ("predictions", {"/predictions"})


@pytest.mark.parametrize("termination", ["edge", "none"])
@pytest.mark.parametrize("host", ["", "plate.example"])
def test_a_first_route_gives_everything_to_one_colour(termination: str, host: str) -> None:
    made = render.route(
        name="plate", model_name="plate", live="blue", services=SERVICES, host=host, termination=termination,
        digest=DIGEST, holder="run-1", live_since="2026-01-01T00:00:00Z",
    )  # fmt: skip
    made["metadata"]["resourceVersion"] = "1"
    parsed = routes.parse(made, SERVICES)
    assert (parsed.live, parsed.token, parsed.tls, parsed.host) == ("blue", 1, termination == "edge", host)
    assert ("host" in made["spec"]) == bool(host)


def test_names_fit_into_a_service_name() -> None:
    name = "a" * (63 - len("-green-predictor"))
    assert render.inference_service_name(name, "green").endswith("-green")
    with pytest.raises(tekton.BadInput, match="too long"):
        render.inference_service_name(name + "a", "green")


def test_an_inference_service_is_patched_only_where_it_differs() -> None:
    stored = wanted()
    stored["metadata"] |= {"resourceVersion": "3", "uid": "u"}
    stored["spec"]["predictor"]["maxReplicas"] = 2
    assert plan.inference_service(None, wanted()).action == plan.CREATE
    assert plan.inference_service(stored, wanted()).action == plan.KEEP
    change = plan.inference_service(stored, wanted(claimed_by="run-2"))
    assert change.action == plan.PATCH
    lines = [line.strip() for line in plan.diff(change).splitlines()[1:]]
    assert [line[0] for line in lines if "claimed-by" in line] == ["-", "+"]
    assert "maxReplicas" not in plan.diff(change)


def test_a_colours_size_is_in_its_inference_service_and_a_new_size_patches_it() -> None:
    made = wanted(render.Size(3, "1", "2Gi"))
    predictor = made["spec"]["predictor"]
    assert predictor["minReplicas"] == 3
    assert predictor["model"]["resources"] == {
        "requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"},
    }  # fmt: skip
    assert plan.inference_service(made, wanted(render.Size(3, "1", "2Gi"))).action == plan.KEEP
    assert plan.inference_service(made, wanted(render.Size(2, "1", "2Gi"))).action == plan.PATCH


@pytest.mark.parametrize("size", [(0,), (-1,), (1, "0"), (1, "much"), (1, "1.5x"), (1, "1", "512"), (1, "1", "0Gi")])
def test_a_size_that_kubernetes_would_refuse_is_bad_input(size: tuple[Any, ...]) -> None:
    render.Size(1, "0.5", "1Gi")
    with pytest.raises(tekton.BadInput, match="param predictor-"):
        render.Size(*size)


def test_a_runtime_that_differs_is_refused_with_the_field() -> None:
    stored = render.serving_runtime("one")
    assert plan.runtime(stored, render.serving_runtime("one")).action == plan.KEEP
    with pytest.raises(tekton.Refused, match=r"spec\.containers\[0\]\.image is 'one', not 'two'"):
        plan.runtime(stored, render.serving_runtime("two"))


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner),
    )
)
def test_an_object_contains_itself(value: Any) -> None:
    without_none = value is not None and "None" not in repr(value)
    assert kube.contains(value, value) or not without_none


def deployment(**changes: Any) -> kube.Object:
    env = [{"name": contract.ENV_MODEL_DIGEST, "value": changes.pop("digest", DIGEST)}]
    notes = {contract.ANNOTATION_CLAIMED_BY: changes.pop("claim", "run-1")}
    template = {"metadata": {"annotations": notes}, "spec": {"containers": [{"env": env}]}}
    counts = {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2} | changes
    return {
        "metadata": {"generation": 3},
        "spec": {"replicas": counts.pop("wanted", 2), "template": template},
        "status": counts,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"digest": ELSE}, "pod template carries digest"),
        ({"claim": "run-0"}, "earlier run's claim"),
        ({"observedGeneration": 2}, "has not seen"),
        ({"readyReplicas": 1}, "1 of 2 pods ready"),
        ({"wanted": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}, "1 of 2 pods ready"),  # an autoscaler
        ({"wanted": 3, "replicas": 3, "updatedReplicas": 3}, ""),  # it adds one: two serve
        ({"updatedReplicas": 1}, "1 of them new"),
        ({"replicas": 3}, "3 in all"),
        ({"wanted": 0}, "scaled to 0"),
    ],
    ids=str,
)
def test_a_rollout_is_whole_or_says_what_is_missing(changes: dict[str, Any], reason: str) -> None:
    missing = readiness.missing_from_rollout(deployment(**changes), DIGEST, "run-1", least=2)
    assert reason in missing
    assert bool(missing) is bool(reason)
    assert "has not made" in readiness.missing_from_rollout(None, DIGEST, "run-1")


def test_the_least_number_of_pods_is_the_inference_services_without_what_it_lends_to_its_canary() -> None:
    def service(**spec: Any) -> kube.Object:
        return {"metadata": {"name": "plate"}, "spec": spec}

    canary = {"predictor": {"name": contract.CANARY_NAME, "minReplicas": 2}, "trafficPercent": 10}
    both = service(predictor={"minReplicas": 5}, canary=[canary])
    of_canary = splits.services("plate")["green"]
    assert readiness.least_pods(service(predictor={"minReplicas": 3}), "plate-predictor") == 3
    assert (readiness.least_pods(both, "plate-predictor"), readiness.least_pods(both, of_canary)) == (3, 2)
    assert readiness.least_pods(service(predictor={"minReplicas": 0}), "plate-predictor") == 1
    assert readiness.least_pods(None, "plate-predictor") == 1


def test_a_pod_more_that_starts_takes_nothing_from_those_that_serve() -> None:
    starting = readiness.Endpoint("127.0.0.1", 1, ready=False)
    assert readiness.unready_endpoints([starting], DIGEST) == "0 of 1 endpoints ready; http://127.0.0.1:1 is not ready"
    dead = readiness.Endpoint("127.0.0.1", 1, ready=True)
    assert "127.0.0.1:1 does not answer" in readiness.unready_endpoints([dead, starting], DIGEST)
    assert "1 of 2 endpoints ready" in readiness.unready_endpoints([dead, starting], DIGEST, least=2)


def test_the_clusters_own_words_are_passed_on() -> None:
    failing = {"status": {"conditions": [{"type": "Progressing", "status": "False", "message": "quota exceeded"}]}}
    service = {"status": {"modelStatus": {"lastFailureInfo": {"message": "digest differs"}}}}
    assert readiness.complaints(failing, service) == "digest differs; quota exceeded"
    assert readiness.complaints(None, None) == ""


@pytest.mark.parametrize(
    "changes",
    [{"run_uid": ""}, {"predictor_image": ""}, {"ready_timeout_seconds": 0.0}, {"tls_termination": "passthrough"}],
    ids=str,
)
def test_params_out_of_range_are_bad_input(changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "model_name": "plate", "model_version": "1", "model_digest": DIGEST, "services": SERVICES, "route": "plate",
        "model_store": "pvc://claim/path", "predictor_image": "image", "run_uid": "run-1",
    }  # fmt: skip
    deploy.Request(**values)
    with pytest.raises(tekton.BadInput):
        deploy.Request(**(values | changes))
