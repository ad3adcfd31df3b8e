"""A real MLflow server on SQLite in a temporary folder, for any test that talks to a registry."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isotherm import contract

START_SECONDS = 120


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's own server as the local target does; its log is `folder/server.log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "isotherm_local.mlflow_server", "--folder", str(folder), "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers; fail with its log when it ended or never did."""
    for _ in range(START_SECONDS * 5):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    stop(server)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-3000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker (its own process group) and wait for it."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def log_model(
    url: str, folder: Path, digest: str, *, tags: dict[str, str] | None = None, metadata: dict[str, Any] | None = None
) -> tuple[str, str]:
    """Log a run with all lineage tags and a model without weights; return its URI and the run's id.

    `tags` and `metadata` (of model.json) replace what a training would write; a tag of "" is left out.
    """
    from mlflow import MlflowClient

    client = MlflowClient(url)
    lineage = {tag: f"{tag} of {digest[:6]}" for tag in contract.LINEAGE_TAGS} | {contract.TAG_MODEL_DIGEST: digest}
    lineage |= {contract.TAG_PROBLEM: f"heatinv:{contract.EQUATION}"} | (tags or {})
    run = client.create_run("0", tags={name: value for name, value in lineage.items() if value})
    client.log_metric(run.info.run_id, contract.PDE_LOSS, 2.5e-4)
    logged = client.create_logged_model(
        "0", name="model", source_run_id=run.info.run_id, tags={contract.TAG_MODEL_DIGEST: digest}
    )
    model: dict[str, Any] = {
        "model_digest": digest,
        "domain": {"x": [-1, 1], "y": [-1, 1], "t": [0, 1]},
        "units": {"u": "1"},
    }
    extra = folder / logged.model_id / "extra_files"
    extra.mkdir(parents=True)
    points = {"name": contract.ONNX_POINTS, "dtype": "float64", "shape": ["n", 3], "unit": ["1", "1", "1"]}
    outputs = [{"name": contract.ONNX_U, "dtype": "float64", "shape": ["n"], "unit": "1"}]
    model |= {"signature": {"inputs": [points], "outputs": outputs}} | (metadata or {})
    (extra / contract.MODEL_METADATA).write_text(json.dumps(model))
    (extra.parent / "MLmodel").write_text(f"artifact_path: model\nmodel_id: {logged.model_id}\nflavors: {{}}\n")
    client.log_model_artifacts(logged.model_id, str(extra.parent))
    client.finalize_logged_model(logged.model_id, "READY")
    client.set_terminated(run.info.run_id)
    return f"models:/{logged.model_id}", run.info.run_id


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server shared by the session: tests keep apart by model and experiment names."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    server = start(folder, port)
    try:
        wait_until_up(server, url, folder / "server.log")
        yield url
    finally:
        stop(server)
