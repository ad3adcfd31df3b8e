"""Measure a model bundle on points and measurements that training never saw, through the very graph that will be
served.

Definitions (nondimensional equation; r = u_t - div(a grad u) - f):
  pde_loss      mean r^2 at scrambled Sobol points of the domain
  val_residual  sqrt(mean r^2 / mean(u_t^2 + (div a grad u)^2 + f^2)) at the same points
  val_misfit    mean ((u - measured) / sigma)^2 on held-out measurements
  a_rel_l2, u_rel_l2   relative L2 errors on a grid, where the problem names a truth
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isotherm import contract

if TYPE_CHECKING:
    from isotherm.data.schema import Batch
    from isotherm.physics.problem import Problem

Array = NDArray[np.float64]
Graph = Callable[
    [Array], dict[str, Array]
]  # points [n, 3] in physical units -> the outputs of contract.ONNX_*, each [n]

HELDOUT_POINTS = 4096
HELDOUT_SEED = 20_251_020  # the gate's own points: the trainer's validation set has another seed
GRID = 61


@dataclass(frozen=True)
class Plane:
    """A GRID x GRID mesh of the plate: `x`, `y` are [GRID, GRID], physical units."""

    x: Array
    y: Array

    def points(self, t: float) -> Array:
        """Return the mesh at time t as [GRID*GRID, 3]."""
        return np.column_stack([self.x.ravel(), self.y.ravel(), np.full(self.x.size, t)])


def plane(problem: Problem) -> Plane:
    """Mesh the problem's plate."""
    x, y = np.meshgrid(np.linspace(*problem.domain.x, GRID), np.linspace(*problem.domain.y, GRID))
    return Plane(x, y)


def heldout_points(problem: Problem, number: int = HELDOUT_POINTS) -> Array:
    """Return scrambled Sobol points [number, 3] of the domain in physical units, the same at every call."""
    import torch

    cube = torch.quasirandom.SobolEngine(3, scramble=True, seed=HELDOUT_SEED).draw(number, dtype=torch.float64).numpy()
    low, high = np.array([problem.domain.x, problem.domain.y, problem.domain.t]).T
    points: Array = low + (high - low) * cube
    return points


def physics(graph: Graph, problem: Problem) -> dict[str, float | None]:
    """Return pde_loss and val_residual; None where the graph cannot give a residual (its source is unknown to it)."""
    outputs = graph(heldout_points(problem))
    if contract.ONNX_RESIDUAL not in outputs:
        return {contract.PDE_LOSS: None, contract.VAL_RESIDUAL: None}
    r2 = float(np.mean(outputs[contract.ONNX_RESIDUAL] ** 2))
    power = float(np.mean(outputs[contract.ONNX_RESIDUAL_POWER]))
    return {contract.PDE_LOSS: r2, contract.VAL_RESIDUAL: math.sqrt(r2 / power) if power > 0 else math.nan}


def normalised_misfit(graph: Graph, problem: Problem, batch: Batch) -> Array:
    """Return (u - measured) / sigma [n] on a batch.

    Rows with their own sigma use it; an unknown sigma counts as 1 unit of u.
    """
    u = graph(np.column_stack([batch.x, batch.y, batch.t]))[contract.ONNX_U]
    sigma = batch.sigma if batch.sigma is not None else (problem.sigma or 1.0)
    misfit: Array = (u - batch.u) / sigma
    return misfit


def relative_l2(value: Array, truth: Array) -> float:
    """Return ||value - truth|| / ||truth||."""
    return float(np.linalg.norm(value - truth) / np.linalg.norm(truth))


def true_a(problem: Problem, x: Array, y: Array) -> Array | None:
    """Return the problem's reference diffusivity at x, y [n] in physical units, or None where it names none."""
    import torch

    from isotherm.physics.problem import Value
    from isotherm.physics.reference import A

    if problem.reference_a is None:
        return None
    if isinstance(problem.reference_a, Value):
        return np.full(len(x), problem.reference_a.value)
    truth: Array = A[problem.reference_a.name](torch.from_numpy(x.copy()), torch.from_numpy(y.copy())).v.numpy()
    return truth


def true_u(problem: Problem, points: Array) -> Array | None:
    """Return the problem's reference solution at points [n, 3] in physical units, or None where it names none."""
    import torch

    from isotherm.physics.reference import U

    if problem.reference_u is None:
        return None
    x, y, t = (torch.from_numpy(points[:, axis].copy()) for axis in range(3))
    truth: Array = U[problem.reference_u.name](x, y, t).v.numpy()
    return truth


def truth_errors(graph: Graph, problem: Problem) -> dict[str, float | None]:
    """Return a_rel_l2 on the mesh and u_rel_l2 on the held-out points; None where the problem names no truth."""
    mesh, points = plane(problem), heldout_points(problem)
    a, u = true_a(problem, mesh.x.ravel(), mesh.y.ravel()), true_u(problem, points)
    start = problem.domain.t[0]
    return {
        contract.A_REL_L2: None if a is None else relative_l2(graph(mesh.points(start))[contract.ONNX_A], a),
        contract.U_REL_L2: None if u is None else relative_l2(graph(points)[contract.ONNX_U], u),
    }
