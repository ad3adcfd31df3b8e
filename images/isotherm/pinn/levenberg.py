"""Levenberg-Marquardt on the normal equations, in stages of rising PDE weight (homotopy).

Each stage starts its damping anew; a step is accepted on its gain ratio; damping shrinks and grows as Nielsen proposes
(H. B. Nielsen, IMM-REP-1999-05), with a capped shrink and a growth that doubles at each refusal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isotherm.pinn.objective import Objective

ACCEPT_GAIN = 1e-4
FIRST_DAMPING = 1e-4
STALL_DECREASE = 1e-5
STALL_STEPS = 3
TRIALS_PER_ITERATION = 12


@dataclass(frozen=True)
class Stage:
    """A weight of the PDE, a cap on iterations, and whether nuisance parameters move."""

    w_pde: float
    iterations: int
    nuisance: bool = True


@dataclass
class State:
    """Where a restart stands: everything that its continuation needs."""

    theta: Tensor
    stage: int = 0
    iteration: int = 0  # over all stages
    in_stage: int = 0
    damping: float = 0.0  # 0 = the stage has not begun
    stalled: int = 0
    done: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def numbers(self) -> dict[str, float | int | bool]:
        """All but theta and history, JSON-ready."""
        return {name: value for name, value in vars(self).items() if name not in ("theta", "history")}


def run(objective: Objective, stages: list[Stage], state: State, free_before_nuisance: int) -> Iterator[State]:
    """Iterate until the last stage stalls or is used up, yielding the state after every iteration."""
    while not state.done:
        started = time.perf_counter()
        at, stage = state.stage, stages[state.stage]
        weighted = objective.reweighted(pde=stage.w_pde)
        free = len(state.theta) if stage.nuisance else free_before_nuisance
        if state.damping == 0:
            state.damping = FIRST_DAMPING * max(stage.w_pde, 0.1)
        decrease, parts = step(weighted, state, free)
        state.iteration += 1
        state.in_stage += 1
        state.stalled = state.stalled + 1 if decrease < STALL_DECREASE else 0
        if state.stalled >= STALL_STEPS or state.in_stage >= stage.iterations:
            state.stage, state.in_stage, state.stalled, state.damping = state.stage + 1, 0, 0, 0.0
            state.done = state.stage == len(stages)
        state.seconds += time.perf_counter() - started
        state.history.append(
            {
                "iteration": state.iteration,
                "stage": at,
                "seconds": state.seconds,
                **parts,
            }
        )
        yield state


def step(objective: Objective, state: State, free: int) -> tuple[float, dict[str, float]]:
    """Take one accepted step, or none after several refusals.

    Returns the relative decrease of the objective, and the terms' mean squares where the step ended.
    """
    hessian, gradient, parts = objective.normal_equations(state.theta, free)
    before = objective.total(parts)
    growth = 2.0
    for _ in range(TRIALS_PER_ITERATION):
        damped = hessian + state.damping * torch.eye(free, dtype=hessian.dtype, device=hessian.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed) == 0:
            delta = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
            trial = state.theta.clone()
            trial[:free] += delta
            trial_parts = objective.mean_squares(trial)
            after = objective.total(trial_parts)
            expected = delta @ (hessian @ delta) + 2 * state.damping * (delta @ delta)
            gain = float((before - after) / expected)
            if gain > ACCEPT_GAIN and bool(torch.isfinite(after)):
                state.theta = trial
                state.damping *= max(1 / 5, 1 - (2 * gain - 1) ** 3)
                return float((before - after) / before), _numbers(after, trial_parts)
        state.damping *= growth
        growth = min(2 * growth, 16.0)
    return 0.0, _numbers(before, parts)


def _numbers(total: Tensor, parts: dict[str, Tensor]) -> dict[str, float]:
    return {"objective": float(total), **{name: float(value) for name, value in parts.items()}}
