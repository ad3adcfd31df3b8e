"""Give `a` its known boundary values exactly: a = extension + bubble * N, with a bubble that vanishes on the edges."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isotherm.physics.jets import Jet

Field = Callable[[Tensor, Tensor], Jet]  # (x [n], y [n]) -> jet with channels v, x, y


def bubble(points: Tensor, lower: Tensor, upper: Tensor) -> Jet:
    """(1 - X^2)(1 - Y^2) with X, Y the box's coordinates in [-1, 1]; channels v, x, y."""
    slope = 2 / (upper - lower)
    X, Y = ((points[:, axis] - lower[axis]) * slope[axis] - 1 for axis in (0, 1))
    gx, gy = 1 - X * X, 1 - Y * Y
    return Jet(gx * gy, -2 * slope[0] * X * gy, -2 * slope[1] * Y * gx)


def transfinite(edge: Field, points: Tensor, lower: Tensor, upper: Tensor) -> Jet:
    """Coons patch: the smoothest blend of a field's values on the four edges, exact there; channels v, x, y.

    P = (1-p) W(y) + p E(y) + (1-q) S(x) + q N(x) - [bilinear blend of the corners], p and q in [0, 1].
    Source: S. A. Coons, MIT MAC-TR-41 (1967).
    """
    x, y = points[:, 0], points[:, 1]
    width, height = upper[0] - lower[0], upper[1] - lower[1]
    p, q = (x - lower[0]) / width, (y - lower[1]) / height
    west, east = edge(lower[0].expand_as(y), y), edge(upper[0].expand_as(y), y)
    south, north = edge(x, lower[1].expand_as(x)), edge(x, upper[1].expand_as(x))
    west_x, east_x, south_y, north_y = (bound.reshape(1) for bound in (lower[0], upper[0], lower[1], upper[1]))
    sw, se, nw, ne = (edge(cx, cy).v for cy in (south_y, north_y) for cx in (west_x, east_x))
    corners = (1 - p) * (1 - q) * sw + p * (1 - q) * se + (1 - p) * q * nw + p * q * ne
    corners_x = ((1 - q) * (se - sw) + q * (ne - nw)) / width
    corners_y = ((1 - p) * (nw - sw) + p * (ne - se)) / height
    return Jet(
        (1 - p) * west.v + p * east.v + (1 - q) * south.v + q * north.v - corners,
        (east.v - west.v) / width + (1 - q) * south.x + q * north.x - corners_x,
        (1 - p) * west.y + p * east.y + (north.v - south.v) / height - corners_y,
    )


def constant(value: float) -> Field:
    """A field that is one number."""
    return lambda x, y: Jet(torch.full_like(x, value), torch.zeros_like(x), torch.zeros_like(y))
