"""Show a run while it goes: a table that refreshes itself on a terminal, timestamped lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from isotherm_local.runner import record
from isotherm_local.runner.record import (
    CANCELLED,
    FAILED,
    INVALID,
    PENDING,
    RUNNING,
    SKIPPED,
    SUCCEEDED,
    RunRecord,
    TaskRecord,
)

PROGRESS_SECONDS = 10.0  # how often a running Task's last line is repeated where there is no terminal
_MARKS = {PENDING: " ", RUNNING: ">", SUCCEEDED: "ok", SKIPPED: "-", FAILED: "x", CANCELLED: "x", INVALID: "x"}
_STYLES = {
    SUCCEEDED: "green",
    FAILED: "bold red",
    CANCELLED: "red",
    INVALID: "bold red",
    RUNNING: "cyan",
    SKIPPED: "dim",
}


def _seconds(task: TaskRecord, now: datetime) -> str:
    if task.state == RUNNING and task.started:
        return f"{(now - datetime.fromisoformat(task.started)).total_seconds():.0f} s"
    return f"{task.seconds:.1f} s" if task.finished and task.started else ""


def _words(task: TaskRecord) -> str:
    """Say how a Task stands, with what a person needs to know about it."""
    if task.state == RUNNING:
        return task.last_line
    if task.failed:
        return task.cause or task.message
    values = {name: value.strip() for name, value in task.results.items() if isinstance(value, str)}
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items() if value)


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:12]}..."


class Plain:
    """Lines with the time of day: each change of a Task, now and then its last line, with `verbose` every line."""

    def __init__(self, out: TextIO, verbose: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.out, self.verbose, self.clock = out, verbose, clock
        self.states: dict[str, tuple[str, str]] = {}
        self.said: dict[str, float] = {}

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        self.out.flush()

    def _say(self, text: str) -> None:
        self.out.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
        self.out.flush()

    def changed(self, run: RunRecord) -> None:
        """Print the Tasks whose state changed."""
        for task in run.tasks.values():
            before, state = self.states.get(task.name, (PENDING, "")), (task.state, task.reason)
            if state == before:
                continue
            self.states[task.name] = state
            if task.reason == "ToBeRetried":
                self._say(f"{task.name}: attempt {task.attempts} failed, trying again: {task.cause or task.message}")
            elif task.state == RUNNING and before[0] == PENDING:
                self._say(f"{task.name}: started")
                self.said[task.name] = self.clock()
            elif task.done:
                time_taken = f" in {task.seconds:.1f} s" if task.started else ""
                reason = f" ({task.reason})" if task.reason not in ("", task.state) else ""
                words = _words(task)
                self._say(f"{task.name}: {task.state}{time_taken}{reason}" + (f": {words}" if words else ""))

    def line(self, task: TaskRecord, text: str) -> None:
        """Print a Task's line: all of them when verbose, else one now and then."""
        now = self.clock()
        if self.verbose or now - self.said.get(task.name, now) >= PROGRESS_SECONDS:
            self.said[task.name] = now
            self._say(f"{task.name} | {text}")


class Live:
    """A table of the Tasks on a terminal, refreshed four times a second; with `verbose` their lines scroll above it."""

    def __init__(self, out: TextIO, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.verbose, self.run = verbose, None  # type: tuple[bool, RunRecord | None]
        self.console = Console(file=out, highlight=False)
        self.live = RichLive(get_renderable=self._table, console=self.console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Live:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        run = self.run
        if run is None:
            return Text("")
        title = f"{run.kind} {run.name} in {run.namespace}: {run.reason}, {run.seconds:.0f} s"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 1), expand=True)
        for name, style in (("", ""), ("Task", "bold"), ("State", ""), ("Time", "dim")):
            table.add_column(name, style=style, no_wrap=True)
        table.add_column("Last line, results or cause", ratio=1, no_wrap=True, overflow="ellipsis")
        now = datetime.now(UTC)
        for task in run.tasks.values():
            style = _STYLES.get(task.state, "")
            state = task.reason if task.state in (SKIPPED, FAILED, CANCELLED) and task.reason else task.state
            if task.attempts > 1:
                state += f" (attempt {task.attempts})"
            cells = (_MARKS[task.state], task.name, state, _seconds(task, now), _words(task))
            table.add_row(*(Text(cell, style=style if index in (0, 2) else "") for index, cell in enumerate(cells)))
        return table

    def changed(self, run: RunRecord) -> None:
        """Remember the record; the table reads it at its next refresh."""
        self.run = run

    def line(self, task: TaskRecord, text: str) -> None:
        """Print a Task's line above the table when verbose."""
        if self.verbose:
            self.console.print(f"{task.name} | {text}", markup=False)


def choose(out: TextIO | None = None, verbose: bool = False, plain: bool = False) -> Plain | Live:
    """Choose the table on a terminal, lines elsewhere; `out` is standard output unless given."""
    out = out or sys.stdout
    return Live(out, verbose) if out.isatty() and not plain else Plain(out, verbose)


def ending(run: RunRecord) -> list[str]:
    """Word the end of a run; of a failed one the log and, last, the cause."""
    lines = [f"{run.kind} {run.name} {run.reason} after {run.seconds:.1f} s ({run.message})"]
    lines += [f"  {name} = {value}" for name, value in run.results.items()]
    culprit = None if run.succeeded else run.culprit()
    if culprit is not None:
        if culprit.log:
            lines.append(f"log of {culprit.name}: {run.folder / culprit.log}")
        why = culprit.message if culprit.message not in culprit.cause else ""
        cause = culprit.cause.removeprefix("error: ")
        lines.append(f"error: {culprit.name}: " + (" - ".join(part for part in (cause, why) if part) or culprit.reason))
    elif not run.succeeded:
        lines.append(f"error: {run.reason}: {run.message}")
    return lines


def listing(runs: list[RunRecord]) -> list[str]:
    """Word the runs of a namespace, oldest first."""
    rows = [("NAME", "CONDITION", "STARTED", "SECONDS")]
    rows += [(run.name, record.condition(run), run.started, f"{run.seconds:.1f}") for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
