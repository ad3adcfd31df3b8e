"""`<model>/bundle/fields.npz`: the arrays that pictures and later comparisons need, beside the model itself.

Keys (float64 unless said; R restarts; units physical unless said):
  a               [R, 61, 61]  `a` of every restart on a grid of the plate, x along the first axis
  grid_x, grid_y  [61]         the grid's coordinates
  chosen          int64        index of the restart that became the model
  seeds           int64 [R]    seed of each restart's starting weights
  train           [n, 4]       training rows x, y, t, u as used (thinned by time bins where there were too many)
  heldout         [m, 4]       held-out rows x, y, t, u
  collocation     [k, 3]       points x, y, t that carried the equation
  history_<r>     [iterations, 6]  restart r: iteration, stage, seconds, objective, misfit, pde (nondimensional;
                                   misfit = mean ((u - measured) / sigma)^2, pde = mean r^2 at the collocation points)
No pickles: read with `np.load(path, allow_pickle=False)`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.pinn import quality, sampling
from isotherm.pinn.levenberg import State
from isotherm.pinn.prepare import Inputs, Rows
from isotherm.pinn.recipe import Recipe
from isotherm.pinn.restarts import Trained

FILE = "fields.npz"
HISTORY = ("iteration", "stage", "seconds", "objective", "misfit", "pde")

Array = NDArray[np.float64]


def history(state: State) -> Array:
    """A restart's history [iterations, 6] in the order of HISTORY."""
    source = {"misfit": "data"}
    table = [[row[source.get(name, name)] for name in HISTORY] for row in state.history]
    return np.array(table, dtype=np.float64)


def collect(inputs: Inputs, recipe: Recipe, trained: Sequence[Trained], chosen: Trained) -> dict[str, NDArray[Any]]:
    """Gather the arrays described above."""
    scales, domain = inputs.problem.scales, inputs.problem.domain
    unit = np.array([scales.length, scales.length, scales.time])
    points = sampling.interior(chosen.model.setting, recipe.counts.interior, recipe.seed)

    def physical(rows: Rows) -> Array:
        return np.column_stack([rows.points * unit, scales.to_physical("u", rows.u)])

    a = np.stack([quality.a_on_grid(t.model, t.state.theta).numpy() for t in trained])
    return {
        "a": a * scales.of("a"),
        "grid_x": np.linspace(*domain.x, quality.GRID_SIDE),
        "grid_y": np.linspace(*domain.y, quality.GRID_SIDE),
        "chosen": np.array([t.restart for t in trained].index(chosen.restart)),
        "seeds": np.array([t.seed for t in trained]),
        "train": physical(inputs.train),
        "heldout": physical(inputs.heldout),
        "collocation": points.numpy() * unit,
        **{f"history_{index}": history(t.state) for index, t in enumerate(trained)},
    }


def to_bytes(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Write the archive."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
