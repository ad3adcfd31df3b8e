"""The Jacobian of a residual, row by row, from one backward pass.

Row n of a residual depends on the parameters only through row n of each pre-activation z = W h + b (and of its
derivative channels). So the gradient of the *sum* of the residual with respect to every z, outer-multiplied with the
layer's input h, gives each row's own derivatives:
dr_n/dW_ij = sum over channels c of (dr_n/dz^c_ni) h^c_nj, and dr_n/db_i = dr_n/dz^v_ni.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from isotherm.physics.jets import Jet, Record
from isotherm.pinn.networks import Layout


@dataclass
class Tape:
    """Remembers, while a residual is evaluated, what its Jacobian needs."""

    layout: Layout
    affine: list[tuple[str, Jet, Jet]] = field(default_factory=list)
    scalars: list[tuple[str, Tensor]] = field(default_factory=list)

    def record(self, prefix: str) -> Record:
        """Return the callback with which a network reports its layers."""

        def note(index: int, h: Jet, z: Jet) -> None:
            for channel in z:
                if channel is not None and not channel.requires_grad:
                    channel.requires_grad_(True)
            self.affine.append((f"{prefix}.{index}", h, z))

        return note

    def scalar(self, name: str, value: Tensor, rows: int) -> Tensor:
        """Spread a one-number parameter over the rows, each a leaf of its own."""
        spread = value.reshape(1).expand(rows).clone().requires_grad_(True)
        self.scalars.append((name, spread))
        return spread

    def jacobian(self, residual: Tensor, scale: float, out: Tensor) -> None:
        """Write scale * dr/dtheta into `out` [n, columns], whose columns are the first of the layout's.

        Columns of parameters that do not enter the residual are left as they are: hand in zeros, or the last result.
        """
        leaves = [c for _, _, z in self.affine for c in z if c is not None] + [s for _, s in self.scalars]
        gradients = iter(torch.autograd.grad(residual.sum() * scale, leaves, allow_unused=True))
        for name, h, z in self.affine:
            channels = [(next(gradients), c) for c, present in zip(h, z, strict=True) if present is not None]
            used = [(g, c) for g, c in channels if g is not None]
            left = torch.stack([g for g, _ in used], dim=2)  # [n, out, channels]
            right = torch.stack([c for _, c in used], dim=1)  # [n, channels, in]
            self._put(out, f"{name}.weight", torch.bmm(left, right).flatten(1))
            if channels[0][0] is not None:
                self._put(out, f"{name}.bias", channels[0][0])
        for name, spread in self.scalars:
            gradient = next(gradients)
            if gradient is not None:
                self._put(out, name, gradient.reshape(len(spread), 1))

    def _put(self, out: Tensor, name: str, block: Tensor) -> None:
        columns = self.layout.columns[name]
        # A column beyond `out` belongs to a parameter that is held fixed.
        if columns.stop <= out.shape[1]:
            out[:, columns] = block.detach()
