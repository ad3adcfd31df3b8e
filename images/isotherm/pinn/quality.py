"""What a finished training is worth, on points and measurements that it never saw.

Nondimensional, but for u_rms, a_mean and nuisance_*, which are in the problem's units.

pde_loss      mean r^2 on Sobol points
val_residual  sqrt(mean r^2 / mean(u_t^2 + (div a grad u)^2 + f^2)) on other Sobol points
bc_loss, ic_loss  mean squares of the declared conditions' residuals, on other points than training's
val_misfit    mean ((u - measured) / sigma)^2 on held-out rows, where sigma is known
a_spread      rms over a grid of the restarts' standard deviation / rms of their mean a
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isotherm import contract
from isotherm.physics import heat
from isotherm.pinn import sampling
from isotherm.pinn.model import Model
from isotherm.pinn.networks import Params
from isotherm.pinn.prepare import Inputs

POINTS = 4000
EDGE_POINTS = 1000
GRID_SIDE = 61


def residual_and_power(model: Model, params: Params, points: Tensor) -> tuple[float, float]:
    """Mean r^2 and mean(u_t^2 + (div a grad u)^2 + f^2) at points [n, 3]."""
    sites = model.sites(points)
    u, a = model.u(params, sites), model.a(params, sites)
    f = model.f(params, sites, u)
    r = heat.pde_residual(u, a, f)
    return float(r.square().mean()), float(heat.residual_power(u, a, f).mean())


def on_heldout(model: Model, params: Params, inputs: Inputs, seed: int) -> dict[str, float]:
    """All metrics of one solution; those that the problem cannot have are absent."""
    setting = model.setting
    pde_loss, _ = residual_and_power(model, params, sampling.interior(setting, POINTS, seed, "pde_loss"))
    r2, power = residual_and_power(model, params, sampling.interior(setting, POINTS, seed, "val_residual"))
    metrics = {
        contract.PDE_LOSS: pde_loss,
        contract.VAL_RESIDUAL: math.sqrt(r2 / power),
        "residual_denominator": power,
    }
    if setting.has_boundary:
        edge = sampling.boundary(setting, EDGE_POINTS, seed + 1)
        u = model.u(params, model.sites(edge.points, "xy"))
        metrics[contract.BC_LOSS] = float(setting.boundary_residual(u, edge.points, edge.normal).square().mean())
    if setting.has_initial:
        start = sampling.initial(setting, EDGE_POINTS, seed + 1)
        u = model.u(params, model.sites(start, ""))
        metrics[contract.IC_LOSS] = float(setting.initial_residual(u, start).square().mean())
    metrics |= on_measurements(model, params, inputs) | _against_truth(model, params, seed)
    return metrics | _estimates(model, params)


def _estimates(model: Model, params: Params) -> dict[str, float]:
    # The numbers that the measurement was made for, in physical units.
    scales = model.setting.problem.scales
    a = model.a(params, model.sites(sampling.plate_grid(model.setting, GRID_SIDE), "")).v
    found = {"a_mean": float(a.mean()) * scales.of("a")}
    units = {"b": 1 / scales.time, "s": scales.length}
    nuisance = model.nuisance(params, 1)
    return found | {f"nuisance_{name}": float(value) * units[name] for name, value in nuisance.items()}


def on_measurements(model: Model, params: Params, inputs: Inputs) -> dict[str, float]:
    """u_rms in u's own unit and, where sigma is known, val_misfit."""
    rows = inputs.heldout.tensors()
    error = model.u(params, model.sites(rows.points, "")).v - rows.u
    metrics = {"u_rms": float(error.square().mean().sqrt()) * inputs.problem.scales.u}
    if inputs.problem.sigma is not None:
        metrics[contract.VAL_MISFIT] = float((error / rows.sigma).square().mean())
    return metrics


def _against_truth(model: Model, params: Params, seed: int) -> dict[str, float]:
    setting, metrics = model.setting, {}
    grid = sampling.plate_grid(setting, GRID_SIDE)
    a_true = setting.reference_a(grid)
    if a_true is not None:
        metrics[contract.A_REL_L2] = relative_l2(model.a(params, model.sites(grid, "")).v, a_true)
    points = sampling.interior(setting, POINTS, seed, "u_reference")
    u_true = setting.reference_u(points)
    if u_true is not None:
        metrics[contract.U_REL_L2] = relative_l2(model.u(params, model.sites(points, "")).v, u_true)
    return metrics


def relative_l2(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||."""
    return float((value - truth).norm() / truth.norm())


def a_on_grid(model: Model, theta: Tensor) -> Tensor:
    """`a` on the plate's grid [GRID_SIDE, GRID_SIDE], x first, nondimensional."""
    sites = model.sites(sampling.plate_grid(model.setting, GRID_SIDE), "")
    return model.a(model.layout.views(theta), sites).v.view(GRID_SIDE, GRID_SIDE)


def a_spread(fields: Sequence[Tensor]) -> float | None:
    """Spread of `a` over restarts; None for one restart, which cannot tell."""
    if len(fields) < 2:
        return None
    stack = torch.stack(list(fields))
    return float(stack.std(dim=0).square().mean().sqrt() / stack.mean(dim=0).square().mean().sqrt())
