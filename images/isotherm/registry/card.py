"""The model card: what a person must know before trusting a version, as Markdown in the registry.

Input   the training run's tags and metrics, the bundle's model.json, the gate's report where there is one
Output  Markdown text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from isotherm import contract


class _Part(BaseModel):
    """The part of model.json that the registry reads; more fields are the predictor's business."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Tensor(_Part):
    """One input or output of the graph; a text in `shape` is a free size."""

    name: str
    dtype: str
    shape: list[int | str]
    unit: str | list[str] = "1"


class Signature(_Part):
    """What goes into the graph and what comes out."""

    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]


class Metadata(_Part):
    """Content of model.json; `domain` in the problem's units, which are `units`."""

    model_digest: str
    domain: dict[str, tuple[float, float]]
    units: dict[str, str]
    signature: Signature


def _plain(value: object) -> str:
    """One table cell: numbers short, no text that could end the cell or start markup."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())[:300]
    return text.translate({ord(c): f"\\{c}" for c in "|<>`*[]"})


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


def _signature(signature: Signature) -> str:
    sides = [("input", tensor) for tensor in signature.inputs] + [("output", tensor) for tensor in signature.outputs]
    rows = [(side, tensor.name, tensor.dtype, _list(tensor.shape), _list(tensor.unit)) for side, tensor in sides]
    return _table(("", "name", "type", "shape", "unit"), rows)


def _list(value: str | Sequence[object]) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _unit(units: Mapping[str, str], quantity: str) -> str:
    unit = units.get(quantity, "1")
    return f"{quantity} nondimensional" if unit == "1" else f"{quantity} in {_plain(unit)}"


def _domain(model: Metadata) -> str:
    parts = []
    for axis, (low, high) in model.domain.items():
        unit = model.units.get("t" if axis == "t" else "x", "1")
        parts.append(f"{axis} {low:g} to {high:g}" + (f" {unit}" if unit != "1" else ""))
    return _plain(", ".join(parts))


def model_card(
    model_name: str,
    run_id: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    model: Metadata,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """Write the card of one version."""
    lineage = [(tag, tags[tag]) for tag in contract.LINEAGE_TAGS]
    return f"""# {_plain(model_name)}: {_plain(tags[contract.TAG_PROBLEM].partition(":")[0])}

A physics-informed neural network for the inverse heat problem `{contract.EQUATION}`: it answers the temperature
`u(x, y, t)` and the diffusivity `a(x, y)` that it inferred from measurements {_plain(tags[contract.TAG_DATA_VERSION])}.

## Intended use
Interpolate `u` and read `a` inside the measured domain: {_domain(model)};
{_unit(model.units, "u")}, {_unit(model.units, "a")}.

## Limits
Outside that domain the answers are extrapolations. A small PDE residual alone does not prove `a` right: read the
misfit and the spread over restarts beside it. The model holds for one specimen and its boundary; another needs its own
measurements.

## Gate
{_gate(evaluation)}

## Metrics of the training run
{_table(("metric", "value"), sorted(metrics.items()))}

## Signature
{_signature(model.signature)}

## Lineage
{_table(("tag", "value"), [*lineage, ("run", run_id)])}
"""
