"""What happens when a run fails, is cancelled, takes too long, or loses a pod."""

from __future__ import annotations

import pytest
from waiting import eventually

from e2e.cluster import Finished
from e2e.conftest import MODEL, OTHER_PARAMS, Catalog

pytestmark = pytest.mark.core


def running(catalog: Catalog, run: str, task: str) -> dict:
    """Wait until the step of a pipeline task runs; return its TaskRun."""

    def found() -> dict | None:
        for item in catalog.task_runs(run):
            if item["metadata"]["labels"]["tekton.dev/pipelineTask"] == task:
                steps = item.get("status", {}).get("steps", [])
                if steps and "running" in steps[0]:
                    return item
        return None

    return eventually(found, 120, every=0.5)


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
    running(catalog, name, "train")
    catalog.kubectl("patch", "pipelinerun", name, "--type=merge", "-p", '{"spec": {"status": "Cancelled"}}')
    ended = catalog.wait(name, 120)
    assert ended.condition["reason"] == "Cancelled"
    assert "report" not in ended.states(), "Tekton skips finally on Cancelled"
    assert catalog.champion().tags["model_digest"] == first.results["model-digest"]


def test_a_run_that_is_cancelled_gracefully_reports(catalog: Catalog, first: Finished) -> None:
    name = catalog.run("finally", seed="8")
    running(catalog, name, "train")
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


def test_a_training_whose_pod_is_killed_gets_another_and_completes(catalog: Catalog, first: Finished) -> None:
    name = catalog.run("killed", seed="10", **OTHER_PARAMS)
    pod = running(catalog, name, "train")["status"]["podName"]
    killed = catalog.get("pod", pod)["metadata"]["uid"]
    catalog.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    ended = catalog.wait(name)
    assert ended.succeeded, ended.condition
    assert catalog.get("pod", ended.task("train")["status"]["podName"])["metadata"]["uid"] != killed
    runs = catalog.registry().search_runs(
        [catalog.registry().get_experiment_by_name(MODEL).experiment_id], f"tags.pipeline_run = '{name}'"
    )
    assert len(runs) == 1, "the second pod goes on with the first one's MLflow run"
    assert ended.results["verdict"] in ("pass", "fail")
