"""Derivatives pushed forward through a network as plain tensors, one per channel: no nested automatic differentiation.

A field is carried with its first derivatives in x, y, t and its Laplacian in x, y. Each layer maps these five channels
exactly (chain rule through `W h + b` and `tanh`), so that a residual costs about five forward passes and exports like
any other arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor]  # weight [out, in], bias [out]
Record = Callable[[int, "Jet", "Jet"], None]  # called with (layer, its input, its pre-activation)


class Jet(NamedTuple):
    """A field's value and derivatives at n points, each [n] or [n, width]; a channel that was not asked for is None."""

    v: Tensor
    x: Any = None
    y: Any = None
    t: Any = None
    lap: Any = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Jet:
        """Apply a linear map to every channel."""
        return Jet(*(None if channel is None else function(channel) for channel in self))


def coordinates(points: Tensor, lower: Tensor, upper: Tensor, channels: str = "xytl") -> Jet:
    """Scale points [n, d] (x, y and, where d = 3, t) from the box to [-1, 1]^d, with the derivatives asked for.

    `channels` holds any of x, y, t and l (the Laplacian, which needs x and y).
    """
    slope = 2 / (upper - lower)
    value = (points - lower) * slope - 1

    def unit(axis: int) -> Tensor:
        return torch.zeros_like(value) + torch.diag(slope)[axis]

    return Jet(
        value,
        unit(0) if "x" in channels else None,
        unit(1) if "y" in channels else None,
        unit(2) if "t" in channels else None,
        torch.zeros_like(value) if "l" in channels else None,
    )


def affine(h: Jet, layer: Layer) -> Jet:
    """Push a jet [n, in] through `W h + b`, giving [n, out]."""
    weight, bias = layer
    z = h.map(lambda channel: channel @ weight.T)
    return z._replace(v=z.v + bias)


def chain(z: Jet, value: Tensor, first: Tensor, second: Tensor) -> Jet:
    """Push a jet through a scalar function g: `value`, `first` and `second` are g, g' and g'' at z.v."""
    lap = None if z.lap is None else first * z.lap + second * (z.x * z.x + z.y * z.y)
    x, y, t = (None if channel is None else first * channel for channel in (z.x, z.y, z.t))
    return Jet(value, x, y, t, lap)


def tanh(z: Jet) -> Jet:
    """Push a jet through tanh: tanh' = 1 - tanh^2, tanh'' = -2 tanh tanh'."""
    value = torch.tanh(z.v)
    first = 1 - value * value
    return chain(z, value, first, -2 * value * first)


def exp(z: Jet) -> Jet:
    """Push a jet through exp."""
    value = torch.exp(z.v)
    return chain(z, value, value, value)


def add(p: Jet, q: Jet) -> Jet:
    """Add two fields, channel by channel; a channel survives where both have it."""
    return Jet(*(None if a is None or b is None else a + b for a, b in zip(p, q, strict=True)))


def multiply(p: Jet, q: Jet) -> Jet:
    """Multiply two fields: the product rule, and lap(pq) = p lap q + 2 grad p . grad q + q lap p."""

    def product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else p.v * b + q.v * a

    lap = product(p.lap, q.lap)
    if lap is not None:
        lap = lap + 2 * (p.x * q.x + p.y * q.y)
    return Jet(p.v * q.v, product(p.x, q.x), product(p.y, q.y), product(p.t, q.t), lap)


def network(layers: Sequence[Layer], h: Jet, record: Record | None = None) -> Jet:
    """Evaluate a tanh network with one linear output: the jet of the output, channels [n].

    `record` sees each layer's input and pre-activation, which is all that a per-row Jacobian needs.
    """
    for index, layer in enumerate(layers):
        z = affine(h, layer)
        if record is not None:
            record(index, h, z)
        h = z if index == len(layers) - 1 else tanh(z)
    return h.map(lambda channel: channel[:, 0])
