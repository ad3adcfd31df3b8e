"""Parts of the platform die in the middle of a run: the run converges and nothing is there twice.

One run trains a model of its own. Its training's pod is killed, then, each at the moment at which it matters, the parts
of the platform, with SIGKILL; they are started again where nobody else does, and the same run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from lab import kills, mlflow

from e2e.cluster import Finished
from e2e.conftest import MODEL, OTHER, OTHER_PARAMS, Catalog


@dataclass(frozen=True)
class Case:
    """Which part is killed, and the Task of the run during which it is."""

    part: str
    task: str
    act: Callable[[Callable[..., str]], None]


CASES = (
    Case("tekton", "train", kills.pods("tekton-pipelines", "app.kubernetes.io/name=controller")),
    Case("postgres", "evaluate", kills.daemon("postgres", "postgres", 3)),
    Case("mlflow", "register", kills.daemon("mlflow", "mlflow", 5)),
    Case("kserve", "deploy", kills.pods("kserve", "control-plane=kserve-controller-manager")),
    Case("router", "shift", kills.daemon("router", "router", 2)),
)


@pytest.fixture(autouse=True)
def whole_platform() -> Iterator[None]:
    """Whatever a test did, the next one finds every part ready."""
    yield
    kills.all_ready("router", "postgres", "mlflow", "tekton-pipelines", "kserve")


@pytest.mark.usefixtures("alone")
def test_a_run_whose_pod_and_platform_die_part_by_part_converges_with_nothing_doubled(
    catalog: Catalog, first: Finished
) -> None:
    """One run, in which each part is killed at its moment: the next one when the Task after it has begun."""
    assert catalog.target.mlflow == mlflow.URL, "this test stops servers, so it runs on the lab alone"
    # A slightly worse model may take over: which one is better is not what is tried here.
    name = catalog.run("without", seed="21", min_improvement="-1", **OTHER_PARAMS)
    pod = catalog.running(name, "train")["status"]["podName"]
    killed = catalog.get("pod", pod)["metadata"]["uid"]
    catalog.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    for case in CASES:
        catalog.running(name, case.task)
        print(f"{case.part} dies while {case.task} runs")
        case.act(catalog.target.kubectl)
    ended = catalog.wait(name)
    assert ended.succeeded, (ended.condition, ended.states())
    assert catalog.get("pod", ended.task("train")["status"]["podName"])["metadata"]["uid"] != killed
    assert ended.results["verdict"] == "pass"
    digest = ended.results["model-digest"]
    assert ended.task_results("shift")["live-digest"] == digest
    assert catalog.champion(OTHER).tags["model_digest"] == digest
    assert_nothing_doubled(catalog, name, OTHER)


def assert_nothing_doubled(catalog: Catalog, run: str, model: str) -> None:
    """One version a digest, one MLflow run a PipelineRun, one InferenceService a colour, one Route, one live colour."""
    digests = [version.tags["model_digest"] for version in catalog.versions(model)]
    assert len(digests) == len(set(digests))
    experiment = catalog.registry().get_experiment_by_name(MODEL).experiment_id
    assert len(catalog.registry().search_runs([experiment], f"tags.pipeline_run = '{run}'")) == 1
    names = {item["metadata"]["name"] for item in catalog.get("inferenceservices")["items"]}
    assert names <= {f"{name}-{colour}" for name in (MODEL, OTHER) for colour in ("blue", "green")}
    assert {item["metadata"]["name"] for item in catalog.get("routes")["items"]} <= {MODEL, OTHER, "events"}
    assert sorted(catalog.route(model).values()) == [0, 100]
