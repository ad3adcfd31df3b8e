"""The whole Pipeline on the cluster, as its README says: DVC on S3, MLflow on PostgreSQL and S3, KServe, the Route."""

from __future__ import annotations

import json

import httpx
import pytest
import yaml
from lab.part import CHECKOUT
from waiting import eventually

from e2e.cluster import Finished
from e2e.conftest import MODEL, Catalog
from isotherm import contract

pytestmark = pytest.mark.core
TASKS = ["admit", "fetch-data", "train", "evaluate", "register", "deploy", "shift", "promote", "report"]


def declared_results(task_run: dict) -> set[str]:
    """Names of the results that the Task of a TaskRun declares."""
    return {result["name"] for result in task_run["status"]["taskSpec"].get("results", [])}


def test_a_first_run_trains_registers_and_serves_a_model_on_blue(catalog: Catalog, first: Finished) -> None:
    assert first.succeeded, first.condition
    assert first.states() == dict.fromkeys(TASKS, "Succeeded")
    assert first.results["verdict"] == "pass"
    assert first.task_results("shift")["route-after"] == "blue=100 green=0"
    champion = catalog.champion()
    assert champion.tags["model_digest"] == first.results["model-digest"]
    assert catalog.route() == {"blue": 100, "green": 0}


def test_every_declared_result_is_there(first: Finished) -> None:
    for task_run in first.task_runs:
        got = {item["name"] for item in task_run["status"].get("results", [])}
        assert got == declared_results(task_run), task_run["metadata"]["name"]
    pipeline = yaml.safe_load((CHECKOUT / f"pipelines/{MODEL}/{MODEL}.yaml").read_text())
    assert set(first.results) == {item["name"] for item in pipeline["spec"]["results"]}


def test_lineage_names_data_code_and_image(catalog: Catalog, first: Finished) -> None:
    tags = catalog.champion().tags
    assert tags["data_version"] == first.results["data-version"]
    assert tags["data_git_sha"] == catalog.revisions[0]
    assert tags["image_digest"].startswith("isotherm/pinn-trainer")
    assert len(tags["git_sha"].removesuffix("-dirty")) == 40


def test_predictions_come_through_the_router(catalog: Catalog, first: Finished) -> None:
    answer = catalog.answers()
    assert answer.status_code == 200
    assert set(answer.json()) == {"u(x,y,t)", "model_version", "data_version", "timestamp"}
    assert answer.headers["x-model-digest"] == first.results["model-digest"]
    host = catalog.get("route", MODEL)["spec"]["host"]
    body = {"instances": [[0.5, 0.5, 0.1], [0.1, -0.2, 0.3]]}
    for path in (f"/v1/models/{MODEL}:predict", "/predict"):
        got = httpx.post(catalog.target.router + path, json=body, headers={"Host": host}).json()
        assert len(got["predictions"]) == 2


def test_a_gate_that_says_fail_ends_green_and_moves_nothing(
    catalog: Catalog, first: Finished, refused: tuple[Finished, list[str], list[str]]
) -> None:
    ended, before, after = refused
    assert ended.succeeded, ended.condition
    assert ended.condition["reason"] == "Completed"
    assert ended.results["verdict"] == "fail"
    assert set(ended.skipped) == {"register", "deploy", "shift", "promote"}
    assert ended.skipped["register"] == "When Expressions evaluated to false"
    assert ended.task("report")["status"]["conditions"][0]["status"] == "True"
    assert after == before
    assert catalog.champion().tags["model_digest"] == first.results["model-digest"]
    assert catalog.route() == {"blue": 100, "green": 0}


def test_the_same_run_again_adds_nothing(catalog: Catalog, first: Finished) -> None:
    again = catalog.wait(catalog.run("first"))
    assert again.succeeded, again.condition
    assert again.task_results("train") == first.task_results("train")
    assert again.task_results("evaluate")["reason"] == "already-champion"
    assert again.task_results("register")["outcome"] == "reused"
    assert again.task_results("shift")["outcome"] == "unchanged"
    assert len(catalog.versions()) == 1
    assert len(catalog.get("inferenceservices", "-l", f"isotherm.dev/model={MODEL}")["items"]) == 1


