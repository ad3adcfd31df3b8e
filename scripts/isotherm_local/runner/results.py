"""The results that a Task's steps leave as files: read, typed and measured as Tekton does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from isotherm_local.runner.specs import TaskSpec, type_of
from isotherm_local.runner.substitution import Value

TERMINATION_MESSAGE_LIMIT = 4096  # bytes; the kubelet's, for all results of a step together


def parse_result(text: str) -> Value:
    """Read an array or object result as Tekton does: JSON of texts, else the text itself."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    return value if isinstance(value, str) else text


def mismatched(task: TaskSpec, results: Mapping[str, Value]) -> str:
    """Say which results are of another type than declared or lack keys; empty where all is well."""
    wrong = [
        f'"{name}": task result is expected to be "{task.results[name].type}" type'
        f' but was initialized to a different type "{type_of(value)}"'
        for name, value in results.items()
        if type_of(value) != task.results[name].type
    ]
    if wrong:
        text = "Provided results don't match declared results; may be invalid JSON or missing result declaration"
        return f"{text}: {', '.join(wrong)}"
    lacking = {
        name: sorted(set(task.results[name].keys) - set(value))
        for name, value in results.items()
        if isinstance(value, dict)
    }
    lacking = {name: keys for name, keys in lacking.items() if keys}
    return f"missing keys for these results which are required in TaskResult's properties {lacking}" if lacking else ""


def read(folder: Path, task: TaskSpec) -> tuple[dict[str, Value], int]:
    """Read the results that are there and the bytes that they take in a termination message."""
    found: dict[str, Value] = {}
    entries = []
    for name, spec in task.results.items():
        with contextlib.suppress(FileNotFoundError):
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            found[name] = text if spec.type == "string" else parse_result(text)
            entries.append({"key": name, "value": text, "type": 1})
    return found, len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()) if entries else 0
