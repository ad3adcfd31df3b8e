"""From what a client sent to the question it asks: points [n, 3], the fields wanted, the source f where it is given.

Pure functions over parsed JSON; whatever does not fit raises `Refusal`, whose text says what and where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from isotherm import contract

Floats = npt.NDArray[np.float64]

ROWS_MAX = 100_000
FIELDS = (contract.ONNX_U, contract.ONNX_A, contract.ONNX_RESIDUAL)
# Some clients send these beside a point; the server computes them itself and takes nobody's word.
COMPUTED_HERE = frozenset({"oob_ratio", "r_pde_mean", "bc_violation_ratio"})
_NAMES = {str: "a string", bool: "a boolean", type(None): "null", list: "a list", dict: "an object"}


class Refusal(Exception):
    """A request that the client can put right: a 4xx status and the reason."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True)
class Question:
    """Points [n, 3] in physical units, the fields to answer, and f [n] or None."""

    points: Floats
    fields: tuple[str, ...] = (contract.ONNX_U,)
    source: Floats | None = None


def from_instances(payload: object) -> Question:
    """Read a V1 body: `{"instances": [[x, y, t], ...], "fields": ["a"], "f": [...]}`."""
    body = _known(payload, {"instances", "fields", "f"})
    if "instances" not in body:
        raise Refusal('the body lacks "instances", a list of [x, y, t]')
    points = _matrix(body["instances"], "instances")
    return Question(points, parse_fields(body.get("fields")), _source(body.get("f"), len(points)))


def from_coordinates(payload: object) -> Question:
    """Read one point: `{"x": ..., "y": ..., "t": ..., "fields": "a,residual", "f": ...}`."""
    body = _known(payload, {"x", "y", "t", "fields", "f"} | COMPUTED_HERE)
    for name in ("x", "y", "t"):
        if name not in body:
            raise Refusal(f'the body lacks "{name}", a number')
    points = _matrix([[body["x"], body["y"], body["t"]]], "[x, y, t]")
    source = body.get("f")
    return Question(points, parse_fields(body.get("fields")), _source(None if source is None else [source], 1))


def from_tensors(inputs: Iterable[Any], outputs: Sequence[str], parameters: Mapping[str, Any] | None) -> Question:
    """Read a V2 request: input `points` FP64 [n, 3] and, where the model asks for it, `f` FP64 [n].

    `inputs` have `name`, `shape`, `datatype` and `data`. The answer holds the outputs named, else `u` and what the
    parameter `fields` adds.
    """
    tensors: dict[str, Any] = {}
    for tensor in inputs:
        if tensor.name not in (contract.ONNX_POINTS, contract.ONNX_SOURCE) or tensor.name in tensors:
            raise Refusal(f"input {tensor.name[:60]!r} is unknown or given twice; inputs are points and f")
        if tensor.datatype != "FP64":
            raise Refusal(f"input {tensor.name} has datatype {tensor.datatype[:20]!r}; it must be FP64")
        tensors[tensor.name] = tensor
    if contract.ONNX_POINTS not in tensors:
        raise Refusal("input `points` is missing: FP64, shape [n, 3]")
    points = _tensor(tensors[contract.ONNX_POINTS], columns=3)
    source = None
    if contract.ONNX_SOURCE in tensors:
        source = _same_length(_tensor(tensors[contract.ONNX_SOURCE], columns=None), len(points))
    fields = parse_fields(list(outputs)) if outputs else parse_fields((parameters or {}).get("fields"))
    return Question(points, tuple(outputs) if outputs else fields, source)


def parse_fields(value: object) -> tuple[str, ...]:
    """Read the fields asked for, a list or comma-separated text; `u` always comes first."""
    if value is None:
        return (contract.ONNX_U,)
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refusal('"fields" must be a list of names or text with commas')
    for name in names:
        if name not in FIELDS:
            raise Refusal(f"field {name[:60]!r} is unknown; fields are {', '.join(FIELDS)}")
    return tuple(name for name in FIELDS if name == contract.ONNX_U or name in names)


def _known(payload: object, names: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(payload, dict):
        raise Refusal("the body must be a JSON object")
    known = set(names)
    for name in payload:
        if name not in known:
            raise Refusal(f"field {str(name)[:60]!r} is unknown; known are {', '.join(sorted(known - COMPUTED_HERE))}")
    return payload


def _matrix(rows: object, name: str) -> Floats:
    if not isinstance(rows, list) or not rows:
        raise Refusal(f"{name} must be a list of [x, y, t] with at least one row")
    _limit(len(rows))
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise Refusal(f"{name}[{number}] is {_name(row)}; a row is [x, y, t]")
        if len(row) != 3:
            raise Refusal(f"{name}[{number}] has {len(row)} entries; a row is [x, y, t]")
    return _numbers(list(chain.from_iterable(rows)), name).reshape(len(rows), 3)


def _numbers(values: list[Any], name: str) -> Floats:
    # The set of types is checked whole first: the search for the culprit is only paid for by bad requests.
    if not set(map(type, values)) <= {int, float}:
        where, value = next((i, v) for i, v in enumerate(values) if type(v) not in (int, float))
        raise Refusal(f"{name}: number {where} is {_name(value)}; numbers are needed")
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise Refusal(f"{name}: a number is too large") from error
    finite = np.isfinite(array)
    if not finite.all():
        raise Refusal(f"{name}: number {int((~finite).argmax())} is not finite")
    return array


def _tensor(tensor: Any, *, columns: int | None) -> Floats:
    shape, data = list(tensor.shape), tensor.data
    tail = [] if columns is None else [columns]
    if len(shape) != 1 + len(tail) or shape[1:] != tail or shape[0] < 1:
        wanted = "[n]" if columns is None else f"[n, {columns}]"
        raise Refusal(f"input {tensor.name} has shape {str(shape)[:60]}; it must be {wanted}, n at least 1")
    _limit(shape[0])
    if not isinstance(data, list):
        raise Refusal(f"input {tensor.name} has no data")
    if columns is not None and data and isinstance(data[0], list):
        array = _matrix(data, tensor.name)
    else:
        array = _numbers(data, tensor.name)
    if array.size != math.prod(shape):
        raise Refusal(f"input {tensor.name} has {array.size} numbers for shape {shape}")
    return array.reshape(shape)


def _source(values: object, rows: int) -> Floats | None:
    if values is None:
        return None
    if not isinstance(values, list):
        raise Refusal('"f" must be a list of numbers, one per point')
    return _same_length(_numbers(values, "f"), rows)


def _same_length(source: Floats, rows: int) -> Floats:
    if source.shape != (rows,):
        raise Refusal(f"f has {source.size} numbers for {rows} points")
    return source


def _limit(rows: int) -> None:
    if rows > ROWS_MAX:
        raise Refusal(f"{rows} points in one request; at most {ROWS_MAX}", status=413)


def _name(value: object) -> str:
    return _NAMES.get(type(value), "a number")
