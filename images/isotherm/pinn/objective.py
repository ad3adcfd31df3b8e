"""The training objective: weighted mean squares of residual rows, one term per physical statement.

L = mean(((u - u_measured) / sigma)^2) + w_pde mean r^2 + w_bc mean r_bc^2 + w_ic mean r_ic^2
    + a_reg mean |grad a|^2 + f_reg mean f^2 + sum of squares of the nuisance parameters' priors

Everything is nondimensional. Without a stated sigma the data count as if sigma were 0.1 of the scale of u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from isotherm.pinn import sampling
from isotherm.pinn.jacobian import Tape
from isotherm.pinn.model import Model, Sites
from isotherm.pinn.networks import Params

SIGMA_UNKNOWN = 0.1
GRAM_BLOCKS = 4

Rows = Callable[[Params, "Tape | None"], Tensor]


@dataclass(frozen=True)
class Measurements:
    """Training or held-out rows, nondimensional: points [n, 3], u [n], sigma [n]."""

    points: Tensor
    u: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> Measurements:
        """Return the same rows on a device."""
        return Measurements(self.points.to(device), self.u.to(device), self.sigma.to(device))


@dataclass(frozen=True)
class Weights:
    """Weights of the terms beside the data, which weigh 1."""

    w_pde: float
    w_bc: float
    w_ic: float
    a_reg: float
    f_reg: float


@dataclass(frozen=True)
class Counts:
    """How many points carry the equation, the edges and the start."""

    interior: int = 3000
    boundary: int = 400
    initial: int = 300


@dataclass(frozen=True)
class Term:
    """One statement: `rows` gives residuals [n]; only the first `columns` parameters enter."""

    name: str
    weight: float
    rows: Rows
    columns: int


class Objective:
    """Sum of terms; evaluates the rows, or the Gauss-Newton normal equations."""

    def __init__(self, model: Model, terms: list[Term]) -> None:
        self.model, self.terms = model, terms
        self._buffers: dict[str, Tensor] = {}

    def mean_squares(self, theta: Tensor) -> dict[str, Tensor]:
        """Mean square of each term's rows, unweighted."""
        params = self.model.layout.views(theta)
        return {term.name: term.rows(params, None).square().mean() for term in self.terms}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Weigh mean squares into L."""
        return torch.stack([term.weight * parts[term.name] for term in self.terms]).sum()

    def reweighted(self, **weights: float) -> Objective:
        """The same terms with other weights, sharing the buffers."""
        objective = Objective(self.model, [replace(t, weight=weights.get(t.name, t.weight)) for t in self.terms])
        objective._buffers = self._buffers
        return objective

    def normal_equations(self, theta: Tensor, free: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """J'J [free, free] and J'r [free] of the weighted rows for the first `free` parameters; the mean squares."""
        params, parts = self.model.layout.views(theta), {}
        hessian, gradient = theta.new_zeros(free, free), theta.new_zeros(free)
        for term in self.terms:
            columns = min(free, term.columns)
            tape = Tape(self.model.layout)
            with torch.enable_grad():
                rows = term.rows(params, tape)
                scale = math.sqrt(term.weight / len(rows))
                jacobian = self._buffer(term.name, theta, len(rows), columns)
                tape.jacobian(rows, scale, jacobian)
            add_gram(hessian[:columns, :columns], jacobian)
            rows = rows.detach()
            parts[term.name] = rows.square().mean()
            gradient[:columns].addmv_(jacobian.T, rows * scale)
        # Only the blocks on and above the diagonal were added up.
        return hessian.triu() + hessian.triu(1).T, gradient, parts

    def _buffer(self, name: str, theta: Tensor, rows: int, columns: int) -> Tensor:
        kept = self._buffers.get(name)
        if kept is None or kept.shape != (rows, columns):
            kept = self._buffers[name] = theta.new_zeros(rows, columns)
        return kept


def add_gram(out: Tensor, jacobian: Tensor) -> None:
    """Add J'J to `out`, in column blocks on and above the diagonal only: two thirds of the whole product's work."""
    edges = torch.linspace(0, jacobian.shape[1], GRAM_BLOCKS + 1).round().to(torch.int64).tolist()
    for start, stop in pairwise(edges):
        out[start:stop, start:].addmm_(jacobian[:, start:stop].T, jacobian[:, start:])


def build(model: Model, data: Measurements, weights: Weights, counts: Counts, seed: int) -> Objective:
    """Assemble the terms that the problem declares, on the model's device; `seed` fixes the collocation points."""
    setting, layout, device = model.setting, model.layout, model.setting.lower.device
    drawn = setting.to(torch.device("cpu"))  # the same points on every device
    data = data.to(device)
    u_end, a_end = layout.end_of("u"), layout.end_of("u", "a")
    at_data = model.sites(data.points, "")
    at_inside = model.sites(sampling.interior(drawn, counts.interior, seed).to(device))
    terms = [
        Term("data", 1.0, lambda p, tape: (model.u(p, at_data, tape).v - data.u) / data.sigma, u_end),
        Term("pde", weights.w_pde, lambda p, tape: model.residual(p, at_inside, tape), layout.size),
    ]
    if setting.has_boundary:
        edge = sampling.boundary(drawn, counts.boundary, seed).to(device)
        at_edge = model.sites(edge.points, "xy")
        terms.append(
            Term(
                "bc",
                weights.w_bc,
                lambda p, tape: setting.boundary_residual(model.u(p, at_edge, tape), edge.points, edge.normal),
                u_end,
            )
        )
    if setting.has_initial:
        start = sampling.initial(drawn, counts.initial, seed).to(device)
        at_start = model.sites(start, "")
        terms.append(
            Term("ic", weights.w_ic, lambda p, tape: setting.initial_residual(model.u(p, at_start, tape), start), u_end)
        )
    if weights.a_reg > 0 and model.architecture.a_model != "constant":
        terms += [Term(f"a_{axis}", weights.a_reg, _slope_of_a(model, at_inside, axis), a_end) for axis in "xy"]
    if weights.f_reg > 0 and model.architecture.infer_f:
        static = at_inside.u_input  # an inferred f does not depend on u
        terms.append(Term("f", weights.f_reg, lambda p, tape: model.f(p, at_inside, static, tape), layout.size))
    terms += [Term(f"prior_{name}", 1.0, _prior(f"nuisance.{name}"), layout.size) for name in model.fitted]
    return Objective(model, terms)


def _slope_of_a(model: Model, sites: Sites, axis: str) -> Rows:
    def rows(params: Params, tape: Tape | None) -> Tensor:
        slope: Tensor = getattr(model.a(params, sites, tape), axis)
        return slope

    return rows


def _prior(column: str) -> Rows:
    def rows(params: Params, tape: Tape | None) -> Tensor:
        return tape.scalar(column, params[column], 1) * 1.0 if tape else params[column]

    return rows
