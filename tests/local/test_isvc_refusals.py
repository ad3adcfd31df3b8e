"""What driver isvc refuses before it writes: each in one line, and everything as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from split_target import BAD, NAME, ONE, TWO, Target, dark, objects, quick, started, target

from isotherm import contract, kube, tekton

__all__ = ["dark", "quick", "target"]


def test_where_nothing_splits_it_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """KServe 0.20 alone: pods of both models, and nobody who follows trafficPercent."""
    with started(tmp_path, monkeypatch) as target:
        target.platform.follows = False
        target.deploy(ONE, "run-1")
        target.deploy(TWO, "run-2")
        before = target.stored()["metadata"]["resourceVersion"]
        with pytest.raises(tekton.Refused, match="nothing splits the traffic of InferenceService plate") as refused:
            target.shifter("green", TWO, "run-2").shift()
        assert "driver route" in refused.value.remedy
        assert "\n" not in refused.value.line()
        assert target.stored()["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Operator", "name": "odh", "uid": "1", "controller": True}]}},
         "belongs to Operator odh"),
        ({"metadata": {"annotations": {contract.ANNOTATION_SHIFT: None}}}, "not made for driver isvc"),
        ({"metadata": {"annotations": {contract.ANNOTATION_SHIFT: "[]"}}}, "unreadable annotation"),
    ],
    ids=["owner", "not ours", "unreadable"],
)  # fmt: skip
def test_an_inference_service_that_is_not_ours_is_left_alone(dark: Target, change: kube.Object, reason: str) -> None:
    dark.patch(change)
    before = dark.stored()
    with pytest.raises(tekton.Refused, match=reason):
        dark.shifter("green", TWO, "run-2").shift()
    with pytest.raises(tekton.Refused, match=reason):
        dark.deploy(BAD, "run-3")
    assert dark.stored() == before


def test_a_route_that_the_platform_did_not_make_does_not_count(dark: Target) -> None:
    dark.platform.follows = False
    dark.patch({"metadata": {"ownerReferences": None}}, kube.ROUTE)
    with pytest.raises(tekton.Refused, match="not made from it by its platform"):
        dark.shifter("green", TWO, "run-2").shift()


def test_another_claim_or_another_model_is_refused(dark: Target) -> None:
    with pytest.raises(tekton.Refused, match="claimed by PipelineRun run-2"):
        dark.shifter("green", TWO, "run-9").shift()
    with pytest.raises(tekton.Refused, match="green holds model"):
        dark.shifter("green", BAD, "run-2").shift()
    assert dark.split().token == 0


def test_notes_that_kserve_hands_down_are_refused_before_a_pod_restarts(
    dark: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster whose `serviceAnnotationDisallowedList` does not name our annotation."""
    real = kube.Cluster.get

    def get(self: kube.Cluster, kind: kube.Kind, name: str) -> kube.Object | None:
        found = real(self, kind, name)
        if kind is kube.DEPLOYMENT and found:
            found["spec"]["template"]["metadata"]["annotations"][contract.ANNOTATION_SHIFT] = "{}"
        return found

    monkeypatch.setattr(kube.Cluster, "get", get)
    with pytest.raises(tekton.Refused, match="would restart its pods") as refused:
        dark.shifter("green", TWO, "run-2").shift()
    assert "serviceAnnotationDisallowedList" in refused.value.remedy


def test_a_name_that_a_route_has_already_is_not_taken_for_an_exposed_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its platform would overwrite that Route by its name."""
    with started(tmp_path, monkeypatch) as target:
        backend = {"kind": "Service", "name": "blue", "weight": 100}
        route = {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": NAME}}
        target.cluster.create(kube.ROUTE, {**route, "spec": {"to": backend}})
        with pytest.raises(tekton.Refused, match="would overwrite"):
            target.deploy(ONE, "run-1")
        assert objects(target) == {"Deployment": [], "InferenceService": []}
