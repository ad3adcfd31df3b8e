"""An InferenceService with `spec.canary` as driver isvc reads and writes it, and KServe's rules for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm import contract, kube, tekton
from isotherm.deploy import guard, preconditions, render, routes, split_plan, splits
from isotherm_local import canaries, kinds

ONE, TWO = "a" * 64, "b" * 64
NOTES = st.dictionaries(
    st.sampled_from([name for key, name in vars(contract).items() if key.startswith("ANNOTATION_SHIFT_")]),
    st.text(max_size=20),
)


def predictor(digest: str, colour: str = "blue", replicas: int = 1) -> kube.Object:
    return render.predictor(
        model_name="plate", colour=colour, digest=digest, semver="1.2.0", data_version="dvc-1", claimed_by="run-1",
        storage_uri=f"pvc://claim/{digest}", size=render.Size(replicas),
    )  # fmt: skip


def entry(share: int, **changes: Any) -> kube.Object:
    made = render.canary(predictor(TWO, "green"), share)
    return {**made, "predictor": made["predictor"] | changes}


def stored(share: int | None = None, **spec: Any) -> kube.Object:
    made = render.split_service(name="plate", model_name="plate", notes=split_plan.NO_SHIFT, predictor=predictor(ONE))
    made["metadata"] |= {"resourceVersion": "7", "uid": "u1"}
    made["spec"] |= ({} if share is None else {"canary": [entry(share)]}) | spec
    return made


def route(share: int = 0, **changes: Any) -> kube.Object:
    content = canaries.exposed_route(stored(share), "http")
    assert content is not None
    condition = {"type": "Admitted", "status": "True"}
    status = {"ingress": [{"host": "plate.example", "conditions": [condition]}]}
    return {**content, "status": status} | changes


def test_weights_are_the_traffic_percent_and_colours_the_predictors() -> None:
    split = splits.parse(stored(30), route(30))
    assert (dict(split.weights), split.host, split.tls, split.admitted) == (
        {"blue": 70, "green": 30}, "plate.example", True, True,
    )  # fmt: skip
    assert {name: colour.digest for name, colour in split.colours.items()} == {"blue": ONE, "green": TWO}
    assert {name: colour.deployment for name, colour in split.colours.items()} == splits.services("plate")
    alone = splits.parse(stored(), None)
    assert (dict(alone.weights), alone.live, alone.admitted) == ({"blue": 100, "green": 0}, "blue", False)
    assert alone.colours["green"].digest == ""


@settings(deadline=None)
@given(NOTES)
def test_notes_come_back_as_they_were_written(notes: dict[str, str]) -> None:
    assert splits.decode("plate", splits.encode(notes)) == notes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"canary": [{**entry(10), "predictor": {**entry(10)["predictor"], "name": "v2"}}]}, "not ours .v2."),
        ({"canary": [entry(10), entry(10)]}, "canaries that are not ours"),
        ({"transformer": {"containers": [{"name": "t"}]}}, "transformer"),
        ({"predictor": {**predictor(ONE), "name": "v1"}}, "cannot tell it from the canary"),
        ({"predictor": {"containers": [{"name": "kserve-container"}]}}, "unusable spec.predictor.model"),
        ({"canary": [{**entry(10), "trafficPercent": 101}]}, "unusable spec.canary.0.trafficPercent"),
    ],
    ids=["name", "two", "transformer", "named predictor", "containers", "percent"],
)
def test_a_form_that_kserve_or_its_platform_would_not_split_is_refused(change: kube.Object, reason: str) -> None:
    with pytest.raises(tekton.Refused, match=reason):
        splits.parse(stored(**change), route())


def test_another_mode_is_refused() -> None:
    one = stored()
    one["metadata"]["annotations"][contract.ANNOTATION_DEPLOYMENT_MODE] = "Knative"
    with pytest.raises(tekton.Refused, match="not in deployment mode Standard"):
        splits.parse(one, route())


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        (None, "KServe alone makes a canary's pods and no split"),
        (route(metadata={}), "not made from it by its platform"),
        (route(status={}), "no router carries Route plate"),
        (route(spec={"to": {"kind": "Service", "name": "plate-canary-predictor"}}), "leads to plate-canary-predictor"),
    ],
    ids=["none", "not owned", "not admitted", "wrong predictor"],
)
def test_without_a_route_that_follows_it_nothing_is_shifted(front: kube.Object | None, reason: str) -> None:
    split = splits.parse(stored(10), front)
    with pytest.raises(tekton.Refused, match="nothing splits the traffic of InferenceService plate") as refused:
        split.refuse_unserved()
    assert reason in refused.value.what


def test_the_predictor_takes_over_the_model_under_its_own_track() -> None:
    canary = render.canary(predictor(TWO, "green", 3), 100)["predictor"]
    promoted = render.promoted(canary)
    env = {one["name"]: one["value"] for one in promoted["model"]["env"]}
    assert (env[contract.ENV_MODEL_DIGEST], env[contract.ENV_TRACK]) == (TWO, "blue")
    assert promoted["minReplicas"] == 6  # three of its own, three lent to the canary
    assert promoted["annotations"] == canary["annotations"]
    assert "name" not in promoted
    # What KServe would run of the two differs by the track only.
    green = {**canary["model"], "env": promoted["model"]["env"]}
    assert green == {"name": contract.KSERVE_CONTAINER, **promoted["model"]}


def test_a_split_is_written_only_where_there_is_a_canary() -> None:
    split = splits.parse(stored(), None)
    driver = splits.Splits(None, "plate")  # type: ignore[arg-type]
    with pytest.raises(tekton.Refused, match="no canary to give traffic to"):
        driver.write(split, {"blue": 90, "green": 10}, {})
    with pytest.raises(ValueError, match="do not share 100"):
        driver.write(split, {"blue": 90, "green": 20}, {})
    for half in (driver.drop, driver.adopt):
        with pytest.raises(ValueError, match="InferenceService plate"):
            half(splits.parse(stored(50), None))


def test_a_canary_without_traffic_leads_no_way_back() -> None:
    split = splits.parse(stored(0), None)
    split.refuse_no_way_back("blue")
    with pytest.raises(tekton.Refused, match="keeps no model from before"):
        split.refuse_no_way_back("green")


def test_names_and_params() -> None:
    assert splits.services("plate") == {"blue": "plate-predictor", "green": "plate-canary-predictor"}
    splits.services("p" * 46)
    with pytest.raises(tekton.BadInput, match="too long a name") as refused:
        splits.services("p" * 47)
    assert "at most 46" in refused.value.remedy
    assert guard.guarded({"GUARDED_A": "isvc:plate"}) == {"isvc:plate": splits.services("plate")}
    with pytest.raises(tekton.BadInput, match="GUARDED_A"):
        guard.guarded({"GUARDED_A": "isvc:"})
    with pytest.raises(tekton.BadInput, match="param driver"):
        preconditions.Request("plate", routes.pair("blue", "green"), "blue", "d", "1", "run", driver="argo")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"canary": [entry(10)]}, ""),
        ({"canary": [entry(10, name="")]}, "spec.canary[0].predictor.name"),
        ({"canary": [entry(60), entry(50, name="v3")]}, "spec.canary"),
        ({"canary": [entry(10), entry(10)]}, "spec.canary[1].predictor.name"),
        ({"canary": [entry(10, maxReplicas=3)]}, "spec.canary[0].predictor.maxReplicas"),
        ({"canary": [entry(10, minReplicas=2)]}, "spec.canary[0].predictor.minReplicas"),
        ({"canary": [entry(101)]}, "spec.canary[0].trafficPercent"),
        ({"canary": [{"trafficPercent": 1, "predictor": {"name": "v2", "model": {}}}]},
         "spec.canary[0].predictor.model.name"),
        ({"predictor": {"model": {"modelFormat": {"name": "a"}, "name": "b"}}}, "spec.predictor.model.name"),
        ({"canary": {}}, ""),
        ({"canary": ["x"]}, "spec.canary"),
    ],
)  # fmt: skip
def test_the_embedded_api_refuses_what_kserves_webhook_refuses(change: kube.Object, field: str) -> None:
    found = [where for where, _ in kinds.INFERENCE_SERVICE.check(stored(**change))]
    assert found[:1] == ([field] if field else [])


def test_kserve_takes_a_canarys_replicas_off_the_predictors() -> None:
    """`reconcileRawDeployment`: hence what is deployed lends the canary as many as it has."""
    lent = stored(10, predictor=predictor(ONE, replicas=4))
    lent["spec"]["canary"][0]["predictor"]["minReplicas"] = 2
    before = copy.deepcopy(lent)
    found = canaries.variants(lent)
    assert {name: one["spec"]["predictor"]["minReplicas"] for name, one in found.items()} == {
        "plate-predictor": 2, "plate-canary-predictor": 2,
    }  # fmt: skip
    assert lent == before
    env = {e["name"]: e["value"] for e in found["plate-canary-predictor"]["spec"]["predictor"]["model"]["env"]}
    assert env[contract.ENV_MODEL_DIGEST] == TWO
