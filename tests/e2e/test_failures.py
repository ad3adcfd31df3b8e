"""What happens when a run fails, is cancelled, takes too long, or loses a pod."""

from __future__ import annotations

import pytest

from e2e.cluster import Finished
from e2e.conftest import Catalog

pytestmark = pytest.mark.core


def test_a_failing_task_fails_the_run_with_its_cause_and_finally_still_reports(
    catalog: Catalog, no_data: Finished
) -> None:
    failed = no_data
    assert not failed.succeeded
    assert failed.condition["reason"] == "Failed"
    assert set(failed.skipped) == {"train", "evaluate", "register", "deploy", "shift", "promote"}
    fetch = failed.task("fetch-data")
    assert len(fetch["status"]["retriesStatus"]) == 2
    last = catalog.log(fetch).strip().splitlines()[-1]
    assert "data/none" in last
    assert last.startswith("error: ")
    report = failed.task("report")
    assert report["status"]["conditions"][0]["status"] == "False", "report-run fails the run with its own last line"
    results = {item["name"]: item["value"] for item in fetch["status"].get("results", [])}
    assert results == {"dataset-hash": "", "data-version": "", "data-git-sha": ""}


def test_a_cancelled_run_leaves_traffic_and_registry_alone(catalog: Catalog, first: Finished) -> None:
    name = catalog.run("cancelled", seed="7")
    catalog.running(name, "train")
    catalog.kubectl("patch", "pipelinerun", name, "--type=merge", "-p", '{"spec": {"status": "Cancelled"}}')
    ended = catalog.wait(name, 120)
    assert ended.condition["reason"] == "Cancelled"
    assert "report" not in ended.states(), "Tekton skips finally on Cancelled"
    assert catalog.champion().tags["model_digest"] == first.results["model-digest"]


def test_a_run_that_is_cancelled_gracefully_reports(catalog: Catalog, first: Finished) -> None:
    name = catalog.run("finally", seed="8")
    catalog.running(name, "train")
    catalog.kubectl("patch", "pipelinerun", name, "--type=merge", "-p", '{"spec": {"status": "CancelledRunFinally"}}')
    ended = catalog.wait(name, 120)
    assert not ended.succeeded
    # The report of a run whose training did not end fails, as after any failure; Tekton's reason is then Failed.
    assert ended.task("report")["status"]["conditions"][0]["status"] == "False"


def test_a_run_that_takes_too_long_is_ended_and_reports(catalog: Catalog, first: Finished) -> None:
    limits = {"pipeline": "5m", "tasks": "20s", "finally": "2m"}
    ended = catalog.wait(catalog.run("late", seed="9", restarts="3", spec={"timeouts": limits}), 240)
    assert not ended.succeeded
    assert "report" in ended.states()
    assert ended.condition["reason"] == "PipelineRunTimeout"
    assert catalog.route()["blue"] == 100
