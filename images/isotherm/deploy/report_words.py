"""What the report page says in words: the headline, the meaning of each figure, and numbers as people write them.

Input   `Reports` and the run's summary
Output  plain text; the page escapes it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from isotherm import contract
from isotherm.deploy.report_inputs import ALIASES, Deployment, Reports, Shadow

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

MEANINGS: Mapping[str, str] = {
    contract.PDE_LOSS: "How far the model is from obeying the heat equation at points it has not seen (mean square).",
    contract.VAL_RESIDUAL: "The same, relative to the size of the equation's own terms.",
    contract.VAL_MISFIT: "Misfit to measurements it has not seen, in units of their noise; about 1 is right.",
    contract.A_SPREAD: "How far independent trainings disagree about the diffusivity.",
    contract.A_REL_L2: "Error of the diffusivity against the known truth.",
}
NAMES: Mapping[str, str] = {
    contract.PDE_LOSS: "the PDE residual",
    contract.VAL_RESIDUAL: "the relative PDE residual",
    contract.VAL_MISFIT: "the misfit to unseen measurements",
    contract.A_SPREAD: "the spread of a over restarts",
}
REASONS: Mapping[str, str] = {
    "no-champion": "It met every limit, and there was no champion of this problem to compare with.",
    "not-inferior-to-champion": "It met every limit and fits the held-out measurements no worse than the champion.",
    "already-champion": "It met every limit and is the champion itself: the same parameters, bit for bit.",
    "worse-than-champion": "It met every limit, but the champion fits the held-out measurements better.",
}


class Headline(NamedTuple):
    """First line of the page, the sentence below it, and its tone: good, stopped, failed or plain."""

    title: str
    detail: str
    tone: str


def number(value: float | None) -> str:
    """Three significant digits, as `0.0123`, `12.3` or `2.51 × 10⁻⁴`; a dash where there is no value."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def percent(value: float | None) -> str:
    """A share as a percentage, with as many digits as it takes to tell 99.5 from 100."""
    return "–" if value is None else f"{100 * value:.3g} %"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s` or `1 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def limit_text(limit: str | float | list[float] | None) -> str:
    """A limit as the gate wrote it; a bare number is an upper limit, a pair a band."""
    if isinstance(limit, list):
        return " to ".join(f"{bound:g}" for bound in limit)
    if isinstance(limit, float | int):
        return f"< {limit:g}"
    return limit or "–"


def reason_text(reports: Reports) -> str:
    """Why the gate decided as it did."""
    evaluation = reports.evaluation
    if evaluation is None:
        return "The run did not reach the gate."
    missed = [check.name for check in evaluation.checks if not check.passed]
    if missed:
        return f"It missed its limit on {' and '.join(NAMES.get(name, name) for name in missed)}."
    return REASONS.get(evaluation.reason or "", f"Reason: {evaluation.reason or 'not stated'}.")


def headline(reports: Reports, summary: Mapping[str, Any]) -> Headline:
    """Say what this run came to: first what failed, then the gate, then what traffic did."""
    if summary["failed"]:
        return Headline(
            f"The run failed in {', '.join(summary['failed'])}", _failure(reports, summary["failed"]), "failed"
        )
    if reports.evaluation and reports.evaluation.verdict == contract.VERDICT_FAIL:
        return Headline("The gate said no", f"{reason_text(reports)} Traffic stayed where it was.", "stopped")
    if reports.shift:
        return _shifted(reports, summary)
    if reports.replay:
        return _replayed(reports.replay)
    if reports.deployment and reports.deployment.dry_run:
        return Headline("Planned, not deployed", "This was a dry run: the plan is below, traffic stayed.", "plain")
    if reports.deployment:
        return _waiting(reports.deployment)
    if not reports.by_task():
        return Headline("Nothing was reported", "No Task of this run left a report.", "plain")
    return Headline("The run ended before any traffic moved", reason_text(reports), "plain")


def _replayed(shadow: Shadow) -> Headline:
    """A shadow changes nothing: it says what a model without traffic made of the requests."""
    asked = f"{shadow.requests} requests of {shadow.source} were asked again. Traffic stayed where it was."
    if shadow.outcome == contract.VERDICT_PASS:
        return Headline("The model passed its replay", f"It may take traffic. {asked}", "good")
    return Headline("The model did not pass its replay", f"{shadow.reason.capitalize()}. {asked}", "stopped")


def _waiting(deployment: Deployment) -> Headline:
    """With manual promotion a run ends here: the model is deployed, and a person decides."""
    version = contract.semver(str(deployment.model_version))
    how = (
        f"Pipeline blue-green with model-version {deployment.model_version} and model-digest {deployment.model_digest}"
    )
    if deployment.route_created or deployment.outcome == "unchanged":
        text = f"It has the traffic already, as a Route's first model does; {how} names it champion."
        return Headline(f"Version {version} serves and waits for approval", text, "plain")
    text = f"It is ready on {deployment.colour} and traffic stayed where it was; {how} gives it the traffic."
    return Headline(f"Version {version} waits for approval", text, "plain")


def _shifted(reports: Reports, summary: Mapping[str, Any]) -> Headline:
    shift, version = reports.shift, summary["model_version"]
    after = (shift.after if shift else None) or {}
    name = f"Version {contract.semver(version)}" if version else "The model"
    live = ", ".join(f"{colour} {weight} %" for colour, weight in after.items() if weight)
    if shift and shift.outcome == "unchanged":
        return Headline(f"{name} already had the traffic", f"Nothing had to move: {live}.", "good")
    rollback = shift is not None and shift.rollback
    share = summary["observed_share"]
    seen = f" {share['n']} answers were watched on the way through the router." if share else ""
    title = f"Traffic is back on {name.replace('V', 'v')}" if rollback else f"{name} has the traffic"
    why = f"{reason_text(reports)} " if reports.evaluation else ""
    return Headline(title, f"{why}Traffic now: {live}.{seen}", "good")


def _failure(reports: Reports, failed: list[str]) -> str:
    """Why the first failed Task failed, where it could still say so, and where that leaves traffic."""
    report = reports.by_task().get(ALIASES.get(failed[0], failed[0]))
    cause = report.error if report and report.error else "The last line of its log says why, and what to do."
    shift = reports.shift
    if shift and shift.restored:
        left = "The weights found before the shift were put back."
    elif shift and shift.after:
        left = "Traffic had moved before that."
    elif "shift" in failed:
        left = "Look at the Route: a failed shift puts back the weights it found."
    else:
        left = "This run moved no traffic."
    return f"{cause} {left}"
