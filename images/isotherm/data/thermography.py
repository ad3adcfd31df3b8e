"""Infrared frames of a heated plate as a dataset: the published pouch cell (doi 10.1002/batt.202100401).

Inputs   Exp.mat (E[y, x, t] in degC at xe, ye in mm), Ta.txt (ambient), LICENSE.txt and SOURCE.txt
Outputs  measurements in m, s and degC, problem.yaml, ambient.csv, and the licence beside them
Frame    plate 190 mm x 150 mm with its origin at the corner from which xe and ye count, both axes increasing
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm import tekton
from isotherm.data import schema
from isotherm.physics.problem import Problem

Array = NDArray[np.float64]

PLATE_M = (0.190, 0.150)
BIN_SECONDS = 40.0
SIGMA_K = 0.1  # with each point's constant offset; frame to frame the noise is 0.017 K
INITIAL_DEGC = 18.05
CITATION = "Lin et al., Batteries & Supercaps 2022, doi 10.1002/batt.202100401"
NOTICES = ("LICENSE.txt", "SOURCE.txt")

PROBLEM: dict[str, object] = {
    "schema_version": 1,
    "id": "battery-pouch-cell",
    "title": "20 Ah pouch cell, infrared, 121 points",
    "units": {"x": "m", "t": "s", "u": "degC", "a": "m2/s"},
    "scales": {"length": 0.1, "time": 1000, "u": 10, "u_offset": INITIAL_DEGC},
    "sigma": SIGMA_K,
    "source": {
        "kind": "area-mean-closure",
        "b": {"value": 1.2e-3, "relative_sigma": 0.2},
        "s": {"value": 0.0285, "relative_sigma": 0.05},
        "x0": [0.09524, 0.07308],  # the middle of the heated disc
        "ambient": "ambient.csv",
    },
    "boundary_u": {"kind": "insulated"},
    "initial_u": {"kind": "value", "value": INITIAL_DEGC},
    "a_boundary": {"kind": "unknown"},
    "a_model": {"kind": "constant"},
    "reference_a": {"kind": "value", "value": 1.10e-5},
    "gate": {"val_residual_max": 3e-2, "val_misfit": [0.5, 2.0]},
}


def read_frames(source: Path) -> tuple[Array, Array, Array]:
    """Read Exp.mat: x [nx] and y [ny] in m, u [ny, nx, nt] in degC, one frame a second from t = 0.

    Raises `BadInput` where the file is missing or not of that shape.
    """
    from scipy.io import loadmat

    file = source / "Exp.mat"
    try:
        content: dict[str, Any] = loadmat(file, variable_names=["E", "xe", "ye"])
        x, y = content["xe"].ravel() * 1e-3, content["ye"].ravel() * 1e-3
        u = np.asarray(content["E"], dtype=np.float64)
    except FileNotFoundError:
        raise tekton.BadInput(
            f"{file} does not exist", remedy="give the folder that holds Exp.mat and Ta.txt"
        ) from None
    except Exception as error:  # scipy raises a dozen types for a file that is not what it should be
        what = f"{file} is not the measurement ({type(error).__name__}: {error})"
        raise tekton.BadInput(what, remedy="fetch it again") from None
    if u.ndim != 3 or u.shape[:2] != (y.size, x.size) or u.shape[2] < 2:
        what = f"{file}: E has the shape {u.shape}, xe {x.size} and ye {y.size} values"
        raise tekton.BadInput(what, remedy="fetch it again")
    return x, y, u


def bin_frames(u: Array, seconds: float) -> tuple[Array, Array]:
    """Average frames [ny, nx, nt], one a second, over bins of `seconds`: t [n] in s, u [ny, nx, n].

    0 keeps every frame.
    """
    t = np.arange(u.shape[2], dtype=np.float64)
    if seconds == 0:
        return t, u
    starts = np.flatnonzero(np.diff(np.floor(t / seconds), prepend=-1))
    frames = np.diff(starts, append=t.size)
    binned: Array = np.add.reduceat(u, starts, axis=2) / frames
    return np.add.reduceat(t, starts) / frames, binned


def to_batch(x: Array, y: Array, t: Array, u: Array) -> schema.Batch:
    """Lay out u [ny, nx, nt] as rows, sensor by sensor; `sensor_id` counts the points of the first frame row by row."""
    ny, nx, nt = u.shape
    return schema.Batch(
        x=np.tile(np.repeat(x, nt), ny),
        y=np.repeat(y, nx * nt),
        t=np.tile(t, ny * nx),
        u=u.ravel(),
        sensor_id=np.repeat(np.arange(ny * nx, dtype=np.int64), nt),
    )


def write_ambient(source: Path, out: Path) -> None:
    """Rewrite Ta.txt (rows `t ambient`) as the dataset's ambient.csv.

    Raises `BadInput` where it is missing or malformed.
    """
    file = source / "Ta.txt"
    try:
        rows = np.loadtxt(file, dtype=np.float64, ndmin=2, usecols=(0, 1))
    except FileNotFoundError:
        raise tekton.BadInput(
            f"{file} does not exist", remedy="give the folder that holds Exp.mat and Ta.txt"
        ) from None
    except ValueError as error:
        raise tekton.BadInput(f"{file}: {error}", remedy="fetch it again") from None
    tekton.write_atomic(out / "ambient.csv", "t,ambient\n" + "".join(f"{t:.10g},{v:.10g}\n" for t, v in rows))


def import_measurement(
    source: Path, out: Path, *, bin_seconds: float = BIN_SECONDS, fmt: schema.Format = "h5"
) -> schema.Dataset:
    """Write the infrared measurement as a dataset folder; the same input gives the same bytes."""
    if not 0 <= bin_seconds < np.inf:
        raise tekton.BadInput(f"bins of {bin_seconds} s", remedy="give a number of seconds, 0 for every frame")
    x, y, frames = read_frames(source)
    t, u = bin_frames(frames, bin_seconds)
    if t.size < 2:
        what = f"bins of {bin_seconds:g} s leave one time level"
        raise tekton.BadInput(what, remedy=f"give fewer than {frames.shape[2]} seconds")
    box = {"x": [0, PLATE_M[0]], "y": [0, PLATE_M[1]], "t": [0, frames.shape[2] - 1]}
    problem = Problem.model_validate({**PROBLEM, "domain": box})
    metadata = {
        "title": str(PROBLEM["title"]),
        "source": "github.com/Battery-Intelligence-Lab/battery-thermal-characterisation, Exp.mat and Ta.txt",
        "licence": "BSD-2-Clause, (c) 2022 University of Oxford; LICENSE.txt lies beside this file",
        "citation": CITATION,
        "binning": f"means over {bin_seconds:g} s" if bin_seconds else "none, every frame",
    }
    write_ambient(source, out)
    for notice in NOTICES:
        if (source / notice).is_file():
            tekton.write_atomic(out / notice, (source / notice).read_bytes())
    schema.write(out, to_batch(x, y, t, u), problem, fmt, metadata=metadata)
    print(f"{t.size} time levels ({metadata['binning']}) at {x.size * y.size} points")
    return schema.load(out)
