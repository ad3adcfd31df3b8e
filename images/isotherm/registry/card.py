"""The model card: what a person must know before trusting a version, as Markdown in the registry.

Input   the training run's tags and metrics, the bundle's model.json, the gate's report where there is one
Output  Markdown text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isotherm import contract


def _plain(value: object) -> str:
    """One table cell: numbers short, no text that could end the cell or start markup."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())[:300]
    return text.translate({ord(c): f"\\{c}" for c in "|<>`*_[]"})


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gate(evaluation: Mapping[str, Any] | None) -> str:
    if not evaluation:
        return "The gate's report was not on the workspace when this version was registered."
    rows = [
        (check.get("name"), check.get("value"), check.get("limit"), "yes" if check.get("passed") else "no")
        for check in evaluation.get("checks") or []
    ]
    verdict = f"Verdict **{_plain(evaluation.get('verdict'))}** ({_plain(evaluation.get('reason'))})."
    return f"{verdict}\n\n{_table(('check', 'value', 'limit', 'passed'), rows)}"


def _domain(model: Mapping[str, Any]) -> str:
    units: Mapping[str, Any] = model.get("units") or {}
    parts = []
    for axis, bounds in (model.get("domain") or {}).items():
        unit = units.get("t" if axis == "t" else "x", "1")
        parts.append(f"{axis} {bounds[0]:g} to {bounds[1]:g}" + (f" {unit}" if unit != "1" else ""))
    return _plain(", ".join(parts) or "not stated")


def model_card(
    model_name: str,
    run_id: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    model: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
) -> str:
    """Write the card of one version; `model` is the content of model.json."""
    units: Mapping[str, Any] = model.get("units") or {}
    signature: Mapping[str, Any] = model.get("signature") or {}
    lineage = [(tag, tags[tag]) for tag in contract.LINEAGE_TAGS]
    return f"""# {_plain(model_name)}: {_plain(tags[contract.TAG_PROBLEM].partition(":")[0])}

A physics-informed neural network for the inverse heat problem `{contract.EQUATION}`: it answers the temperature
`u(x, y, t)` and the diffusivity `a(x, y)` that it inferred from measurements {_plain(tags[contract.TAG_DATA_VERSION])}.

## Intended use
Interpolate `u` and read `a` inside the measured domain: {_domain(model)}. Units: u in {_plain(units.get("u", "1"))},
a in {_plain(units.get("a", "1"))}.

## Limits
Outside that domain the answers are extrapolations. A small PDE residual alone does not prove `a` right: read the
misfit and the spread over restarts beside it. The model holds for one specimen and its boundary; another needs its own
measurements.

## Gate
{_gate(evaluation)}

## Metrics of the training run
{_table(("metric", "value"), sorted(metrics.items()))}

## Signature
Inputs {_plain(signature.get("inputs", "not stated"))}

Outputs {_plain(signature.get("outputs", "not stated"))}

## Lineage
{_table(("tag", "value"), [*lineage, ("run", run_id)])}
"""
