"""The Pipeline as it stands in pipelines/, through the real programs, on a local target of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from local_pipeline import MODEL, ROOT, SMALL, Target, publish, started

from isotherm import contract
from isotherm_local.runner.record import RunRecord

PROMOTE = ROOT / "pipelines/blue-green/runs/blue-green.yaml"
ROLLBACK = ROOT / "pipelines/rollback/runs/rollback.yaml"
RETRAIN = ROOT / "pipelines/drift-retrain/runs/drift-retrain.yaml"
# Short steps, and no answer is judged by the speed of the machine.
JUDGED = {
    "step-weights": "20,50", "interval-seconds": "0.5", "bake-seconds": "1", "probes-per-second": "40",
    "latency-seconds": "5",
}  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with started(tmp_path_factory.mktemp("pipeline")) as target:
        yield target


@pytest.fixture(scope="module")
def first(target: Target) -> RunRecord:
    return target.run("first")


def states(run: RunRecord) -> dict[str, str]:
    return {name: task.state for name, task in run.tasks.items()}


def test_a_first_run_trains_registers_and_serves_a_model_on_blue(target: Target, first: RunRecord) -> None:
    assert first.succeeded, first.culprit()
    assert set(states(first).values()) == {"Succeeded"}
    assert first.results["verdict"] == "pass"
    assert first.tasks["shift"].results["route-after"] == "blue=100 green=0"
    assert target.live_version() == "1.1.0"
    champion = target.registry().get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION)
    assert champion.tags[contract.TAG_MODEL_DIGEST] == first.results["model-digest"]
    assert all(champion.tags.get(tag) for tag in contract.LINEAGE_TAGS)


def test_its_page_stands_alone_and_its_summary_has_the_figures(target: Target, first: RunRecord) -> None:
    page = (target.reports(first.name) / contract.REPORT_PAGE).read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    summary = json.loads((target.reports(first.name) / contract.REPORT_SUMMARY).read_text())
    assert summary["data_version"] == first.results["data-version"]
    assert summary["route_after"] == {"blue": 100, "green": 0}
    assert 0 < summary["a_rel_l2"] < 0.1


def test_the_same_run_again_adds_nothing(target: Target, first: RunRecord) -> None:
    again = target.run("first")
    assert again.succeeded
    assert again.tasks["train"].results == first.tasks["train"].results
    assert again.tasks["evaluate"].results["reason"] == "already-champion"
    assert again.tasks["register"].results["outcome"] == "reused"
    assert again.tasks["shift"].results["outcome"] == "unchanged"
    assert len(target.registry().search_model_versions(f"name='{MODEL}'")) == 1


def test_a_gate_that_says_fail_ends_green_and_moves_nothing(target: Target, first: RunRecord) -> None:
    refused = target.run("refused", revision=1, epochs="3")
    assert refused.succeeded
    assert refused.reason == "Completed"
    assert refused.results["verdict"] == "fail"
    assert {name for name, state in states(refused).items() if state == "Skipped"} == {
        "register",
        "deploy",
        "shift",
        "promote",
    }
    assert target.live_version() == "1.1.0"
    assert len(target.registry().search_model_versions(f"name='{MODEL}'")) == 1


def test_new_data_lands_on_green_takes_the_traffic_and_a_rollback_gives_it_back(
    target: Target, first: RunRecord
) -> None:
    second = target.run("second", revision=1)
    assert second.succeeded, second.culprit()
    assert second.tasks["evaluate"].results["champion-version"] == "1"
    assert second.tasks["shift"].results["route-before"] == "blue=100 green=0"
    assert second.tasks["shift"].results["route-after"] == "blue=0 green=100"
    assert target.live_version() == "1.2.0"
    champion = target.registry().get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION)
    assert champion.version == "2"

    place = {name: value for name, value in target.place().items() if name in ("mlflow-uri", "router-url")}
    back = target.start(ROLLBACK, "back", place)
    assert back.succeeded, back.culprit()
    assert back.results["live-version"] == "1"
    assert target.live_version() == "1.1.0"
    champion = target.registry().get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION)
    assert champion.version == "1"


def test_with_manual_promotion_a_model_waits_on_the_idle_colour_until_a_person_promotes_it(
    target: Target, first: RunRecord
) -> None:
    waiting = target.run("waiting", revision=1, promotion="manual", predictor_memory="640Mi")
    assert waiting.succeeded, waiting.culprit()
    assert {name for name, state in states(waiting).items() if state == "Skipped"} == {"shift", "promote"}
    assert waiting.tasks["deploy"].results["colour"] == "green"
    assert target.live_version() == "1.1.0"
    registry, version = target.registry(), waiting.tasks["register"].results["model-version"]
    assert registry.get_model_version_by_alias(MODEL, contract.ALIAS_CHALLENGER).version == version
    assert registry.get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION).version == "1"
    page = (target.reports("waiting") / contract.REPORT_PAGE).read_text()
    assert f"Pipeline blue-green with model-version {version}" in page

    approved = {"model-version": version, "model-digest": waiting.results["model-digest"]}
    promoted = target.start(PROMOTE, "promoted", target.place() | approved)
    assert promoted.succeeded, promoted.culprit()
    assert promoted.results == {"live-colour": "green", "live-version": version}
    assert target.live_version() == f"1.{version}.0"
    assert registry.get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION).version == version


def test_an_alert_retrains_on_the_newest_measurements_and_the_new_model_takes_the_traffic_as_a_canary(
    target: Target, first: RunRecord
) -> None:
    before = target.live_version()
    publish(target.repository.parent, 1300, 3)
    # The judge is what is tried here, so the gate lets a model pass whatever the champion's misfit on these points is.
    given = SMALL | target.place() | JUDGED | {"repo-url": str(target.repository), "min-improvement": "-1"}
    alert = target.start(RETRAIN, "alert", given | {"event-key": "retrain-0123456789abcdef-20261124190000"})
    assert alert.succeeded, alert.culprit()
    assert alert.tasks["admit"].results["reason"] == "claimed"
    assert alert.results["verdict"] == "pass"
    assert alert.tasks["shift"].results["canary-verdict"] == "PROMOTE"
    steps = json.loads((target.reports("alert") / contract.REPORT_SHIFT).read_text())["steps"]
    assert [(step["weight"], step["verdict"]) for step in steps] == [(20, "PROMOTE"), (50, "PROMOTE")]
    version = alert.tasks["register"].results["model-version"]
    assert target.live_version() == f"1.{version}.0" != before
    assert target.registry().get_model_version_by_alias(MODEL, contract.ALIAS_CHAMPION).version == version

    storm = target.start(RETRAIN, "storm", given | {"event-key": "retrain-fedcba9876543210-20261124190500"})
    assert storm.succeeded, storm.culprit()
    assert storm.tasks["admit"].results["reason"].startswith("cooling-down until ")
    assert {name for name, state in states(storm).items() if state != "Skipped"} == {"admit", "report"}
