"""From a checked dataset to what training needs: nondimensional rows, thinned by time bins, and the plate's mean.

Input   `isotherm.data.schema.Dataset` (physical units)
Output  `Inputs`: plain numpy arrays and the problem, so that it travels to a worker process
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isotherm.data.schema import Batch, Dataset
from isotherm.physics import setting
from isotherm.physics.problem import AreaMeanClosure, Problem
from isotherm.pinn.objective import SIGMA_UNKNOWN, Measurements
from isotherm.tekton import BadInput

Array = NDArray[np.float64]

ROWS_MAX = 7500
MEAN_DEGREE = 10  # of the Chebyshev fit that smooths the plate's mean over time
MEAN_NODES = 201
QUADRATURE_SIDE = 24


@dataclass(frozen=True)
class Rows:
    """Nondimensional rows: points [n, 3], u [n], sigma [n]."""

    points: Array
    u: Array
    sigma: Array

    def tensors(self) -> Measurements:
        """Hand the rows to torch."""
        return Measurements(*(torch.from_numpy(column) for column in (self.points, self.u, self.sigma)))


@dataclass(frozen=True)
class Inputs:
    """All that a training depends on, beside its recipe."""

    problem: Problem
    folder: Path
    train: Rows
    heldout: Rows
    plate_mean: setting.PlateMean | None
    measured_rows: int
    heldout_rule: str

    def setting(self) -> setting.Setting:
        """Pose the problem nondimensionally."""
        return setting.from_problem(self.problem, self.folder, self.plate_mean)


def prepare(dataset: Dataset, folder: Path) -> Inputs:
    """Make a dataset nondimensional; more than ROWS_MAX training rows of sensors are averaged over time bins.

    Raises `BadInput` where a closure is asked for and the sensors do not share their times.
    """
    problem, batch = dataset.problem, dataset.train
    closure = isinstance(problem.source, AreaMeanClosure)
    plate_mean = mean_over_plate(problem, batch) if closure else None
    train = _rows(problem, thin(batch))
    return Inputs(
        problem, folder, train, _rows(problem, dataset.validation), plate_mean, len(batch), dataset.heldout_rule
    )


def _rows(problem: Problem, batch: Batch) -> Rows:
    scales = problem.scales
    points = np.column_stack([batch.x / scales.length, batch.y / scales.length, batch.t / scales.time])
    known = SIGMA_UNKNOWN * scales.u if problem.sigma is None else problem.sigma
    sigma = np.full(len(batch), known) if batch.sigma is None else batch.sigma
    u: Array = np.asarray(scales.to_nondimensional("u", batch.u))
    return Rows(np.ascontiguousarray(points), np.ascontiguousarray(u), np.ascontiguousarray(sigma / scales.u))


def thin(batch: Batch, rows_max: int = ROWS_MAX) -> Batch:
    """Average each sensor's rows over time bins of one width, so that at most about `rows_max` rows remain.

    A batch without sensor_id, or short enough, comes back as it is. The mean keeps the single row's sigma: with
    fixed sensors the noise is mostly each sensor's own offset, which averaging over time does not remove.
    """
    if len(batch) <= rows_max or batch.sensor_id is None:
        return batch
    sensors, which = np.unique(batch.sensor_id, return_inverse=True)
    bins = max(2, rows_max // len(sensors))
    span = batch.t.max() - batch.t.min()
    slot = np.minimum(((batch.t - batch.t.min()) / span * bins).astype(np.int64), bins - 1)
    _, group, count = np.unique(which * bins + slot, return_inverse=True, return_counts=True)

    def mean(column: NDArray[Any]) -> Array:
        total = np.bincount(group, weights=column).astype(np.float64)
        average: Array = total / count
        return average

    sigma = None if batch.sigma is None else mean(batch.sigma)
    sensor = sensors[np.rint(mean(which.astype(np.float64))).astype(np.int64)]
    return Batch(mean(batch.x), mean(batch.y), mean(batch.t), mean(batch.u), sigma, sensor)


def mean_over_plate(problem: Problem, batch: Batch) -> setting.PlateMean:
    """Estimate the plate's mean U(t) and its rate from sensors that share their times, nondimensional.

    Sensors are interpolated over the plate by a thin-plate spline (one set of quadrature weights for all times); U(t)
    is smoothed by a Chebyshev polynomial.
    """
    positions, times, table = _sensor_table(batch)
    scales, box = problem.scales, problem.nondimensional_domain()
    corners = np.array([box["x"], box["y"]]).T
    weights = plate_weights(positions / scales.length, corners[0], corners[1])
    mean = weights @ np.asarray(scales.to_nondimensional("u", table))
    degree = min(MEAN_DEGREE, max(1, len(times) // 2))
    fit = np.polynomial.Chebyshev.fit(times / scales.time, mean, degree, domain=list(box["t"]))
    nodes = np.linspace(*box["t"], MEAN_NODES)
    return setting.PlateMean(nodes, np.asarray(fit(nodes)), np.asarray(fit.deriv()(nodes)))


def _sensor_table(batch: Batch) -> tuple[Array, Array, Array]:
    if batch.sensor_id is None:
        raise BadInput(
            "source area-mean-closure needs column sensor_id",
            remedy="add it, so that the plate's mean at each time is known",
        )
    sensors, which = np.unique(batch.sensor_id, return_inverse=True)
    times, when = np.unique(batch.t, return_inverse=True)
    table = np.full((len(sensors), len(times)), np.nan)
    table[which, when] = batch.u
    if len(sensors) < 4 or np.isnan(table).any():
        what = f"source area-mean-closure: {len(sensors)} sensors at {len(times)} times do not fill a table"
        raise BadInput(what, remedy="give 4 sensors or more, each at the same times")
    first = np.unique(which, return_index=True)[1]
    return np.column_stack([batch.x[first], batch.y[first]]), times, table


def plate_weights(positions: Array, lower: Array, upper: Array) -> Array:
    """Weights [n] that turn values at sensors [n, 2] into the mean over the box, by a thin-plate spline.

    Beyond the sensors' own bounding box the value at its edge holds, as on an insulated rim. The weights sum to 1.
    """

    def kernel(at: Array, centre: Array) -> Array:
        squared = ((at[:, None] - centre[None]) ** 2).sum(axis=2)
        bent: Array = np.where(squared > 0, squared * np.log(np.maximum(squared, 1e-300)), 0.0)
        return bent

    n, side = len(positions), QUADRATURE_SIDE
    cells = [lower[k] + (upper[k] - lower[k]) * (np.arange(side) + 0.5) / side for k in (0, 1)]
    grid = np.stack(np.meshgrid(*cells, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = np.clip(grid, positions.min(axis=0), positions.max(axis=0))
    plane = np.column_stack([np.ones(n), positions])
    system = np.block([[kernel(positions, positions), plane], [plane.T, np.zeros((3, 3))]])
    mean_row = np.hstack([kernel(grid, positions), np.ones((len(grid), 1)), grid]).mean(axis=0)
    weights: Array = np.linalg.lstsq(system, mean_row, rcond=None)[0][:n]
    return weights
