"""Where the equation is enforced and where it is checked: scrambled Sobol points, different ones for every purpose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isotherm.physics.setting import Setting

# Each purpose draws from a sequence of its own: checking on training points would check nothing.
_PURPOSES = {"interior": 1, "boundary": 2, "initial": 3, "pde_loss": 4, "val_residual": 5, "u_reference": 6}


def sobol(purpose: str, seed: int, count: int, lower: Tensor, upper: Tensor) -> Tensor:
    """Draw `count` scrambled Sobol points [count, d] in the box; fixed by purpose and seed."""
    engine = torch.quasirandom.SobolEngine(len(lower), scramble=True, seed=1000 * seed + _PURPOSES[purpose])
    return lower + (upper - lower) * engine.draw(count, dtype=torch.float64)


def interior(setting: Setting, count: int, seed: int, purpose: str = "interior") -> Tensor:
    """Points [count, 3] inside the box."""
    return sobol(purpose, seed, count, setting.lower, setting.upper)


@dataclass(frozen=True)
class Edge:
    """Points [n, 3] on the four edges with outward normals [n, 2]."""

    points: Tensor
    normal: Tensor

    def to(self, device: torch.device) -> Edge:
        """Return the same points on a device."""
        return Edge(self.points.to(device), self.normal.to(device))


def boundary(setting: Setting, count: int, seed: int) -> Edge:
    """Spread about `count` points over the edges, as many as each is long."""
    lower, upper = setting.lower, setting.upper
    size = upper - lower
    parts, normals = [], []
    draws = sobol("boundary", seed, count, torch.zeros(2).double(), torch.ones(2).double())
    share = (size[:2].flip(0) / (2 * size[:2].sum()) * count).round().to(torch.int64).tolist()
    start = 0
    for axis in (0, 1):  # the edges where coordinate `axis` is fixed
        for bound, sign in ((lower, -1.0), (upper, 1.0)):
            draw = draws[start : start + share[axis]]
            start += share[axis]
            points = torch.empty(len(draw), 3, dtype=torch.float64)
            points[:, axis] = bound[axis]
            points[:, 1 - axis] = lower[1 - axis] + size[1 - axis] * draw[:, 0]
            points[:, 2] = lower[2] + size[2] * draw[:, 1]
            normal = torch.zeros(len(draw), 2, dtype=torch.float64)
            normal[:, axis] = sign
            parts.append(points)
            normals.append(normal)
    return Edge(torch.cat(parts), torch.cat(normals))


def initial(setting: Setting, count: int, seed: int) -> Tensor:
    """Points [count, 3] of the first instant."""
    points = sobol("initial", seed, count, setting.lower, setting.upper)
    points[:, 2] = setting.lower[2]
    return points


def plate_grid(setting: Setting, side: int = 61) -> Tensor:
    """A side x side grid of the plate [side * side, 3], x slowest, at the first instant: where `a` is compared."""
    x, y = (torch.linspace(float(setting.lower[k]), float(setting.upper[k]), side).double() for k in (0, 1))
    grid = torch.cartesian_prod(x, y)
    return torch.cat([grid, setting.lower[2].expand(len(grid), 1)], dim=1)
