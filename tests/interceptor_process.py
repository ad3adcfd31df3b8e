"""The catalog's interceptor as a process of this machine, in plain HTTP and without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from waiting import eventually

from isotherm_local.ports import free_port

IMAGES = Path(__file__).parents[1] / "images"


@contextmanager
def running(folder: Path, secret: str) -> Iterator[str]:
    """Start it with one secret in a folder; gives the URL that checks MLflow's events."""
    (folder / "current").write_text(secret)
    port = free_port()
    environment = {**os.environ, "SECRETS_DIR": str(folder), "PYTHONPATH": str(IMAGES)}
    command = [sys.executable, "-m", "isotherm.events.interceptor", "--plain", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), 30)
        yield f"http://127.0.0.1:{port}/mlflow"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False
