"""Tabulated functions, interpolated with plain arithmetic, so that they train and export like any other term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _cell(nodes: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    # Counting the nodes at or below is a search that every runtime has; outside, the last cell's end value holds.
    below = (at[:, None] >= nodes[None, :]).to(torch.int64).sum(dim=1) - 1
    index = below.clamp(0, len(nodes) - 2)
    left, right = nodes[index], nodes[index + 1]
    return index, ((at - left) / (right - left)).clamp(0, 1)


def linear(nodes: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Interpolate `values` [m] given at increasing `nodes` [m], at points [n]; constant beyond both ends."""
    index, fraction = _cell(nodes, at)
    return values[index] * (1 - fraction) + values[index + 1] * fraction


def trilinear(axes: Sequence[Tensor], values: Tensor, points: Tensor) -> Tensor:
    """Interpolate `values` [nx, ny, nt] on the grid of three `axes`, at points [n, 3]; constant beyond the edges."""
    cells = [_cell(nodes, points[:, axis]) for axis, nodes in enumerate(axes)]
    (i, fx), (j, fy), (k, ft) = cells
    ny, nt = len(axes[1]), len(axes[2])
    flat = values.reshape(-1)
    total = torch.zeros_like(fx)
    for di, wx in ((0, 1 - fx), (1, fx)):
        for dj, wy in ((0, 1 - fy), (1, fy)):
            for dk, wt in ((0, 1 - ft), (1, ft)):
                total = total + wx * wy * wt * flat[((i + di) * ny + (j + dj)) * nt + (k + dk)]
    return total
