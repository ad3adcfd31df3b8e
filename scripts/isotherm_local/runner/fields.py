"""Apply the table of Tekton's fields to a document before anything runs, and print it.

A field that is not in `field_table` is refused as unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from isotherm_local.runner.documents import Document, FieldPath, dotted
from isotherm_local.runner.field_table import TYPES, Field, Treatment

_SCALARS: dict[str, tuple[str, tuple[type, ...]]] = {
    "text": ("text", (str,)),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "duration": ("a duration such as 10m", (str, int)),
    "value": ("text, a list of texts or a mapping of texts", (str, int, float, bool, list, dict)),
    "any": ("anything", (object,)),
    "texts": ("a list of texts", (list,)),
}


def _fits(value: Any, shape: str) -> bool:
    kinds = _SCALARS[shape][1]
    if shape == "texts":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if shape == "int" and isinstance(value, bool):
        return False
    if shape == "value" and isinstance(value, list | dict):
        return all(isinstance(item, str) for item in (value if isinstance(value, list) else value.values()))
    return isinstance(value, kinds)


def _walk(value: Any, shape: str, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    """Yield each problem of `value` against `shape`: the field's path and what is wrong."""
    if shape.startswith("[]"):
        if not isinstance(value, list):
            yield path, f"{dotted(path)} must be a list"
            return
        for index, item in enumerate(value):
            yield from _walk(item, shape[2:], (*path, index))
    elif shape.startswith("{}"):
        if not isinstance(value, dict):
            yield path, f"{dotted(path)} must be a mapping"
            return
        for key, item in value.items():
            yield from _walk(item, shape[2:], (*path, key))
    elif shape in _SCALARS:
        if not _fits(value, shape):
            yield path, f"{dotted(path)} must be {_SCALARS[shape][0]}"
    elif not isinstance(value, dict):
        yield path, f"{dotted(path)} must be a mapping"
    else:
        for key, item in value.items():
            yield from _field(key, item, TYPES[shape], (*path, key))


def _field(key: str, value: Any, known: dict[str, Field], path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    field = known.get(key)
    if field is None:
        close = get_close_matches(key, known, n=1)
        yield path, f"{dotted(path)} is not a field of Tekton" + (f" (did you mean {close[0]}?)" if close else "")
    elif field.treatment is Treatment.REFUSED:
        yield path, f"{dotted(path)} is refused by the local runner: {field.note}"
    elif field.treatment is Treatment.HONOURED and value is not None:
        yield from _walk(value, field.shape, path)


def check(document: Document) -> list[str]:
    """List what the local runner refuses in a document, each with its path and file:line; empty where all is well."""
    return [f"{document.where(path)}: {problem}" for path, problem in _walk(document.body, document.kind, ())]


def inert(document: Document) -> list[str]:
    """List the paths of the fields that a document sets and the local runner accepts without effect."""
    found: list[str] = []

    def visit(value: Any, shape: str, path: FieldPath) -> None:
        if shape.startswith("[]"):
            for index, item in enumerate(value):
                visit(item, shape[2:], (*path, index))
        elif shape in TYPES:
            for key, item in value.items():
                field = TYPES[shape][key]
                if field.treatment is Treatment.INERT:
                    found.append(dotted((*path, key)))
                elif item is not None:
                    visit(item, field.shape, (*path, key))

    visit(document.body, document.kind, ())
    return found


@dataclass(frozen=True)
class Row:
    """A row of the printed table."""

    path: str
    treatment: Treatment
    note: str


def table() -> list[Row]:
    """Flatten `TYPES` from the four kinds down; a shared type (a Task's own spec inside a Pipeline) is listed once."""
    rows: list[Row] = []
    seen: set[str] = set()

    def visit(shape: str, prefix: str) -> None:
        inner, suffix = (
            (shape[2:], "[]" if shape.startswith("[]") else ".*") if shape[:2] in ("[]", "{}") else (shape, "")
        )
        if inner not in TYPES or inner in seen:
            return
        seen.add(inner)
        for name, field in TYPES[inner].items():
            path = f"{prefix}{suffix}.{name}"
            rows.append(Row(path, field.treatment, field.note))
            visit(field.shape, path)

    for kind in ("Task", "Pipeline", "PipelineRun", "TaskRun"):
        visit(kind, kind)
    return rows
