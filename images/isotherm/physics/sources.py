"""The heat source f(x, y, t), nondimensional: known in closed form, from a table, or closed by the area mean.

A source is called with points [n, 3], the jet of u there, and its nuisance parameters (each [n] or a scalar), and
returns f [n].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from isotherm.physics import tables
from isotherm.physics.jets import Jet


@dataclass(frozen=True)
class LogNormal:
    """Prior of a positive nuisance parameter: median `value`, standard deviation `relative_sigma` of its logarithm."""

    value: float
    relative_sigma: float

    def at(self, z: Tensor) -> Tensor:
        """Return the parameter at `z` prior standard deviations from the median."""
        return self.value * torch.exp(self.relative_sigma * z)


class Source(Protocol):
    """Anything that gives f; `priors` names the nuisance parameters it needs."""

    @property
    def priors(self) -> Mapping[str, LogNormal]:
        """Nuisance parameters by name."""

    def __call__(self, points: Tensor, u: Jet, nuisance: Mapping[str, Tensor]) -> Tensor:
        """Return f [n]."""

    def to(self, device: torch.device) -> Source:
        """Return the same source for points on a device."""


class _Known:
    @property
    def priors(self) -> Mapping[str, LogNormal]:
        """No nuisance parameters."""
        return {}

    def to(self, device: torch.device) -> Self:  # noqa: ARG002
        """Return itself: it holds no tensors."""
        return self


class Zero(_Known):
    """f = 0."""

    def __call__(self, points: Tensor, u: Jet, nuisance: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return zeros [n]."""
        return torch.zeros_like(points[:, 0])


@dataclass(frozen=True)
class ClosedForm(_Known):
    """A reference problem's f, given in physical units and scaled here."""

    physical: Callable[[Tensor, Tensor, Tensor], Tensor]
    length: float
    time: float
    f: float

    def __call__(self, points: Tensor, u: Jet, nuisance: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return f [n]."""
        x, y, t = points[:, 0] * self.length, points[:, 1] * self.length, points[:, 2] * self.time
        return self.physical(x, y, t) / self.f


@dataclass(frozen=True)
class Table(_Known):
    """f on a full grid `axes` (x, y, t) as `values` [nx, ny, nt], interpolated linearly."""

    axes: tuple[Tensor, Tensor, Tensor]
    values: Tensor

    def __call__(self, points: Tensor, u: Jet, nuisance: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Return f [n]."""
        return tables.trilinear(self.axes, self.values, points)

    def to(self, device: torch.device) -> Table:
        """Return the same table on a device."""
        x, y, t = (axis.to(device) for axis in self.axes)
        return Table((x, y, t), self.values.to(device))


@dataclass(frozen=True)
class AreaMeanClosure:
    """A heater under a thin plate that loses heat to the ambient, seen only through the plate's mean U(t).

    f = [U' + b (U - T_a)] g_s(x - x0) - b (u - T_a), g_s a Gaussian of standard deviation s with mean 1 over the plate.
    Integrated over an insulated plate it gives back U', whatever a, b and s are: the plate is fed the heat that it was
    seen to gain.
    """

    times: Tensor  # [m], increasing
    mean: Tensor  # U [m]
    mean_rate: Tensor  # U' [m]
    ambient: Tensor  # T_a [m]
    x0: tuple[float, float]
    lower: tuple[float, float]
    upper: tuple[float, float]
    priors: Mapping[str, LogNormal]

    def __call__(self, points: Tensor, u: Jet, nuisance: Mapping[str, Tensor]) -> Tensor:
        """Return f [n]; `nuisance` holds b and s, and `g_mean` where the spot's mean is known already (for export)."""
        b, s, t = nuisance["b"], nuisance["s"], points[:, 2]
        mean, rate = tables.linear(self.times, self.mean, t), tables.linear(self.times, self.mean_rate, t)
        ambient = tables.linear(self.times, self.ambient, t)
        g_mean = nuisance["g_mean"] if "g_mean" in nuisance else self.spot_mean(s)
        return (rate + b * (mean - ambient)) * self.spot(points, s) / g_mean - b * (u.v - ambient)

    def to(self, device: torch.device) -> AreaMeanClosure:
        """Return the same closure on a device."""
        times, mean, rate, ambient = (one.to(device) for one in (self.times, self.mean, self.mean_rate, self.ambient))
        return replace(self, times=times, mean=mean, mean_rate=rate, ambient=ambient)

    def spot(self, points: Tensor, s: Tensor) -> Tensor:
        """exp(-|x - x0|^2 / 2 s^2)."""
        dx, dy = points[:, 0] - self.x0[0], points[:, 1] - self.x0[1]
        return torch.exp(-(dx * dx + dy * dy) / (2 * s * s))

    def spot_mean(self, s: Tensor) -> Tensor:
        """Mean of the spot over the plate: a product of two error functions."""
        mean = torch.ones_like(s)
        for axis in (0, 1):
            x0, lower, upper = self.x0[axis], self.lower[axis], self.upper[axis]
            scale = math.sqrt(2) * s
            integral = torch.erf((upper - x0) / scale) - torch.erf((lower - x0) / scale)
            mean = mean * s * math.sqrt(math.pi / 2) * integral / (upper - lower)
        return mean
