"""The unknowns as one vector: which network or polynomial stands for u, a and f, and where its parameters lie.

The order is u, a, f, nuisance, so that a term of the objective touches one range of columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from isotherm.physics.jets import Jet, Layer

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """What stands for the fields: tanh networks, for `a` also a polynomial or one number.

    `a_exp` writes the free part of `a` as an exponential, which keeps it positive.
    """

    u_hidden: tuple[int, ...] = (16, 16)
    a_model: str = "nn"  # nn, poly or constant
    a_hidden: tuple[int, ...] = (16,)
    a_degree: int = 6
    a_exp: bool = False
    infer_f: bool = False
    f_hidden: tuple[int, ...] = (10, 10)

    @property
    def name(self) -> str:
        """What tag `architecture` says; the net of recipe `source` reads PINN-5x128."""

        def shape(hidden: tuple[int, ...]) -> str:
            return f"{len(hidden)}x{hidden[0]}"

        forms = {"nn": f"a-nn-{shape(self.a_hidden)}", "poly": f"a-poly-{self.a_degree}", "constant": "a-constant"}
        return f"PINN-{shape(self.u_hidden)}_{forms[self.a_model]}" + ("_f-nn" if self.infer_f else "")


def mlp_shapes(prefix: str, inputs: int, hidden: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Name the weights [out, in] and biases [out] of a network with one output."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (width_in, width_out) in enumerate(pairwise((inputs, *hidden, 1))):
        shapes[f"{prefix}.{index}.weight"] = (width_out, width_in)
        shapes[f"{prefix}.{index}.bias"] = (width_out,)
    return shapes


class Layout:
    """Places named parameters in one flat vector."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.columns: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.columns[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        self.size = start

    def views(self, theta: Tensor) -> Params:
        """Return each parameter as a view of the flat vector [size]."""
        return {name: theta[self.columns[name]].view(shape) for name, shape in self.shapes.items()}

    def end_of(self, *prefixes: str) -> int:
        """Return the number of leading columns up to the last parameter whose name starts with one of `prefixes`."""
        return max((self.columns[n].stop for n in self.shapes if n.split(".")[0] in prefixes), default=0)

    def initial(self, seed: int) -> Tensor:
        """Draw Glorot-normal weights; biases and all other parameters start at zero. Equal seeds give equal vectors."""
        generator = torch.Generator().manual_seed(seed)
        theta = torch.zeros(self.size, dtype=torch.float64)
        for name, shape in self.shapes.items():
            if name.endswith(".weight"):
                spread = math.sqrt(2 / (shape[0] + shape[1]))
                draw = torch.randn(shape, generator=generator, dtype=torch.float64)
                theta[self.columns[name]] = spread * draw.reshape(-1)
        return theta


def layers(params: Params, prefix: str) -> list[Layer]:
    """Collect a network's layers in order."""
    count = sum(name.startswith(f"{prefix}.") and name.endswith(".weight") for name in params)
    return [(params[f"{prefix}.{k}.weight"], params[f"{prefix}.{k}.bias"]) for k in range(count)]


def polynomial_features(xy: Jet, degree: int) -> Jet:
    """Products T_i(X) T_j(Y), 0 < i + j <= degree, of Chebyshev polynomials, and their slopes: channels [n, terms].

    `xy` holds X, Y in [-1, 1] and their slopes. T' = i U_{i-1}, both by the recurrence p_{k+1} = 2 X p_k - p_{k-1}.
    """

    def chebyshev(at: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        first, second = [torch.ones_like(at), at], [torch.ones_like(at), 2 * at]
        for _ in range(2, degree + 1):
            first.append(2 * at * first[-1] - first[-2])
            second.append(2 * at * second[-1] - second[-2])
        slope = [torch.zeros_like(at)] + [k * second[k - 1] for k in range(1, degree + 1)]
        return first, slope

    (tx, dx), (ty, dy) = chebyshev(xy.v[:, 0]), chebyshev(xy.v[:, 1])
    terms = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i) if i + j > 0]
    slope_x, slope_y = xy.x[:, 0], xy.y[:, 1]
    return Jet(
        torch.stack([tx[i] * ty[j] for i, j in terms], dim=1),
        torch.stack([dx[i] * ty[j] * slope_x for i, j in terms], dim=1),
        torch.stack([tx[i] * dy[j] * slope_y for i, j in terms], dim=1),
    )
