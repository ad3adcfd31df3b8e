"""Tekton's `$(...)` substitution and the kubelet's `$(NAME)` expansion, as pure functions.

Sources: Tekton Pipelines 1.15 `pkg/substitution`, `pkg/apis/pipeline/v1/{resultref,param_types,when_types}.go`;
Kubernetes `third_party/forked/golang/expansion`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Value = str | list[str] | dict[str, str]

# Braces do not nest: `$($(params.a))` substitutes the inner one only, in a single pass.
_REFERENCE = re.compile(r"\$\(([^$()]+)\)")
_TEKTON = re.compile(
    r"(params|tasks|finally|context|workspaces|results|steps|step|credentials|artifacts|inputs|outputs)[.\[]"
)
_RESULT = re.compile(r"(tasks|finally)\.([^.\[]+)\.results\.([^.\[]+)(?:\.([^.\[]+)|\[(\d+|\*)\])?")
_EXACT = re.compile(r"\$\(([_a-zA-Z0-9.-]+)(\[\*\])?\)")


@dataclass
class Variables:
    """What references stand for, by the text between `$(` and `)`."""

    strings: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, dict[str, str]] = field(default_factory=dict)

    def __or__(self, other: Variables) -> Variables:
        """Join two sets of variables; those of `other` win."""
        return Variables(self.strings | other.strings, self.arrays | other.arrays, self.objects | other.objects)

    def define(self, spellings: Iterable[str], value: Value) -> None:
        """Define a value of any type under each of the spellings of its name."""
        for key in spellings:
            if isinstance(value, str):
                self.strings[key] = value
            elif isinstance(value, list):
                self.arrays[key] = value
                self.strings.update({f"{key}[{index}]": item for index, item in enumerate(value)})
            else:
                self.objects[key] = value
                self.strings.update({f"{key}.{name}": item for name, item in value.items()})


def spellings(prefix: str, name: str, suffix: str = "") -> tuple[str, str, str]:
    """Spell a variable in Tekton's three ways: `params.x`, `params["x"]`, `params['x']`."""
    return f"{prefix}.{name}{suffix}", f'{prefix}["{name}"]{suffix}', f"{prefix}['{name}']{suffix}"


def params(values: Mapping[str, Value], of_task: bool = False) -> Variables:
    """Make the variables of params from their values; a Task knows them as `inputs.params.x` too."""
    variables = Variables()
    for name, value in values.items():
        variables.define(spellings("params", name), value)
        if of_task:
            variables.define([f"inputs.params.{name}"], value)
    return variables


def apply(text: str, strings: Mapping[str, str]) -> str:
    """Put values in place of the references that `strings` knows, in one pass; leave the rest as it stands."""
    return _REFERENCE.sub(lambda match: strings.get(match[1], match[0]), text)


def apply_list(items: Iterable[str], variables: Variables) -> list[str]:
    """Substitute in each item; one that is nothing but a whole array (`$(params.a[*])`) becomes the array's items."""
    done: list[str] = []
    for item in items:
        inner = item[2:-1].removesuffix("[*]") if item.startswith("$(") and item.endswith(")") else ""
        done.extend(variables.arrays[inner] if inner in variables.arrays else [apply(item, variables.strings)])
    return done


def apply_value(value: Value, variables: Variables) -> Value:
    """Substitute in a value; a text that is nothing but a reference to a whole array or object takes its type."""
    if isinstance(value, list):
        return apply_list(value, variables)
    if isinstance(value, dict):
        return {key: apply(item, variables.strings) for key, item in value.items()}
    exact = _EXACT.fullmatch(value)
    if exact and exact[1] in variables.arrays:
        return list(variables.arrays[exact[1]])
    if exact and exact[1] in variables.objects:
        return dict(variables.objects[exact[1]])
    return apply(value, variables.strings)


def apply_input(text: str, variables: Variables) -> str:
    """Substitute in a `when` input, where a whole array becomes its JSON."""
    value = apply_value(text, Variables(variables.strings, variables.arrays))
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def texts(value: Value) -> list[str]:
    """List the texts that a value is made of."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else list(value.values())


def references(text: str) -> list[str]:
    """List Tekton's references in a text (`params.x`, `tasks.t.results.r`, ...) as written between `$(` and `)`."""
    return [inner for inner in _REFERENCE.findall(text) if _TEKTON.match(inner)]


@dataclass(frozen=True)
class ResultReference:
    """A reference to a Task's result: the whole of it, an item of an array or a key of an object."""

    task: str
    result: str
    key: str = ""
    index: int | None = None
    section: str = "tasks"


def result_reference(reference: str) -> ResultReference | None:
    """Parse `tasks.T.results.R`, `...R[*]`, `...R[0]` or `...R.key`; None for any other reference."""
    match = _RESULT.fullmatch(reference)
    if match is None:
        return None
    section, task, result, key, index = match.groups()
    return ResultReference(task, result, key or "", int(index) if index and index != "*" else None, section)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Expand `$(NAME)` as the kubelet does: an unknown name stays, `$$` becomes `$` and shields what follows."""
    done, position = "", 0
    while (dollar := text.find("$", position)) >= 0 and dollar + 1 < len(text):
        done += text[position:dollar]
        following = text[dollar + 1]
        if following == "$":
            done, position = done + "$", dollar + 2
        elif following == "(" and (end := text.find(")", dollar)) >= 0:
            name = text[dollar + 2 : end]
            done, position = done + environment.get(name, f"$({name})"), end + 1
        elif following == "(":
            done, position = done + "$(", dollar + 2
        else:
            done, position = done + "$" + following, dollar + 2
    return done + text[position:]
