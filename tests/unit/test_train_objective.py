"""The per-row Jacobian and the objective: against differences, and against their own definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trainings import heatinv, plate, small_objective

from isotherm.pinn import levenberg
from isotherm.pinn.jacobian import Tape
from isotherm.pinn.networks import Architecture
from isotherm.pinn.objective import Objective, add_gram

SMALL = {"u_hidden": (5, 4), "a_hidden": (3,), "f_hidden": (3,), "a_degree": 3}
ARCHITECTURES = {
    "nn": Architecture(**SMALL),
    "exp": Architecture(**SMALL, a_exp=True),
    "poly": Architecture(**SMALL, a_model="poly"),
    "infer-f": Architecture(**SMALL, infer_f=True),
}
ON_PLATE = {"constant": Architecture(**SMALL, a_model="constant"), "free edges": Architecture(**SMALL)}


def objective_of(name: str, folder: Path, where: torch.device | str = "cpu") -> Objective:
    if name in ON_PLATE:
        return small_objective(plate(folder), ON_PLATE[name], where)
    return small_objective(heatinv(folder, 30), ARCHITECTURES[name], where)


def rows(objective: Objective, name: str, theta: torch.Tensor) -> torch.Tensor:
    term = next(t for t in objective.terms if t.name == name)
    return term.rows(objective.model.layout.views(theta), None)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *ON_PLATE])
def test_every_terms_jacobian_equals_central_differences(name: str, tmp_path: Path) -> None:
    objective = objective_of(name, tmp_path)
    theta = objective.model.initial(7) + 0.1
    for term in objective.terms:
        tape = Tape(objective.model.layout)
        residual = term.rows(objective.model.layout.views(theta), tape)
        exact = torch.zeros(len(residual), term.columns, dtype=torch.float64)
        tape.jacobian(residual, 1.0, exact)
        step = 1e-6
        for column in range(len(theta)):
            shift = torch.zeros_like(theta)
            shift[column] = step
            difference = (rows(objective, term.name, theta + shift) - rows(objective, term.name, theta - shift)) / (
                2 * step
            )
            expected = exact[:, column] if column < term.columns else torch.zeros_like(difference)
            error = (difference - expected).abs().max() / max(1.0, float(expected.abs().max()))
            assert error < 1e-6, f"{name}: term {term.name}, column {column}"


@pytest.mark.parametrize("name", ["nn", "constant"])
def test_the_normal_equations_hold_the_gradient_of_the_objective(name: str, tmp_path: Path) -> None:
    objective = objective_of(name, tmp_path)
    theta = objective.model.initial(1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective.total(objective.mean_squares(theta)), theta)
    hessian, right, parts = objective.normal_equations(theta.detach(), len(theta))
    torch.testing.assert_close(2 * right, gradient, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(hessian, hessian.T)
    assert torch.linalg.eigvalsh(hessian).min() > -1e-9
    for term, value in objective.mean_squares(theta.detach()).items():
        torch.testing.assert_close(parts[term], value)


@pytest.mark.parametrize("columns", [1, 3, 4, 57])
def test_the_blocked_product_is_the_product(columns: int) -> None:
    jacobian = torch.randn(40, columns, dtype=torch.float64)
    out = torch.zeros(columns, columns, dtype=torch.float64)
    add_gram(out, jacobian)
    torch.testing.assert_close(out.triu(), (jacobian.T @ jacobian).triu())


def test_steps_never_raise_the_objective_within_a_stage_and_held_parameters_stay(tmp_path: Path) -> None:
    objective = objective_of("constant", tmp_path)
    layout = objective.model.layout
    state = levenberg.State(objective.model.initial(0))
    stages = [levenberg.Stage(0.1, 6, nuisance=False), levenberg.Stage(2.0, 6)]
    held = layout.end_of("u", "a", "f")
    with torch.no_grad():
        for _ in levenberg.run(objective, stages, state, held):
            if state.history[-1]["stage"] == 0:
                assert bool((state.theta[held:] == 0).all())
    assert bool((state.theta[held:] != 0).all())
    for stage in (0, 1):
        values = [row["objective"] for row in state.history if row["stage"] == stage]
        assert values == sorted(values, reverse=True)
    assert state.done
    assert len(state.history) == 12
