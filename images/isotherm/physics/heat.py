"""The heat equation u_t - div(a grad u) = f, nondimensional: one function per term.

Every function takes fields as jets with channels [n] and returns [n].
"""

from __future__ import annotations

from torch import Tensor

from isotherm.physics.jets import Jet


def div_a_grad_u(a: Jet, u: Jet) -> Tensor:
    """div(a grad u) = a (u_xx + u_yy) + a_x u_x + a_y u_y."""
    return a.v * u.lap + a.x * u.x + a.y * u.y


def pde_residual(u: Jet, a: Jet, f: Tensor) -> Tensor:
    """R = u_t - div(a grad u) - f."""
    return u.t - div_a_grad_u(a, u) - f


def residual_power(u: Jet, a: Jet, f: Tensor) -> Tensor:
    """u_t^2 + (div a grad u)^2 + f^2: val_residual = sqrt(mean r^2 / mean of this) is the residual made relative."""
    return u.t**2 + div_a_grad_u(a, u) ** 2 + f**2


def insulated_residual(u: Jet, normal: Tensor) -> Tensor:
    """du/dn on an edge that no heat crosses; `normal` [n, 2] points outwards."""
    return normal[:, 0] * u.x + normal[:, 1] * u.y


def dirichlet_residual(u: Jet, u_edge: Tensor) -> Tensor:
    """U - u_edge on an edge held at a given value."""
    return u.v - u_edge


def initial_residual(u: Jet, u_start: Tensor) -> Tensor:
    """U - u_start at the first instant."""
    return u.v - u_start
