"""The gate as pure functions: absolute physics limits, then non-inferiority to the champion of the same problem.

Residuals alone do not certify `a`: a run can meet the PDE with a wrong diffusivity. Hence the misfit band and the
restarts' spread stand beside
them, and a value that is missing, NaN or infinite fails its check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from isotherm import contract

REASON_NO_CHAMPION = "no-champion"
REASON_ALREADY_CHAMPION = "already-champion"
REASON_NOT_INFERIOR = "not-inferior-to-champion"


@dataclass(frozen=True)
class Limits:
    """What a model must meet. `source` says, per metric, where its limit came from: param, problem or default."""

    pde_loss_max: float = contract.GATE_PDE_LOSS_MAX
    val_residual_max: float = contract.GATE_VAL_RESIDUAL_MAX
    val_misfit: tuple[float, float] = (contract.GATE_VAL_MISFIT_MIN, contract.GATE_VAL_MISFIT_MAX)
    a_spread_max: float = contract.GATE_A_SPREAD_MAX
    source: Mapping[str, str] | None = None

    def origin(self, metric: str) -> str:
        """Say where the limit on `metric` came from."""
        return (self.source or {}).get(metric, "default")


@dataclass(frozen=True)
class Check:
    """One line of the gate table: `low < value < high` (None = no such side)."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    passed: bool
    source: str
    meaning: str

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form; a value that is not finite becomes null."""
        return {**asdict(self), "limit": self.limit()}

    def limit(self) -> str:
        """Show the limit as people write it."""
        if self.low is None:
            return f"< {self.high:g}"
        return f"> {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


MEANINGS = {
    contract.PDE_LOSS: "mean square of the PDE residual at unseen points",
    contract.VAL_RESIDUAL: "PDE residual relative to the size of the equation's own terms",
    contract.VAL_MISFIT: "misfit to unseen measurements in units of their noise; about 1 is right",
    contract.A_SPREAD: "how far independent restarts disagree about a",
}


def limits(params: Mapping[str, float | None], problem: Mapping[str, Any]) -> Limits:
    """Combine limits: an explicit param stands, else the problem's own, else the default."""
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    keys = {
        "pde_loss_max": contract.PDE_LOSS,
        "val_residual_max": contract.VAL_RESIDUAL,
        "val_misfit": contract.VAL_MISFIT,
        "a_spread_max": contract.A_SPREAD,
    }
    for key, metric in keys.items():
        if params.get(key) is not None:
            values[key], source[metric] = params[key], "param"
        elif problem.get(key) is not None:
            value = problem[key]
            values[key], source[metric] = (tuple(value) if key == "val_misfit" else value), "problem"
    return Limits(**values, source=source)


def finite(value: float | None) -> float | None:
    """Return a value as reports hold it: None where it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _check(name: str, value: float | None, low: float | None, high: float | None, source: str) -> Check:
    known = finite(value)
    passed = known is not None and (low is None or known > low) and (high is None or known < high)
    return Check(name, known, low, high, passed, source, MEANINGS[name])


def absolute_checks(metrics: Mapping[str, float | None], limit: Limits, *, sigma_known: bool) -> list[Check]:
    """Judge the candidate by itself. The misfit band applies only where the noise is known."""
    rows: list[tuple[str, float | None, float | None]] = [
        (contract.PDE_LOSS, None, limit.pde_loss_max),
        (contract.VAL_RESIDUAL, None, limit.val_residual_max),
        (contract.A_SPREAD, None, limit.a_spread_max),
    ]
    if sigma_known:
        rows.append((contract.VAL_MISFIT, *limit.val_misfit))
    return [_check(name, metrics.get(name), low, high, limit.origin(name)) for name, low, high in rows]


def relative_improvement(champion: float, candidate: float) -> float:
    """Return (champion - candidate) / champion of the same misfit on the same rows:

    positive = the candidate is better.
    """
    return (champion - candidate) / champion if champion > 0 else math.nan


def judge(
    checks: list[Check], *, improvement: float | None, min_improvement: float, same_digest: bool
) -> tuple[str, str]:
    """Return verdict and reason. `improvement` None = there is no champion of this problem, absolute checks alone
    decide.

    A candidate that is the champion itself (same digest) passes: deploying it again is a no-op further down.
    """
    failed = sorted(check.name for check in checks if not check.passed)
    if failed:
        return contract.VERDICT_FAIL, "failed-" + "-".join(name.replace("_", "-") for name in failed)
    if same_digest:
        return contract.VERDICT_PASS, REASON_ALREADY_CHAMPION
    if improvement is None:
        return contract.VERDICT_PASS, REASON_NO_CHAMPION
    # NaN compares false: an improvement that could not be computed never passes.
    if improvement > min_improvement:
        return contract.VERDICT_PASS, REASON_NOT_INFERIOR
    return contract.VERDICT_FAIL, "worse-than-champion"
