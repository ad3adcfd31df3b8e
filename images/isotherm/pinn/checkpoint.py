"""Checkpoints that a kill cannot spoil: written aside, flushed, renamed, with their own sha256; the last two are kept.

A file is one line `sha256:<hex>` and then a NumPy archive without pickles: theta, the history, the counters as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import torch

from isotherm import tekton
from isotherm.pinn.levenberg import State

KEEP = 2
_NAME = re.compile(r"restart-(\d+)\.(\d{8})\.ckpt")


def save(folder: Path, restart: int, state: State, moments: dict[str, torch.Tensor] | None = None) -> Path:
    """Write a restart's state; `moments` are the optimiser's own vectors, where it has any."""
    columns = list(state.history[0]) if state.history else []
    table = np.array([[row[name] for name in columns] for row in state.history], dtype=np.float64)
    arrays = {f"moment_{name}": value.cpu().numpy() for name, value in (moments or {}).items()}
    header = json.dumps({"numbers": state.numbers(), "columns": columns})
    buffer, theta = io.BytesIO(), state.theta.cpu().numpy()
    np.savez(buffer, theta=theta, history=table, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    body = buffer.getvalue()
    path = folder / f"restart-{restart}.{state.iteration:08d}.ckpt"
    tekton.write_atomic(path, f"sha256:{hashlib.sha256(body).hexdigest()}\n".encode() + body)
    for older in _files(folder, restart)[:-KEEP]:
        older.unlink(missing_ok=True)
    return path


def load(folder: Path, restart: int) -> tuple[State, dict[str, torch.Tensor]] | None:
    """Read the newest whole state of a restart and its optimiser's vectors; None where there is none.

    A file that does not agree with its own sha256 is passed over for the one before it.
    """
    for path in reversed(_files(folder, restart)):
        first, _, body = path.read_bytes().partition(b"\n")
        if first != f"sha256:{hashlib.sha256(body).hexdigest()}".encode():
            continue
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            history = [dict(zip(header["columns"], map(float, row), strict=True)) for row in archive["history"]]
            moments = {n.removeprefix("moment_"): torch.from_numpy(archive[n]) for n in archive if "moment_" in n}
            state = State(theta=torch.from_numpy(archive["theta"]), history=history, **header["numbers"])
        return state, moments
    return None


def _files(folder: Path, restart: int) -> list[Path]:
    found = [path for path in folder.glob(f"restart-{restart}.*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found)