def test_new_data_waits_on_green_takes_the_traffic_as_a_canary_and_a_rollback_gives_it_back(
    catalog: Catalog, first: Finished
) -> None:
    second = catalog.wait(catalog.run("second", revision=1, promotion="manual"))
    assert second.succeeded, second.condition
    assert second.task_results("evaluate")["champion-version"] == "1"
    assert second.task_results("deploy")["colour"] == "green"
    assert catalog.route() == {"blue": 100, "green": 0}

    place = {"mlflow-uri": catalog.target.mlflow, "router-url": catalog.target.router}
    registered = second.task_results("register")
    model = {name: registered[name] for name in ("model-version", "model-digest")}
    # Prometheus scrapes every 5 s here, and what nobody asked is judged by the probes.
    judged = {
        "step-weights": "20", "bake-seconds": "5", "probes-per-second": "20", "latency-seconds": "5",
        "prometheus-url": catalog.target.prometheus,
    }  # fmt: skip
    canary = catalog.wait(catalog.pipeline_run("canary", "canary", place | model | judged))
    assert canary.succeeded, canary.condition
    assert canary.results["canary-verdict"] == "PROMOTE"
    assert canary.task_results("shift")["route-after"] == "blue=0 green=100"
    assert {catalog.answers().headers["x-model-version"] for _ in range(20)} == {"1.2.0"}
    assert catalog.champion().version == "2"
    assert told(catalog) == ("canary", "shifted", "20=PROMOTE", "canary")

    back = catalog.wait(catalog.pipeline_run("rollback", "back", place))
    assert back.succeeded, json.dumps(back.condition)
    assert back.results["live-version"] == "1"
    assert {catalog.answers().headers["x-model-version"] for _ in range(20)} == {"1.1.0"}
    assert catalog.champion().version == "1"
    assert told(catalog) == ("rollback", "shifted", "", "back")


def told(catalog: Catalog) -> tuple[str, ...]:
    """What the champion says of its last rollout: how, with which outcome, by which steps, in which run."""
    names = (
        contract.TAG_ROLLOUT_STRATEGY, contract.TAG_ROLLOUT_OUTCOME, contract.TAG_ROLLOUT_STEPS,
        contract.TAG_ROLLOUT_RUN,
    )  # fmt: skip
    return tuple(catalog.champion().tags[name] for name in names)


def test_a_shift_whose_driver_dies_is_taken_back_by_the_guard(catalog: Catalog, first: Finished) -> None:
    """After the rollback green still holds the second model. The shift to it never gets to its confirmation."""
    green = catalog.get("inferenceservice", f"{MODEL}-green")["metadata"]["annotations"]
    digest = green[contract.ANNOTATION_MODEL_DIGEST]
    former = {item["name"]: item["value"] for item in first.task("shift")["spec"]["params"]}
    params = former | {
        "colour": "green", "model-digest": digest, "model-version": "",
        "pipeline-run-uid": green[contract.ANNOTATION_CLAIMED_BY],
        "verify-requests": "1000000", "verify-timeout-seconds": "600", "expiry-seconds": "15",
    }  # fmt: skip
    spec = {
        "taskRef": {"name": "route-shift"},
        "serviceAccountName": "route-shift",
        "params": [{"name": key, "value": value} for key, value in params.items()],
        "workspaces": [
            {"name": "reports", "subPath": "runs/orphan/reports", "persistentVolumeClaim": {"claimName": "isotherm"}}
        ],
    }
    run = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "orphan"}, "spec": spec}
    catalog.kubectl("delete", "taskrun", "orphan", "--ignore-not-found")
    catalog.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))
    eventually(lambda: catalog.route().get("green") == 100, 60, every=0.5)
    catalog.kubectl("delete", "taskrun", "orphan", "--cascade=foreground", "--grace-period=0", "--force")
    # 15 s until it expires, moved on until the driver died; then the guard's next look.
    eventually(lambda: catalog.route() == {"blue": 100}, 45, every=1)
    notes = catalog.get("route", MODEL)["metadata"]["annotations"]
    assert notes[contract.ANNOTATION_REJECTED_DIGEST] == digest
    events = [item for item in catalog.get("events.events.k8s.io")["items"] if item["reason"] == "ShiftTakenBack"]
    told = [item["regarding"]["name"] for item in events if item["regarding"]["kind"] == "Route"]
    assert told == [MODEL]
    eventually(lambda: {catalog.answers().headers["x-model-version"] for _ in range(20)} == {"1.1.0"}, 15, every=1)
