"""GPUs of the train step: what an overlay's settings ask of the scheduler, and a device that is not there.

The lab has no GPU: its node says that it has one, as a device plugin would, and the trainer then finds none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from waiting import eventually

from e2e.cluster import Finished, Object
from e2e.conftest import Catalog
from e2e.test_install import own_overlay, rendered
from e2e.test_tasks import start

pytestmark = pytest.mark.core
GPU = "nvidia.com/gpu"


@pytest.fixture
def task(tmp_path: Path) -> Object:
    """Task pinn-train as an overlay makes it whose settings ask for a GPU."""
    settings = own_overlay(tmp_path, "settings", "image-ref") / "settings.yaml"
    content = yaml.safe_load(settings.read_text())
    content["data"] |= {"train-gpus": "1", "train-device": "auto"}
    settings.write_text(yaml.safe_dump(content))
    [found] = [one for one in rendered(tmp_path) if (one["kind"], one["metadata"]["name"]) == ("Task", "pinn-train")]
    return dict(found["spec"])


@pytest.fixture
def advertise(catalog: Catalog) -> Iterator[Callable[[], None]]:
    """Let the node say that it has a GPU, until the test ends."""
    [node] = json.loads(catalog.target.kubectl("get", "nodes", "-o", "json"))["items"]
    path = f"/status/capacity/{GPU.replace('/', '~1')}"

    def patch(change: Object) -> None:
        name = node["metadata"]["name"]
        catalog.target.kubectl("patch", "node", name, "--subresource=status", "--type=json", "-p", json.dumps([change]))

    told: list[bool] = []

    def add() -> None:
        patch({"op": "add", "path": path, "value": "1"})
        told.append(True)

    yield add
    if told:
        patch({"op": "remove", "path": path})


def test_a_training_that_asks_for_a_gpu_waits_for_a_node_that_has_one(
    catalog: Catalog, first: Finished, task: Object, advertise: Callable[[], None]
) -> None:
    start(catalog, first, "pinn-train", {}, "train-gpu", task)

    def pod() -> Object:
        return catalog.get("pod", catalog.get("taskrun", "train-gpu")["status"]["podName"])

    def refused() -> bool:
        if not catalog.get("taskrun", "train-gpu").get("status", {}).get("podName"):
            return False
        return any(GPU in str(one.get("message")) for one in pod()["status"].get("conditions", []))

    eventually(refused, 60)
    limits = [one["resources"].get("limits", {}) for one in pod()["spec"]["containers"]]
    assert [one[GPU] for one in limits if GPU in one] == ["1"]
    advertise()
    run = catalog.completed("taskrun", "train-gpu", 180)
    assert run["status"]["conditions"][0]["status"] == "True", catalog.log(run)[-1000:]
    assert "restarts on cpu" in catalog.log(run)
    assert {item["name"]: item["value"] for item in run["status"]["results"]} == first.task_results("train")


def test_a_training_on_a_gpu_that_is_not_there_is_refused(catalog: Catalog, first: Finished) -> None:
    start(catalog, first, "pinn-train", {"device": "cuda"}, "train-cuda")
    run = catalog.completed("taskrun", "train-cuda", 120)
    assert run["status"]["conditions"][0]["status"] == "False"
    last = catalog.log(run).strip().splitlines()[-1]
    assert last.startswith("error: device cuda is asked for, but PyTorch")
