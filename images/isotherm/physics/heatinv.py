"""HeatInv, the manufactured inverse heat problem of PINNacle (arXiv 2306.08827), in closed form and numpy only.

Equation  u_t - div(a grad u) = f on [-1, 1]^2 x [0, 1], everything dimensionless
Source    i207M/PINNacle, src/pde/inverse.py (HeatInv); f follows from u and a by hand, tests check it by differences
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOWER = (-1.0, -1.0, 0.0)  # x, y, t
UPPER = (1.0, 1.0, 1.0)


def u(x: Array, y: Array, t: Array) -> Array:
    """Temperature exp(-t) sin(pi x) sin(pi y); arrays of one shape, or that broadcast."""
    field: Array = np.exp(-t) * np.sin(np.pi * x) * np.sin(np.pi * y)
    return field


def a(x: Array, y: Array) -> Array:
    """Diffusivity 2 + sin(pi x) sin(pi y)."""
    field: Array = 2 + np.sin(np.pi * x) * np.sin(np.pi * y)
    return field


def f(x: Array, y: Array, t: Array) -> Array:
    """Source u_t - a (u_xx + u_yy) - grad a . grad u."""
    u_t = -u(x, y, t)
    laplacian_u = -2 * np.pi**2 * u(x, y, t)
    sin_x, cos_x = np.sin(np.pi * x), np.cos(np.pi * x)
    sin_y, cos_y = np.sin(np.pi * y), np.cos(np.pi * y)
    grad_a_grad_u = np.pi**2 * np.exp(-t) * ((cos_x * sin_y) ** 2 + (sin_x * cos_y) ** 2)
    source: Array = u_t - a(x, y) * laplacian_u - grad_a_grad_u
    return source
