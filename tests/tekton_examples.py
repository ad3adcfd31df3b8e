"""Tekton's own example runs: where they are, and what `tests/local/tekton_examples.yaml` says of each.

An entry of `runs` says how a run ends wherever it runs, one of `differs` how it ends here only, one of `refused` why
the local runner refuses it. `documents` is what to create on a cluster for an entry; the local runner gets the same.
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

    `results` are the run's own, `skipped` the Tasks with Tekton's reasons; with `varying` results are not compared.
    `refused` is a part of the runner's refusal; `everywhere` tells whether a cluster ends the run in the same way.
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
    everywhere: bool = True

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
    """Read the list: runs first, then those that differ here, then refusals."""
    body = yaml.safe_load(LIST.read_text())
    return [
        Example(
            **{**one, **{key: tuple(one.get(key, ())) for key in ("varying", "needs")}, "everywhere": section == "runs"}
        )
        for section in ("runs", "differs", "refused")
        for one in body[section]
    ]
