"""Reference problems in closed form.

HeatInv is PINNacle's HInv (Hao et al., arXiv 2306.08827; src/pde/inverse.py there). On [-1, 1]^2 x [0, 1]:
u = e^-t sin(pi x) sin(pi y), a = 2 + sin(pi x) sin(pi y), and f = u_t - div(a grad u) is known.
Quantities are in the problem's own units, which for HeatInv are nondimensional.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isotherm.physics.jets import Jet


def heatinv_a(x: Tensor, y: Tensor) -> Jet:
    """A = 2 + sin(pi x) sin(pi y), with its derivatives in x, y and its Laplacian."""
    pi = math.pi
    sx, sy, cx, cy = torch.sin(pi * x), torch.sin(pi * y), torch.cos(pi * x), torch.cos(pi * y)
    return Jet(2 + sx * sy, pi * cx * sy, pi * sx * cy, None, -2 * pi * pi * sx * sy)


def heatinv_u(x: Tensor, y: Tensor, t: Tensor) -> Jet:
    """U = e^-t sin(pi x) sin(pi y), all channels."""
    pi = math.pi
    decay, sx, sy = torch.exp(-t), torch.sin(pi * x), torch.sin(pi * y)
    u = decay * sx * sy
    u_x, u_y = pi * decay * torch.cos(pi * x) * sy, pi * decay * sx * torch.cos(pi * y)
    return Jet(u, u_x, u_y, -u, -2 * pi * pi * u)


def heatinv_f(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """The source: e^-t [(4 pi^2 - 1) s + pi^2 (2 s^2 - cx^2 sy^2 - sx^2 cy^2)], with s = sin(pi x) sin(pi y)."""
    pi = math.pi
    sx, sy, cx, cy = torch.sin(pi * x), torch.sin(pi * y), torch.cos(pi * x), torch.cos(pi * y)
    s = sx * sy
    return torch.exp(-t) * ((4 * pi**2 - 1) * s + pi**2 * (2 * s * s - cx * cx * sy * sy - sx * sx * cy * cy))


A: dict[str, Callable[[Tensor, Tensor], Jet]] = {"heatinv": heatinv_a}
U: dict[str, Callable[[Tensor, Tensor, Tensor], Jet]] = {"heatinv": heatinv_u}
F: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"heatinv": heatinv_f}


def heatinv_measurements(points: NDArray[np.float64], sigma: float, seed: int) -> NDArray[np.float64]:
    """Return u + N(0, sigma) at points [n, 3] (x, y, t), as PINNacle makes its data; equal seeds give equal noise."""
    x, y, t = (torch.from_numpy(np.ascontiguousarray(points[:, axis])) for axis in range(3))
    exact: NDArray[np.float64] = heatinv_u(x, y, t).v.numpy()
    return exact + sigma * np.random.default_rng(seed).standard_normal(len(points))
