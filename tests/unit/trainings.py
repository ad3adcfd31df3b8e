"""Small problems and trainings that several tests share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isotherm.data import benchmarks, schema
from isotherm.physics.problem import Problem
from isotherm.pinn import model, objective, prepare, recipe
from isotherm.pinn.networks import Architecture
from isotherm.pinn.wishes import Wishes

LINEAGE = {
    "ISOTHERM_GIT_SHA": "a" * 40,
    "IMAGE_REF": "source-sha256:0",
    "PIPELINE_RUN": "run-1",
    "DATA_GIT_SHA": "b" * 40,
}


def heatinv(folder: Path, rows: int = 120) -> Path:
    """A HeatInv dataset."""
    benchmarks.generate(folder, n=rows, seed=3)
    return folder


def plate(folder: Path, **changes: Any) -> Path:
    """A heated plate in SI units whose sensors share their times; the numbers are made up, the closure is real."""
    content = {
        "schema_version": 1,
        "id": "plate",
        "title": "A plate",
        "units": {"x": "m", "t": "s", "u": "degC", "a": "m2/s"},
        "domain": {"x": [0, 0.2], "y": [0, 0.1], "t": [0, 500]},
        "scales": {"length": 0.1, "time": 500, "u": 10, "u_offset": 20},
        "sigma": 0.1,
        "source": {
            "kind": "area-mean-closure",
            "b": {"value": 1e-3, "relative_sigma": 0.2},
            "s": {"value": 0.03, "relative_sigma": 0.1},
            "x0": [0.1, 0.05],
            "ambient": "ambient.csv",
        },
        "boundary_u": {"kind": "insulated"},
        "initial_u": {"kind": "value", "value": 20},
        "a_boundary": {"kind": "unknown"},
        "a_model": {"kind": "constant"},
    } | changes
    x, y, t = (
        axis.ravel() for axis in np.meshgrid([0.02, 0.07, 0.13, 0.18], [0.02, 0.05, 0.08], np.arange(0, 501, 50.0))
    )
    sensor = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)[1]
    u = 20 + t / 500 * 5 * np.exp(-((x - 0.1) ** 2 + (y - 0.05) ** 2) / 0.004)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ambient.csv").write_text("t,ambient\n0,20\n500,21\n")
    schema.write(folder, schema.Batch(x, y, t, u, None, sensor), Problem.model_validate(content), "h5")
    return folder


def inputs_of(folder: Path) -> prepare.Inputs:
    """Load and prepare a dataset."""
    return prepare.prepare(schema.load(folder), folder)


def small_objective(
    folder: Path, architecture: Architecture, where: torch.device | str = "cpu", **weights: float
) -> objective.Objective:
    """Every term of a problem on few points, on a device."""
    inputs = inputs_of(folder)
    chosen = {"w_pde": 2.0, "w_bc": 3.0, "w_ic": 4.0, "a_reg": 0.5, "f_reg": 0.25} | weights
    built = model.Model(inputs.setting(), architecture).to(torch.device(where))
    counts = objective.Counts(interior=40, boundary=20, initial=15)
    return objective.build(built, inputs.train.tensors(), objective.Weights(**chosen), counts, seed=1)


def plan_of(folder: Path, **wishes: Any) -> recipe.Recipe:
    """Resolve a recipe for a dataset."""
    return recipe.resolve(Wishes(**wishes), schema.load(folder).problem)


def start(folder: Path, work: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """Start the trainer's program on a dataset."""
    command = [sys.executable, "-m", "isotherm.pinn.train", "--data", str(folder), *flags]
    command += ["--model-dir", str(work / "model"), "--reports-dir", str(work / "reports")]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "RESULT_"))}
    env = clean | LINEAGE | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a training and return its log; it must have succeeded."""
    log, _ = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return log


def kill_after_checkpoint(process: subprocess.Popen[str], work: Path) -> None:
    """SIGKILL a training as soon as a checkpoint is on disk, before it is done."""
    deadline = time.monotonic() + 120
    while not list((work / "model" / "checkpoints").rglob("*.ckpt")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def final_parameters(work: Path) -> list[torch.Tensor]:
    """Parameters of every finished restart."""
    from isotherm.pinn import checkpoint

    folders = sorted({path.parent for path in (work / "model" / "checkpoints").rglob("*.ckpt")})
    found = [checkpoint.load(folder, restart) for folder in folders for restart in range(3)]
    return [state.theta for state, _ in (f for f in found if f is not None) if state.done]
