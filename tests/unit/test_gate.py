"""Laws of the gate: absence never passes, worse never helps, an explicit limit stands."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm import contract, tekton
from isotherm.pinn import evaluate, gate

GOOD = {contract.PDE_LOSS: 1e-4, contract.VAL_RESIDUAL: 1e-3, contract.VAL_MISFIT: 1.0, contract.A_SPREAD: 0.01}


def verdict(metrics: dict[str, float | None], **more: object) -> tuple[str, str]:
    checks = gate.absolute_checks(metrics, gate.Limits(), sigma_known=True)
    arguments = {"improvement": None, "min_improvement": -0.02, "same_digest": False, **more}
    return gate.judge(checks, **arguments)  # type: ignore[arg-type]


def test_a_good_model_without_champion_passes() -> None:
    assert verdict(GOOD) == ("pass", "no-champion")


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_value_that_is_missing_or_not_finite_fails(name: str, value: float | None) -> None:
    assert verdict({**GOOD, name: value})[0] == "fail"
    assert verdict({**GOOD, name: value}, same_digest=True)[0] == "fail"


def test_a_missing_metric_fails_as_none_does() -> None:
    for name in GOOD:
        assert verdict({k: v for k, v in GOOD.items() if k != name})[0] == "fail"


@pytest.mark.parametrize(
    ("improvement", "minimum", "expected"),
    [(0.1, -0.02, "pass"), (-0.01, -0.02, "pass"), (-0.02, -0.02, "fail"), (0.0, 0.0, "fail"), (math.nan, -1, "fail")],
)
def test_the_champion_rule_is_strict_above_its_minimum(improvement: float, minimum: float, expected: str) -> None:
    assert verdict(GOOD, improvement=improvement, min_improvement=minimum)[0] == expected


def test_the_champion_itself_passes_as_already_champion() -> None:
    assert verdict(GOOD, improvement=0.0, min_improvement=0.0, same_digest=True) == ("pass", "already-champion")


@given(
    st.sampled_from([contract.PDE_LOSS, contract.VAL_RESIDUAL, contract.A_SPREAD]),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_a_larger_residual_or_spread_never_turns_a_fail_into_a_pass(name: str, first: float, second: float) -> None:
    low, high = sorted((first, second))
    if verdict({**GOOD, name: high})[0] == "pass":
        assert verdict({**GOOD, name: low})[0] == "pass"


def test_an_explicit_param_stands_before_the_problem_and_the_default() -> None:
    limit = gate.limits({"pde_loss_max": 5.0}, {"pde_loss_max": 2.0, "val_residual_max": 0.03, "val_misfit": None})
    assert (limit.pde_loss_max, limit.val_residual_max, limit.a_spread_max) == (5.0, 0.03, 0.05)
    assert [limit.origin(m) for m in (contract.PDE_LOSS, contract.VAL_RESIDUAL, contract.A_SPREAD)] == [
        "param",
        "problem",
        "default",
    ]


def test_the_misfit_band_needs_a_known_noise() -> None:
    names = [check.name for check in gate.absolute_checks(GOOD, gate.Limits(), sigma_known=False)]
    assert contract.VAL_MISFIT not in names


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6))
def test_improvement_is_positive_exactly_when_the_candidate_is_better(champion: float, candidate: float) -> None:
    assert (gate.relative_improvement(champion, candidate) > 0) == (candidate < champion)


@pytest.mark.parametrize(
    ("difference", "verdict", "refused"),
    [
        (1e-9, "pass", False),
        (1e-3, "pass", True),
        (1e-3, "fail", True),
        (math.inf, "fail", True),
        (math.nan, "pass", True),
        (math.nan, "fail", False),  # the gate has seen the same NaN
    ],
)
def test_a_graph_that_answers_differently_never_gets_on(difference: float, verdict: str, refused: bool) -> None:
    if refused:
        with pytest.raises(tekton.Refused, match="ONNX and torch differ"):
            evaluate.require_parity(difference, verdict)
    else:
        evaluate.require_parity(difference, verdict)
