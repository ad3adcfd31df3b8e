"""A local target of a test's own: its servers, a data repository with two revisions, and how to run on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from isotherm import contract
from isotherm_local.cluster import Cluster
from isotherm_local.runner.record import RunRecord
from isotherm_local.runner.run import run_pipeline

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml"
NAMESPACE = "heat"
MODEL = contract.DEFAULT_MODEL_NAME
SMALL = {"restarts": "2"}  # two are enough to tell a spread; the gate is the real one


@dataclass
class Target:
    """A local target, a data repository with two revisions, and the runs so far."""

    cluster: Cluster
    state: Path
    repository: Path
    revisions: list[str]

    def run(self, name: str, revision: int = 0, **params: str) -> RunRecord:
        """Run the Pipeline in NAMESPACE; params are given with underscores."""
        chosen = {name.replace("_", "-"): value for name, value in params.items()}
        given = {"repo-url": str(self.repository), "revision": self.revisions[revision], "data-path": "data/heatinv"}
        return self.start(RUN, name, {**SMALL, **given, **self.place(), **chosen})

    def place(self) -> dict[str, str]:
        """The params that say where the servers are."""
        urls = {"mlflow-uri": self.cluster.mlflow_url, "router-url": self.cluster.router_url}
        return {**urls, "tls-termination": "none", "allow-source-image": "true"}

    def start(self, file: Path, name: str, params: dict[str, str]) -> RunRecord:
        """Run any PipelineRun, replacing a former one of that name."""
        return run_pipeline(
            file, state=self.state, namespace=NAMESPACE, params=params, name=name, delete_first=True, root=ROOT
        )

    def reports(self, run: str) -> Path:
        """The folder of a run's reports."""
        return self.state / "namespaces" / NAMESPACE / "pvcs" / "isotherm" / "runs" / run / "reports"

    def live_version(self) -> str:
        """What the Route's answers say they are."""
        host = f"{MODEL}-{NAMESPACE}.apps.localhost"
        url = f"{self.cluster.router_url}/predict-temperature?x=0.5&y=0.5&t=0.1"
        answers = {
            httpx.get(url, headers={"Host": host}).headers[contract.HEADER_MODEL_VERSION.lower()] for _ in range(20)
        }
        assert len(answers) == 1
        return answers.pop()

    def registry(self) -> Any:
        """A client of the target's MLflow."""
        from mlflow import MlflowClient

        return MlflowClient(self.cluster.mlflow_url, registry_uri=self.cluster.mlflow_url)


def publish(home: Path, points: int, seed: int) -> str:
    """Add a HeatInv batch to the data repository; return its commit."""
    python, batch = str(ROOT / ".venv/data/bin/python"), home / "heatinv"
    generate = ["isotherm.data.generate", "heatinv", str(batch), "--points", str(points), "--seed", str(seed)]
    publish = ["isotherm.data.publish", str(batch), str(home / "repository"), "--remote", str(home / "remote")]
    subprocess.run(["rm", "-rf", str(batch)], check=True)
    subprocess.run([python, "-m", *generate], check=True, capture_output=True)
    done = subprocess.run([python, "-m", *publish], check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


@contextmanager
def started(home: Path) -> Iterator[Target]:
    """Start a local target below a folder, with two revisions of the measurements."""
    cluster = Cluster(home / "state")
    cluster.start()
    try:
        revisions = [publish(home, 1000, 1), publish(home, 1200, 2)]
        yield Target(cluster, home / "state", home / "repository", revisions)
    finally:
        cluster.stop()
