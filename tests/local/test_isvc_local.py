"""Driver isvc with real predictors and a real HAProxy: the local target follows `spec.canary` as Open Data Hub does."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from split_target import deployed, requested
from waiting import beside

from isotherm import contract, kube
from isotherm.deploy import canary, settle, shift, splits, store
from isotherm.deploy.bake import Pace
from isotherm_local.cluster import Cluster

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import onnx_models

NAME, NAMESPACE = "plate", "plates"
STEPS = canary.Settings(steps=(20,), pace=Pace(0.5, 1.0, 60), probes_per_second=50, latency_seconds=5)


@dataclass
class Local:
    """A running target and the models in its claim, by what their `u` is shifted by."""

    target: Cluster
    cluster: kube.Cluster
    folder: Path

    def model(self, shift_of_u: float) -> str:
        """Put a model where kserve-deploy copies it to; return its digest."""
        digest = onnx_models.write_bundle(self.folder / "new", shift=shift_of_u)
        claim = self.target.state / "namespaces" / NAMESPACE / "pvcs" / "claim" / "models"
        place = claim / store.locate("pvc://claim/models", NAME, digest).relative.removeprefix("models/")
        shutil.copytree(self.folder / "new", place, dirs_exist_ok=True)
        shutil.rmtree(self.folder / "new")
        return digest

    def shift(self, colour: str, digest: str, version: str, uid: str, settings: canary.Settings | None = None) -> dict:
        """Shift within this process."""
        request = requested(
            NAME, colour, uid, model_digest=digest, model_version=version, router_url=self.target.router_url,
            verify_requests=60, verify_timeout_seconds=20.0,
        )  # fmt: skip
        return shift.Shifter(request, self.cluster, settings, self.folder / "reports").shift()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    from kubernetes import config

    target = Cluster(tmp_path / "state", reload_seconds=0.1, with_mlflow=False)
    target.start()
    client = config.new_client_from_config(str(target.kubeconfig(NAMESPACE)))
    try:
        yield Local(target, kube.Cluster(client, NAMESPACE, deadline_seconds=5), tmp_path)
    finally:
        target.stop()


def test_a_canary_takes_over_from_the_predictor_without_a_lost_request(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "DRAIN_SECONDS", 1.0)  # of this router, which reloads at once
    one, two = local.model(0.0), local.model(1.0)
    deployed(local.cluster, NAME, one, "1", "run-1")
    assert deployed(local.cluster, NAME, two, "2", "run-2").choice.colour == "green"
    split = splits.Splits(local.cluster, NAME).require(NAME)
    assert (split.admitted, dict(split.weights)) == (True, {"blue": 100, "green": 0})
    answered = Counter[str]()

    def ask(ended: threading.Event) -> None:
        with httpx.Client(trust_env=False) as client:
            while not ended.is_set():
                client.cookies.clear()
                url = f"{local.target.router_url}/v2/models/{contract.SERVED_MODEL_NAME}"
                answer = client.get(url, headers={"Host": split.host, "Connection": "close"})
                answered[answer.headers.get(contract.HEADER_MODEL_DIGEST, str(answer.status_code))] += 1
                time.sleep(0.02)

    with beside(ask):
        report = local.shift("green", two, "2", "run-2", STEPS)
    assert (report["problem"], report["outcome"], report["live_digest"]) == ("", "shifted", two)
    assert set(answered) == {one, two}
    split = splits.Splits(local.cluster, NAME).require(NAME)
    assert (split.live, split.canary, split.colours["blue"].digest) == ("blue", None, two)
    # Back to the first model: a shift of its own.
    deployed(local.cluster, NAME, one, "1", "run-3")
    assert local.shift("green", one, "1", "run-3")["live_digest"] == one
