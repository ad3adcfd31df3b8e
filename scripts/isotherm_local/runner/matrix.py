"""A PipelineTask's `matrix`: which TaskRuns it fans out into, and how their results come together again.

Source: Tekton Pipelines 1.15 `pkg/apis/pipeline/v1/matrix_types.go`, whose order and whose count are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from isotherm_local.runner import specs
from isotherm_local.runner.record import TaskRecord
from isotherm_local.runner.specs import Matrix, PipelineTask, Source
from isotherm_local.runner.substitution import Value, Variables, apply, apply_value, references, texts

LIMIT = 256  # combinations: Tekton's default-max-matrix-combinations-count
_LONGEST, _HEAD = 63, 31  # of Knative's kmeta.ChildName


def parse(body: Mapping[str, Any] | None, source: Source) -> Matrix | None:
    """Parse a matrix; one without params and include is none, as in Tekton."""
    if not body or not (body.get("params") or body.get("include")):
        return None
    include = []
    for index, item in enumerate(body.get("include") or ()):
        where = source / "include" / index / "params"
        values = specs.given_params(item.get("params"), where)
        for name, value in values.items():
            if not isinstance(value, str):
                raise where.refuse(
                    problem=f": {name} is of type {specs.type_of(value)}", remedy="only texts can be included"
                )
        include.append({name: value for name, value in values.items() if isinstance(value, str)})
    return Matrix(specs.given_params(body.get("params"), source / "params"), tuple(include))


def names(matrix: Matrix) -> list[str]:
    """Name every param that a matrix gives, once."""
    return list(dict.fromkeys([*matrix.params, *(name for values in matrix.include for name in values)]))


def replaced(matrix: Matrix, variables: Variables) -> Matrix:
    """Put values in place of references; whole arrays only in params, texts only in include."""
    plain = Variables(variables.strings, variables.arrays)
    return Matrix(
        {name: apply_value(value, plain) for name, value in matrix.params.items()},
        tuple({name: apply(value, variables.strings) for name, value in values.items()} for values in matrix.include),
    )


def values_of(matrix: Matrix) -> Iterable[tuple[tuple[str | int, ...], Value]]:
    """Yield each value of a matrix with its place in the PipelineTask."""
    for index, value in enumerate(matrix.params.values()):
        yield ("matrix", "params", index, "value"), value
    for number, included in enumerate(matrix.include):
        for index, text in enumerate(included.values()):
            yield ("matrix", "include", number, "params", index, "value"), text


def _array(value: Value) -> list[str]:
    # A reference that is not known yet counts as no value, as the unset ArrayVal does in Tekton.
    return value if isinstance(value, list) else []


def count(matrix: Matrix) -> int:
    """Count combinations as Tekton does; it makes that many TaskRuns, whatever `fan_out` gives."""
    arrays = {name: _array(value) for name, value in matrix.params.items()}
    if not arrays:
        return len(matrix.include)
    more = 0
    for values in matrix.include:
        for name, value in values.items():
            if name in arrays and value in arrays[name]:
                break
            more += name in arrays
    return math.prod(len(items) or 1 for items in arrays.values()) + more


def fan_out(matrix: Matrix) -> list[dict[str, str]]:
    """List the combinations; the first param varies fastest."""
    if not matrix.params:
        return [dict(values) for values in matrix.include]
    made: list[dict[str, str]] = []
    for name, value in matrix.params.items():
        items = _array(value)
        # Nothing so far starts anew, also after an empty array: Tekton then skips the Task.
        made = [{**one, name: item} for item in items for one in made] if made else [{name: item} for item in items]
    for one in made:
        for values in matrix.include:
            if all(one[name] == value for name, value in values.items() if name in one):
                one.update(values)
    for values in matrix.include:
        if values and not any(one.get(name) == value for one in made for name, value in values.items()):
            made.append(dict(values))
    return made


def empty(matrix: Matrix) -> bool:
    """Tell whether a param is an empty array, for which Tekton skips the Task."""
    return any(value == [] for value in matrix.params.values())


def problem(matrix: Matrix) -> str:
    """Say why a matrix whose values are known cannot fan out; empty where it can."""
    for name, value in matrix.params.items():
        if not isinstance(value, list):
            return f"matrix param {name} is of type {specs.type_of(value)}, not array"
    wanted, made = count(matrix), len(fan_out(matrix))
    if wanted != made and not empty(matrix):
        return (
            f"Tekton counts {wanted} combinations of this matrix and makes {made}: an include mixes old and new values"
        )
    return ""


def run_names(run: str, task: str, number: int) -> list[str]:
    """Name the TaskRuns of a PipelineTask: `run-task`, or `run-task-0` and so on where a matrix makes several."""
    if number == 1:
        return [child_name(run, f"-{task}")]
    found = []
    for index in range(number):
        name = child_name(run, f"-{task}-{index}")
        if not name.endswith(f"-{index}"):
            name = f"{child_name(run, f'-{task}')[: _LONGEST - len(f'-{number}')]}-{index}"
        found.append(name)
    return found


def child_name(parent: str, suffix: str) -> str:
    """Join two names, shortened with a digest beyond Kubernetes' 63 characters, as Knative's kmeta.ChildName does."""

    def digest(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    if len(parent) + len(suffix) <= _LONGEST:
        return parent + suffix
    if len(suffix) >= _HEAD:
        short = parent[:_HEAD] + digest(parent + suffix)
        return (short + suffix[: max(0, _LONGEST - len(short))]).rstrip("-.")
    return parent[: _HEAD - len(suffix)] + digest(parent) + suffix


def results(children: Sequence[TaskRecord]) -> dict[str, list[str]]:
    """Gather the results of a matrix' TaskRuns into arrays, sorted by the TaskRuns' names: -10 stands before -2."""
    found: dict[str, list[str]] = {}
    for child in sorted(children, key=lambda child: child.name):
        for name, value in child.results.items():
            found.setdefault(name, []).append(value if isinstance(value, str) else "")
    return found


def lengths(task: PipelineTask, records: Mapping[str, TaskRecord]) -> Variables:
    """Make `tasks.T.matrix.R.length`, the number of results R that T's TaskRuns gave so far."""
    found = {}
    written = [text for value in task.params.values() for text in texts(value)]
    for reference in (reference for text in written for reference in references(text)):
        parts = reference.split(".")
        if len(parts) == 5 and parts[2] == "matrix" and parts[4] == "length" and parts[1] in records:
            found[reference] = str(len(results(records[parts[1]].children).get(parts[3], ())))
    return Variables(found)
