"""Measurements of a reference problem whose truth is known (HeatInv), with seeded noise.

Inputs   a number of points, a seed, the noise; optionally a text file of points, one `x y t` a row
Outputs  a dataset folder: measurements, validation (other points, other noise), problem.yaml
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isotherm import contract, tekton
from isotherm.data import schema
from isotherm.physics import heatinv
from isotherm.physics.problem import Problem

Array = NDArray[np.float64]

VALIDATION_POINTS = 1000
REFERENCE_POINTS = 2500  # what PINNacle measures

HEATINV: dict[str, object] = {
    "schema_version": 1,
    "id": "heatinv",
    "title": "PINNacle HeatInv",
    "units": {"x": "1", "t": "1", "u": "1", "a": "1"},
    "domain": {"x": [-1, 1], "y": [-1, 1], "t": [0, 1]},
    "scales": {"length": 1, "time": 1, "u": 1, "u_offset": 0},
    "source": {"kind": "builtin", "name": "heatinv"},
    "a_boundary": {"kind": "builtin", "name": "heatinv"},
    "a_model": {"kind": "field"},
    "reference_a": {"kind": "builtin", "name": "heatinv"},
    "reference_u": {"kind": "builtin", "name": "heatinv"},
    "gate": {
        "pde_loss_max": contract.GATE_PDE_LOSS_MAX,
        "val_residual_max": contract.GATE_VAL_RESIDUAL_MAX,
        "val_misfit": [contract.GATE_VAL_MISFIT_MIN, contract.GATE_VAL_MISFIT_MAX],
        "a_spread_max": contract.GATE_A_SPREAD_MAX,
    },
}


def uniform_points(rng: np.random.Generator, n: int) -> Array:
    """Draw points [n, 3] (x, y, t) uniformly from HeatInv's domain."""
    points: Array = rng.uniform(heatinv.LOWER, heatinv.UPPER, size=(n, 3))
    return points


def read_points(file: Path, n: int) -> Array:
    """Read the first n points [n, 3] of a text file of `x y t` rows.

    Raises `BadInput` where the file is missing, malformed or too short.
    """
    try:
        points: Array = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except FileNotFoundError:
        raise tekton.BadInput(f"{file} does not exist", remedy="leave --points-file out for uniform points") from None
    except ValueError as error:
        raise tekton.BadInput(f"{file}: {error}", remedy="give rows of three numbers, x y t") from None
    if points.shape[1] != 3 or len(points) < n:
        what = f"{file} has {len(points)} rows of {points.shape[1]} numbers, wanted {n} of 3"
        raise tekton.BadInput(what, remedy="ask for fewer points or give another file")
    return points[:n]


def measure(points: Array, noise: float, rng: np.random.Generator) -> schema.Batch:
    """Measure HeatInv's u at points [n, 3] with Gaussian noise of standard deviation `noise`."""
    x, y, t = (np.ascontiguousarray(column) for column in points.T)
    u = heatinv.u(x, y, t) + noise * rng.standard_normal(len(points))
    return schema.Batch(x, y, t, u)


def generate(
    out: Path,
    *,
    n: int = REFERENCE_POINTS,
    seed: int = 0,
    noise: float = 0.1,
    fmt: schema.Format = "h5",
    points_file: Path | None = None,
) -> schema.Dataset:
    """Write a HeatInv dataset; the same arguments give the same bytes.

    Training noise, uniform points and the validation batch come from three streams of one seed, so that a batch of
    1,000 points and one of 2,500 share their first 1,000 rows and their validation batch.
    """
    if n < 1 or not 0 <= noise < np.inf:
        raise tekton.BadInput(f"{n} points with noise {noise}", remedy="give at least 1 point and noise of 0 or more")
    for_points, for_noise, for_validation = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    points = read_points(points_file, n) if points_file else uniform_points(for_points, n)
    where = f"the first {n} points of {points_file.name}" if points_file else f"{n} uniform points, seed {seed}"
    metadata = {
        "title": "HeatInv: u = exp(-t) sin(pi x) sin(pi y), a = 2 + sin(pi x) sin(pi y), with Gaussian noise on u",
        "source": "i207M/PINNacle, src/pde/inverse.py (MIT licence)",
        "points": where,
        "noise": f"N(0, {noise:g}), seed {seed}",
    }
    problem = Problem.model_validate({**HEATINV, "sigma": noise or None})
    validation = measure(uniform_points(for_validation, VALIDATION_POINTS), noise, for_validation)
    schema.write(out, measure(points, noise, for_noise), problem, fmt, metadata=metadata)
    metadata["points"] = f"{VALIDATION_POINTS} uniform points, seed {seed}"
    schema.write(out, validation, problem, fmt, stem=contract.VALIDATION_STEM, metadata=metadata)
    print(f"HeatInv measured at {where}, noise {noise:g}")
    return schema.load(out)
