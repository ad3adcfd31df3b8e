"""How fast the predictor answers on loopback: one point, and 1,000 points in one request, by every endpoint.

Starts a real server in the predictor's own environment, prediction log included, and asks one request after the other
over a kept connection. Without --model the graph is a few operations: its time is what the server itself takes.
Usage: python tests/bench/predictor_latency.py [--requests 1000] [--model FOLDER] [--json]
Figures: milliseconds from the request's first byte sent to the answer's last byte read; seconds from exec to the first
answer; MiB resident.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bars import ROOT

from isotherm import contract

sys.path.insert(0, str(ROOT / "tests/unit"))
import onnx_models

PYTHON = ROOT / ".venv/pinn-api/bin/python"
V1 = f"/v1/models/{contract.SERVED_MODEL_NAME}:predict"
V2 = f"/v2/models/{contract.SERVED_MODEL_NAME}/infer"
WARM_UP = 50


@contextmanager
def predictor(model: Path, log_dir: Path) -> Iterator[tuple[int, float, int]]:
    """Run a predictor; yields its port, the seconds until its first answer, and its pid."""
    described = json.loads((model / contract.MODEL_METADATA).read_text())
    variables = {
        contract.ENV_MODEL_VERSION: "1.0.0",
        contract.ENV_MODEL_DIGEST: described["model_digest"],
        contract.ENV_TRACK: "blue",
        contract.ENV_HTTP_HOST: "127.0.0.1",
        contract.ENV_PREDICTION_LOG_DIR: str(log_dir),
    }
    command = [PYTHON, "-m", "isotherm.predictor.serve", f"--model_dir={model}", "--http_port=0"]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=inherited | variables, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        yield port, time.perf_counter() - began, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def bodies(points: list[list[float]]) -> dict[str, tuple[str, str, bytes | None]]:
    """Return the request of each endpoint for these points: method, path, body."""
    v1 = json.dumps({"instances": points}).encode()
    flat = np.array(points).ravel().tolist()
    tensor = {"name": contract.ONNX_POINTS, "datatype": "FP64", "shape": [len(points), 3], "data": flat}
    found: dict[str, tuple[str, str, bytes | None]] = {
        "v1": ("POST", V1, v1),
        "v2": ("POST", V2, json.dumps({"inputs": [tensor]}).encode()),
        "predict": ("POST", "/predict", v1),
    }
    if len(points) == 1:
        x, y, t = points[0]
        found["get"] = ("GET", f"/predict-temperature?x={x}&y={y}&t={t}", None)
    return found


def milliseconds(port: int, method: str, path: str, body: bytes | None, requests: int) -> list[float]:
    """Ask `requests` times over one connection and return the time of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times = []
    for _ in range(WARM_UP + requests):
        began = time.perf_counter()
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        times.append(1e3 * (time.perf_counter() - began))
        if answer.status != 200:
            raise RuntimeError(f"{method} {path} answered {answer.status}")
    return times[WARM_UP:]


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(model: Path | None = None, requests: int = 1000) -> dict[str, Any]:
    """Return p50, p95 and p99 by endpoint and number of points, start seconds and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        if model is None:
            model = Path(scratch) / "model"
            onnx_models.write_bundle(model)
        domain = json.loads((model / contract.MODEL_METADATA).read_text())["domain"]
        low, high = np.array([domain["x"], domain["y"], domain["t"]], dtype=float).T
        rng = np.random.default_rng(0)
        table: dict[str, Any] = {"requests": requests}
        with predictor(model, Path(scratch) / "log"):
            pass  # the first start of an environment compiles its modules
        with predictor(model, Path(scratch) / "log") as (port, seconds, pid):
            table["start_seconds"] = seconds
            for size in (1, 1000):
                for name, (method, path, body) in bodies(rng.uniform(low, high, (size, 3)).tolist()).items():
                    times = milliseconds(port, method, path, body, requests)
                    p50, p95, p99 = np.percentile(times, [50, 95, 99])
                    table[f"{name}_{size}"] = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(times)}
            table["resident_mib"] = resident_mib(pid)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--model", type=Path, help="a model folder; without it, a small one is made")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.requests)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            shown = "  ".join(f"{k} {v:7.2f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.2f}"
            print(f"{name:<14} {shown}")
