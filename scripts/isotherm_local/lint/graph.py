"""The graph of a Pipeline: who takes whose results, who waits for whom, and who may be skipped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isotherm_local.lint.model import Doc
from isotherm_local.lint.steps import references

RESULT = re.compile(r"tasks\.([a-z0-9-]+)\.results\.([a-z0-9-]+)(?:\[.*\]|\..*)?")


def result_references(value: Any) -> set[tuple[str, str]]:
    """Collect `(PipelineTask, result)` of every `$(tasks.X.results.Y)` inside a value."""
    matches = (RESULT.fullmatch(found) for found in references(value))
    return {(matched[1], matched[2]) for matched in matches if matched}


def _decides(when: dict[str, Any]) -> bool:
    return {result for _, result in result_references(when)} != {"admitted"}


@dataclass(frozen=True)
class Graph:
    """The DAG part of one Pipeline (`finally` comes after all of it)."""

    doc: Doc

    @cached_property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """PipelineTasks by name."""
        return self.doc.by_name("tasks")

    @cached_property
    def by_result(self) -> dict[str, set[str]]:
        """Names of the Tasks whose results each Task takes, in params or in `when`."""
        return {name: {source for source, _ in result_references(task)} for name, task in self.tasks.items()}

    @cached_property
    def before(self) -> dict[str, set[str]]:
        """Names of the Tasks that each Task waits for directly, through results or `runAfter`."""
        return {name: self.by_result[name] | set(task.get("runAfter") or ()) for name, task in self.tasks.items()}

    def ancestors(self, name: str) -> set[str]:
        """Names of all Tasks that run before one; contains the Task itself where the graph has a cycle."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for earlier in self.before.get(waiting.pop(), ()):
                if earlier not in seen:
                    seen.add(earlier)
                    waiting.append(earlier)
        return seen

    def skipped_with(self, guarded: set[str]) -> set[str]:
        """Close a set of Tasks over results: whoever takes a result of a skipped Task is skipped too."""
        skipped = set(guarded)
        while True:
            more = {name for name, sources in self.by_result.items() if sources & skipped} - skipped
            if not more:
                return skipped
            skipped |= more

    @cached_property
    def skippable(self) -> set[str]:
        """Names of the Tasks that may not run in a run that goes on: a `when`, or a result of such a Task.

        A `when` on result `admitted` is none of these: it ends the whole run before anything was done.
        """
        asked = {name for name, task in self.tasks.items() if any(map(_decides, task.get("when", ())))}
        return self.skipped_with(asked)

    def guarded_by(self, gate: str) -> set[str]:
        """Names of the Tasks that a verdict of `gate` skips: a `when` on its result, or a result of such a Task."""
        asked = {name for name, task in self.tasks.items() if (gate, "verdict") in result_references(task.get("when"))}
        return self.skipped_with(asked)
