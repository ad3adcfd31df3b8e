"""Tekton's own example runs: where they are, and what `tests/local/tekton_examples.yaml` says of each.

An entry of `runs` says how a run ends wherever it runs; one of `refused` says why the local runner refuses it.
`documents` is what to create on a cluster for an entry; the local runner gets the same in one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from isotherm_local.lint import gotools

LIST = Path(__file__).parent / "local" / "tekton_examples.yaml"
RUNS = ("PipelineRun", "TaskRun")


@dataclass(frozen=True)
class Example:
    """One run: `path` below `examples/v1`, and which one it is where the file has several (its name or generateName).

    `results` are the run's own (a Pipeline's, or a TaskRun's where listed), `skipped` the Tasks with Tekton's reasons;
    `varying` names results whose values differ from run to run. `refused` is a part of the runner's refusal.
    """

    path: str
    run: str = ""
    status: str = "True"
    reason: str = "Succeeded"
    results: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    varying: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    note: str = ""
    refused: str = ""

    @property
    def name(self) -> str:
        """Name the entry for a test's report."""
        return f"{self.path}:{self.run}" if self.run else self.path

    def documents(self, module: Path) -> list[dict[str, Any]]:
        """Read what to create for this run: everything of its file but other runs."""
        return list(_chosen(yaml.safe_load_all((folder(module) / self.path).read_text()), self.run))


def _chosen(documents: Iterator[Any], run: str) -> Iterator[dict[str, Any]]:
    for document in documents:
        metadata = (document or {}).get("metadata") or {}
        ours = not run or run in (metadata.get("name"), metadata.get("generateName"))
        if document and (document.get("kind") not in RUNS or ours):
            yield document


def folder(module: Path) -> Path:
    """Name the folder of the examples in Tekton's module."""
    return module / "examples" / "v1"


def module() -> Path:
    """Find the source of the pinned Tekton Pipelines. Raises `gotools.Missing`."""
    return gotools.source(Path(__file__).parents[1] / "scripts" / "schemas", gotools.PIPELINES)


def examples() -> list[Example]:
    """Read the list: runs first, refusals after them."""
    body = yaml.safe_load(LIST.read_text())
    runs = [Example(**{**one, "varying": tuple(one.get("varying", ())), "needs": tuple(one.get("needs", ()))})
            for one in body["runs"]]  # fmt: skip
    return [*runs, *(Example(**one) for one in body["refused"])]
