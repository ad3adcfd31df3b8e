"""A Task's program as a process forked from one that has imported MLflow, PyTorch and the API's client already.

It begins in milliseconds where a start from nothing takes seconds of imports, and is killed as any other process is.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import kubernetes.config
import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([
    "__main__", "h5py", "kubernetes.config", "matplotlib.figure", "matplotlib.backends.backend_agg", "mlflow",
    "mlflow.pytorch", "mlflow.tracking", "torch", "torch.export._trace",
])  # fmt: skip


class Life:
    """One run of `python -m MODULE ARGUMENTS`, its log in `folder/log`."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self._process = _CONTEXT.Process(target=_live, args=(list(command), dict(variables), str(folder)))
        self._process.start()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def signal(self, number: int) -> None:
        """Any other signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired` where it goes on for longer."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a Task's program", seconds or 0)
        return self._process.exitcode


def _live(command: list[str], variables: dict[str, str], folder: str) -> None:
    """Become the program: its variables and no others, its folder, its log, random numbers of its own."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with Path("log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    random.seed()
    importlib.reload(kubernetes.config.kube_config)  # it read KUBECONFIG while it was imported
    importlib.reload(kubernetes.config)
    if threads := variables.get("OMP_NUM_THREADS"):  # OpenMP read its own when it was loaded
        torch.set_num_threads(int(threads))
    _, module, *arguments = command
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
