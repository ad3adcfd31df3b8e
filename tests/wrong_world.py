"""What the ten wrong inputs meet: a local target that serves a model, with data, reports and registered versions in it.

`world(...)` starts it; `World.run` and `World.call` do what a user does; `World.kept` tells what must be byte for byte
the same afterwards, `World.torn` what must not be there at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow_server
import yaml
from deploy_target import CLAIM, ROOT, Model, Target

from isotherm import contract
from isotherm.data import benchmarks, publish

LOCAL_PYTHON = ROOT / ".venv/local/bin/python"
EXAMPLE = ROOT / "pipelines/inverse-heat-pinn/runs/heatinv.yaml"
LIMIT_SECONDS = 400
NAMESPACE = "wrong"
CANDIDATE = "candidate"  # the run whose bundle is evaluated


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its last line, all that it said, and how long it took."""

    exit: int
    line: str
    said: str
    seconds: float

    def problem(self) -> str:
        """Say what a person at the terminal would miss; empty where nothing is."""
        if self.exit == 0:
            return "exit code 0"
        if not self.line.startswith(("error: ", "setup: ")) or "; " not in self.line:
            return "the last line does not say what, why and what to do"
        return "a traceback" if "Traceback (most recent call last)" in self.said else ""


@dataclass
class World:
    """A namespace of a running local target. `thorough`: no short cuts, every case through the whole Pipeline."""

    target: Target
    folder: Path
    thorough: bool

    @property
    def state(self) -> Path:
        """The local target's state folder."""
        return self.target.local.state

    @property
    def claim(self) -> Path:
        """The folder behind the Pipeline's workspace."""
        return self.state / "namespaces" / NAMESPACE / "pvcs" / CLAIM

    @property
    def model(self) -> Model:
        """The version that serves."""
        return self.target.models[0.0]

    @property
    def repository(self) -> str:
        """The data repository; `data/heatinv` is good."""
        return str(self.folder / "repository")

    @cached_property
    def environment(self) -> dict[str, str]:
        """What a command starts with; temporary files come where `torn` sees them."""
        for name in ("tmp", "home"):
            (self.folder / name).mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
        private = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "OMP_NUM_THREADS": "2"}
        return kept | private | {"PYTHONDONTWRITEBYTECODE": "1"}

    def call(self, *command: str, before: Sequence[str] = (), **variables: str) -> Ended:
        """Run a command; `before` is put in front of it (a private mount, say)."""
        began = time.monotonic()
        done = subprocess.run(
            [*before, *command],
            env=self.environment | variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )
        said = done.stdout + done.stderr
        last = next((line for line in reversed((done.stdout + "\n" + done.stderr).splitlines()) if line.strip()), "")
        return Ended(done.returncode, last, said, round(time.monotonic() - began, 1))

    def run(self, file: Path, *options: str, name: str, before: Sequence[str] = (), **params: str) -> Ended:
        """Run a PipelineRun or TaskRun as `isotherm run` does."""
        command = [str(LOCAL_PYTHON), "-m", "isotherm_local", "run", str(file), "-n", NAMESPACE, "--name", name]
        given = [part for key, value in params.items() for part in ("-p", f"{key.replace('_', '-')}={value}")]
        return self.call(*command, "--state", str(self.state), *given, *options, before=before)

    def pipeline(self, name: str, *options: str, file: Path = EXAMPLE, **changes: str) -> Ended:
        """Run the example PipelineRun with the params that this world needs, and changes to them."""
        params = {
            "repo_url": self.repository,
            "mlflow_uri": self.target.mlflow_url,
            "router_url": self.target.router_url,
            "tls_termination": "none",
            "allow_source_image": "true",
            "model_name": self.target.model_name,
            "route": self.target.model_name,
            "restarts": "1",
        }
        return self.run(file, *options, name=name, **params | changes)

    def write(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write a YAML file of the user's own."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def record(self, run: str) -> dict[str, Any]:
        """Read what the runner knows of a run."""
        content: dict[str, Any] = json.loads((self.state / f"namespaces/{NAMESPACE}/runs/{run}/run.json").read_text())
        return content

    def log(self, run: str, task: str) -> list[str]:
        """Read the lines of a Task's last attempt."""
        attempts = (self.state / f"namespaces/{NAMESPACE}/runs/{run}/tasks/{task}").glob("attempt-*")
        return (max(attempts) / "log").read_text().splitlines()

    def kept(self) -> dict[str, str]:
        """Everything that a wrong input must leave as it is, by name, with a digest or a version."""
        space = self.state / "namespaces" / NAMESPACE
        folders = (self.claim, space / "runs", *self.state.glob("api/[!e]*"), self.folder / "repository")  # no Events
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        from mlflow import MlflowClient

        registry = MlflowClient(self.target.mlflow_url)
        for version in registry.search_model_versions():
            whole = registry.get_model_version(version.name, version.version)
            found[f"model {version.name} {version.version}"] = json.dumps([dict(whole.tags), sorted(whole.aliases)])
        for part in self.target.local.status():
            found[f"process {part.name}"] = str(part.pid)
        return found

    def torn(self) -> list[str]:
        """Temporary files and bundles that differ from their manifest, in the claim; ours and Python's in TMPDIR."""
        found = [str(path) for path in self.claim.rglob(".*")]
        # Torch and onnxruntime keep caches of their own there.
        found += [str(path) for path in (self.folder / "tmp").iterdir() if path.name.startswith(("isotherm", "tmp"))]
        for manifest in self.claim.rglob(contract.MANIFEST_FILE):
            for line in manifest.read_text().splitlines():
                digest, name = line.split("  ")
                if hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() != digest:
                    found.append(str(manifest.parent / name))
        return found

    @cached_property
    def dataset(self) -> str:
        """Hash of the dataset that is there."""
        report = json.loads((self.claim / "runs/fetched/reports" / contract.REPORT_FETCH).read_text())
        return str(report["dataset_hash"])

    @cached_property
    def candidate(self) -> dict[str, str]:
        """Put a bundle whose temperatures are NaN into the claim; return evaluate-metrics' params for it."""
        return candidate(self)


@contextmanager
def world(folder: Path, mlflow_url: str, *, thorough: bool = False) -> Iterator[World]:
    """Start a target of its own, serve a model on blue, publish and fetch measurements; stop it at the end."""
    from isotherm_local.cluster import Cluster

    local = Cluster(folder / "state", reload_seconds=0.1, with_mlflow=False)
    local.start()
    try:
        target = Target(local, NAMESPACE, mlflow_url, folder, model_name=f"plate-{os.getpid()}")
        made = World(target, folder, thorough)
        target.deploy(target.register(0.0), "run-1")
        benchmarks.generate(folder / "heatinv", n=200, seed=1)
        publish.publish(folder / "heatinv", Path(made.repository), str(folder / "remote"), "data/heatinv", "HeatInv")
        publish_unchecked(made, "data/torn")
        fetched = made.run(fetch_run(made), name="fetched")
        if fetched.exit:
            raise RuntimeError(fetched.said)
        yield made
    finally:
        local.stop()


def workspace(**folders: str) -> list[dict[str, Any]]:
    """Bind a TaskRun's workspaces to folders of the claim."""
    claim = {"claimName": CLAIM}
    return [{"name": name, "subPath": path, "persistentVolumeClaim": claim} for name, path in folders.items()]


def task_run(task: str, params: Mapping[str, str], workspaces: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a TaskRun of the catalog's own Task."""
    listed = [{"name": name, "value": value} for name, value in params.items()]
    spec = {"taskRef": {"name": task}, "params": listed, "workspaces": workspaces}
    return {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": task}, "spec": spec}


def fetch_run(of: World, data_path: str = "data/heatinv") -> Path:
    """Write a TaskRun of dvc-fetch."""
    params = {"repo-url": of.repository, "data-path": data_path}
    places = workspace(data="data", reports="runs/fetched/reports")
    return of.write("fetch", task_run("dvc-fetch", params, places))


def publish_unchecked(of: World, data_path: str) -> None:
    """Track measurements with a NaN in row 17, as somebody does who types `dvc add` and `dvc push`."""
    import h5py

    repository = Path(of.repository)
    shutil.copytree(of.folder / "heatinv", repository / data_path)
    with h5py.File(repository / data_path / "measurements.h5", "r+") as file:
        file["u"][17] = math.nan
    dvc = [sys.executable, "-m", "dvc"]
    for command in ([*dvc, "add", "--quiet", data_path], [*dvc, "push", "--quiet", f"{data_path}.dvc"]):
        subprocess.run(command, cwd=repository, check=True, capture_output=True)
    publish.git(repository, "add", "--", f"{data_path}.dvc", "data/.gitignore")
    publish.git(repository, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "by hand")


def candidate(of: World) -> dict[str, str]:
    """Write the bundle and the training's report, log the model, and name the params that evaluate it."""
    import onnx_models
    import torch

    run = of.claim / "runs" / CANDIDATE
    folder, temperature = run / "model" / "bundle", math.nan
    digest = onnx_models.write_bundle(folder)
    (folder / contract.MODEL_ONNX).write_bytes(onnx_models.graph(shift=temperature))
    onnx_models.write_manifest(folder)

    class Plate(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            x, y, t = points.unbind(1)
            columns = [temperature + 2 * x + 3 * y + 4 * t, 2 + x * y, 0.1 * x, 1 + x * x, y - 0.5]
            return torch.stack(columns, dim=1)

    example = torch.zeros((4, 3), dtype=torch.float64)
    rows = {0: torch.export.Dim("n", min=2)}
    torch.export.save(torch.export.export(Plate(), (example,), dynamic_shapes=(rows,)), folder / "model.pt2")
    (run / "reports").mkdir(exist_ok=True)
    report = {"schema_version": 1, "metrics": {contract.A_SPREAD: 0.01}}
    (run / "reports" / contract.REPORT_TRAIN).write_text(json.dumps(report))
    uri, run_id = mlflow_server.log_model(of.target.mlflow_url, of.folder / "logged", digest)
    shutil.rmtree(of.folder / "logged")
    return {
        "dataset-hash": of.dataset,
        "run-id": run_id,
        "model-uri": uri,
        "model-digest": digest,
        "model-name": of.target.model_name,
        "pde-loss-max": "10",  # the plate solves no equation of HeatInv; its NaN alone shall decide
        "val-residual-max": "10",
        "mlflow-uri": of.target.mlflow_url,
    }
