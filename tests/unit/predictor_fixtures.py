"""A real predictor process in the image family's own environment, on a free port of loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx_models
from prometheus_client.parser import text_string_to_metric_families

from isotherm import contract

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv/pinn-api/bin/python"
VERSION = "1.3.0"
V1 = f"/v1/models/{contract.SERVED_MODEL_NAME}:predict"
V2 = f"/v2/models/{contract.SERVED_MODEL_NAME}/infer"
PREDICTIONS = ("/predict", V1, V2, "/predict-temperature")
POINT = [0.5, 0.25, 0.1]


@dataclass
class Server:
    """A running predictor: where it answers, what it serves, and where it logs."""

    process: subprocess.Popen[str]
    http: httpx.Client
    port: int
    digest: str
    started: dict[str, Any]
    log_dir: Path

    def metrics(self) -> dict[str, float]:
        """Scrape `/metrics`: sample name -> value, for samples without a label of their own (buckets left out)."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name.startswith("pinn_")]
        assert all({"version": VERSION, "track": "blue"}.items() <= sample.labels.items() for sample in samples)
        return {sample.name: sample.value for sample in samples if "le" not in sample.labels}

    def logged(self) -> list[dict[str, Any]]:
        """Every line of the prediction log."""
        files = sorted(self.log_dir.glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def start(model_dir: Path, digest: str, *, port: int = 0, **env: str) -> subprocess.Popen[str]:
    """Start the server's process without waiting for anything."""
    variables = {"MODEL_VERSION": VERSION, "MODEL_DIGEST": digest, "TRACK": "blue", "HTTP_HOST": "127.0.0.1", **env}
    command = [PYTHON, "-m", "isotherm.predictor.serve", f"--model_dir={model_dir}", f"--http_port={port}"]
    pipe = subprocess.PIPE
    # A first start compiles the SDK's modules (seconds); its own environment keeps them for the next.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(command, env=inherited | variables, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Server]:
    """Serve a bundle made with `options` (see onnx_models) from `folder`; SIGTERM at the end must exit with 0."""
    digest = onnx_models.write_bundle(folder / "model", **options)
    log_dir = folder / "log"
    process = start(folder / "model", digest, PREDICTION_LOG_DIR=str(log_dir))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        started = json.loads(line)
        url = f"http://127.0.0.1:{started['port']}"
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield Server(process, client, started["port"], digest, started, log_dir)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def tensors(points: list[Any], **more: Any) -> dict[str, Any]:
    data = np.array(points).ravel().tolist()
    return {"inputs": [{"name": "points", "datatype": "FP64", "shape": [len(points), 3], "data": data}], **more}


def answered(response: httpx.Response, server: Server) -> Any:
    """The JSON of a response, after the headers that every response carries."""
    assert response.headers["x-model-version"] == VERSION
    assert response.headers["x-model-digest"] == server.digest
    return response.json()


def rows(value: str) -> bytes:
    return f'{{"instances": {value}}}'.encode()
