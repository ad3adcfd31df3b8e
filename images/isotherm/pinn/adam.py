"""Recipe `source`: Adam (Kingma and Ba, arXiv 1412.6980) on all points at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from isotherm.pinn.levenberg import State
from isotherm.pinn.objective import Objective

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def run(objective: Objective, epochs: int, lr: float, state: State, moments: dict[str, Tensor]) -> Iterator[State]:
    """Iterate up to `epochs`, yielding the state after each; `moments` (m, v) is updated in place for checkpoints."""
    moments.setdefault("m", torch.zeros_like(state.theta))
    moments.setdefault("v", torch.zeros_like(state.theta))
    while not state.done:
        started = time.perf_counter()
        theta = state.theta.clone().requires_grad_(True)
        with torch.enable_grad():
            parts = objective.mean_squares(theta)
            total = objective.total(parts)
            (gradient,) = torch.autograd.grad(total, theta)
        state.iteration += 1
        moments["m"].mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
        moments["v"].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        m = moments["m"] / (1 - BETA_1**state.iteration)
        v = moments["v"] / (1 - BETA_2**state.iteration)
        state.theta = state.theta - lr * m / (v.sqrt() + EPSILON)
        state.done = state.iteration >= epochs
        state.seconds += time.perf_counter() - started
        terms = {name: float(value.detach()) for name, value in parts.items()}
        state.history.append(
            {"iteration": state.iteration, "stage": 0, "seconds": state.seconds, "objective": float(total.detach())}
            | terms
        )
        yield state
