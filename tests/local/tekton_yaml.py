"""Small Tekton YAML for the runner's tests: Tasks of one Python step, in an image family's own environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from isotherm_local.runner.record import RunRecord
from isotherm_local.runner.run import run_pipeline

IMAGE = "registry.example/isotherm/ops:0.1.0"
API = "tekton.dev/v1"
PRELUDE = "import os, sys, time, pathlib\n"
WRITE = "[open(os.environ['RESULT_' + k[4:]], 'w').write(v) for k, v in os.environ.items() if k.startswith('OUT_')]"


def step(code: str, env: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Make a step that runs Python code."""
    listed = [{"name": name, "value": value} for name, value in (env or {}).items()]
    return {
        "name": "only",
        "image": IMAGE,
        "command": ["python", "-c"],
        "args": [PRELUDE + code],
        "env": listed,
        **more,
    }


def spec(code: str, env: dict[str, str] | None = None, results: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """Make a Task's spec of one step; each result's path is in RESULT_<NAME>."""
    paths = {f"RESULT_{name.upper().replace('-', '_')}": f"$(results.{name}.path)" for name in results}
    declared = [{"name": name, "type": "string"} for name in results]
    body: dict[str, Any] = {"steps": [step(code, {**(env or {}), **paths})], **more}
    return {"results": declared, **body} if declared else body


def giving(**results: str) -> dict[str, Any]:
    """Make a Task's spec that gives these results."""
    return spec(WRITE, {f"OUT_{name.upper()}": value for name, value in results.items()}, tuple(results))


def task(name: str, body: dict[str, Any] | str = "pass", **more: Any) -> dict[str, Any]:
    """Make a PipelineTask with an embedded spec, or with one made of code."""
    return {"name": name, "taskSpec": spec(body) if isinstance(body, str) else body, **more}


def pipeline_run(tasks: list[dict[str, Any]], run: dict[str, Any] | None = None, **pipeline: Any) -> dict[str, Any]:
    """Make a PipelineRun with an embedded Pipeline."""
    inside = {"pipelineSpec": {"tasks": tasks, **pipeline}, **(run or {})}
    return {"apiVersion": API, "kind": "PipelineRun", "metadata": {"name": "it"}, "spec": inside}


def write(folder: Path, *documents: dict[str, Any], name: str = "run.yaml") -> Path:
    """Write documents into one file."""
    file = folder / name
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return file


def execute(folder: Path, *documents: dict[str, Any], **more: Any) -> RunRecord:
    """Run the documents' PipelineRun with its state below `folder`."""
    return run_pipeline(write(folder, *documents), state=folder / "state", **more)


def log(run: RunRecord, name: str, attempt: int = 1) -> str:
    """Read a Task's log."""
    return (run.folder / "tasks" / name / f"attempt-{attempt}" / "log").read_text()
