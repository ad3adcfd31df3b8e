"""Each Task by itself: once with what a former run left (success), once with what it must refuse (failure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from waiting import eventually

from e2e import measurements
from e2e.cluster import Finished, Object
from e2e.conftest import Catalog

pytestmark = pytest.mark.core
CREDENTIALS = {"name": "dvc-credentials", "secret": {"secretName": "dvc-credentials"}}


def workspace(name: str, path: str) -> Object:
    """A folder of the run's volume as a Task's workspace."""
    return {"name": name, "subPath": path, "persistentVolumeClaim": {"claimName": "isotherm"}}


@dataclass(frozen=True)
class Case:
    """How a Task is called: which of the former run's params, which workspaces, what makes it fail and what it says."""

    workspaces: tuple[str, ...]
    wrong: dict[str, Any]
    says: str
    uses: str = ""  # the pipeline task whose params are taken; empty: the Task has only one place in the Pipeline


CASES = {
    "dvc-fetch": Case(("data", "reports"), {"data-path": "data/none"}, "data/none", "fetch-data"),
    "pinn-train": Case(("data", "model", "reports"), {"dataset-hash": "0" * 32}, "problem.yaml", "train"),
    "evaluate-metrics": Case(("data", "model", "reports"), {"model-digest": "0" * 64}, "digest", "evaluate"),
    "mlflow-register": Case(("reports",), {"model-digest": "0" * 64}, "another model", "register"),
    "kserve-deploy": Case(("reports", "model-store"), {"model-version": "99"}, "99", "deploy"),
    "route-shift": Case(("reports",), {"colour": "red"}, "red", "shift"),
    "report-run": Case(("reports",), {"tasks-status": "Failed", "task-statuses": ["train=Failed"]}, "train", "report"),
}


def folder(name: str, run: str) -> str:
    """Where the Pipeline puts a workspace."""
    shared = {"data": "data", "model-store": "model-store", "model": "runs/first/model"}
    return shared.get(name) or f"runs/{run}/{name}"


def start(
    catalog: Catalog, first: Finished, task: str, changes: dict[str, Any], name: str, task_spec: Object | None = None
) -> None:
    """Create a TaskRun with the params that the former run gave this Task, changed by `changes`.

    `task_spec` stands in for the Task that the namespace has.
    """
    case = CASES[task]
    former = first.task(case.uses)
    params = {item["name"]: item["value"] for item in former["spec"]["params"]} | changes
    workspaces = [workspace(one, folder(one, name if changes else "first")) for one in case.workspaces]
    if task == "dvc-fetch":
        workspaces.append(CREDENTIALS)
    spec = {
        **({"taskSpec": task_spec} if task_spec else {"taskRef": {"name": task}}),
        "serviceAccountName": former["spec"]["serviceAccountName"],
        "params": [{"name": key, "value": value} for key, value in params.items()],
        "workspaces": workspaces,
    }
    run = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": name}, "spec": spec}
    catalog.kubectl("delete", "taskrun", name, "--ignore-not-found")
    catalog.kubectl("create", "-f", "-", stdin=yaml.safe_dump(run))


def test_data_that_reaches_the_remote_after_its_commit_is_waited_for(catalog: Catalog, first: Finished) -> None:
    """`git push` first, `dvc push` later: the listing is taken from S3 and comes back while the Task waits."""
    import boto3

    repository = measurements.repository(catalog.target, "late")
    commit = measurements.publish(catalog.target, "late", 100, 77, to="late")
    out = yaml.safe_load((measurements.BUILD / "late" / "data" / "late.dvc").read_text())["outs"][0]["md5"]
    aws = catalog.target.aws()
    s3 = boto3.client(
        "s3", endpoint_url=aws["AWS_ENDPOINT_URL"], region_name=aws["AWS_DEFAULT_REGION"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"], aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    place = {"Bucket": "research-datasets", "Key": f"e2e/files/md5/{out[:2]}/{out[2:]}"}
    listing = s3.get_object(**place)["Body"].read()
    s3.delete_object(**place)
    late = {"repo-url": repository, "revision": commit, "data-path": "data/late", "arrival-timeout-seconds": "120"}
    start(catalog, first, "dvc-fetch", late, "dvc-fetch-late")

    def said() -> str:
        run = catalog.get("taskrun", "dvc-fetch-late")
        return catalog.log(run) if run.get("status", {}).get("podName") else ""

    eventually(lambda: "it may come until 120 s" in said(), 60)
    s3.put_object(**place, Body=listing)
    run = catalog.completed("taskrun", "dvc-fetch-late", 120)
    assert run["status"]["conditions"][0]["status"] == "True", catalog.log(run)[-1000:]
    results = {item["name"]: item["value"] for item in run["status"]["results"]}
    assert results["dataset-hash"] == out.removesuffix(".dir")


@pytest.fixture(scope="module")
def wrong_runs(catalog: Catalog, first: Finished) -> None:
    """Every Task called wrongly, all at once: none of them gets to what another one uses."""
    for task, case in CASES.items():
        start(catalog, first, task, case.wrong, f"{task}-wrong")


@pytest.mark.parametrize("task", CASES)
def test_a_task_repeats_what_it_did_in_a_run(catalog: Catalog, first: Finished, task: str) -> None:
    versions, route = len(catalog.versions()), catalog.route()
    start(catalog, first, task, {}, f"{task}-again")
    run = catalog.completed("taskrun", f"{task}-again", 300)
    assert run["status"]["conditions"][0]["status"] == "True", catalog.log(run)[-1000:]
    results = {item["name"]: item["value"] for item in run["status"].get("results", [])}
    former = first.task_results(CASES[task].uses)
    assert set(results) == set(former)
    if task in ("dvc-fetch", "pinn-train"):
        assert results == former
    assert catalog.route() == route
    assert len(catalog.versions()) == versions


@pytest.mark.parametrize("task", CASES)
def test_a_task_refuses_in_one_line_and_leaves_empty_results(catalog: Catalog, wrong_runs: None, task: str) -> None:
    route = catalog.route()
    run = catalog.completed("taskrun", f"{task}-wrong", 300)
    assert run["status"]["conditions"][0]["status"] == "False"
    last = catalog.log(run).strip().splitlines()[-1]
    assert last.startswith("error: "), last
    assert CASES[task].says in last
    assert ";" in last, "what and why; then the remedy"
    declared = {result["name"] for result in run["status"]["taskSpec"].get("results", [])}
    assert {item["name"] for item in run["status"].get("results", [])} == declared
    assert catalog.route() == route
