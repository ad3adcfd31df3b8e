"""Run a Task of a Pipeline as its TaskRuns: one, or one per combination of its matrix, each with its attempts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from isotherm.tekton import utcnow
from isotherm_local.runner import matrix, plan, record, resolve, steps, workspaces
from isotherm_local.runner.process import Stop
from isotherm_local.runner.record import (
    CANCELLED,
    CONTINUE,
    FAILED,
    RUNNING,
    SUCCEEDED,
    RunRecord,
    TaskRecord,
)
from isotherm_local.runner.specs import PipelineTask
from isotherm_local.runner.steps import Attempt, Outcome

_CANCELLED = "TaskRunCancelled"
_BY_A_STEP = "StepFailed"
_IGNORED = "FailureIgnored"


class Observer(Protocol):
    """Somebody who watches a run."""

    def changed(self, run: RunRecord) -> None:
        """Hear that the record changed."""

    def line(self, task: TaskRecord, text: str) -> None:
        """Hear a line that a Task wrote."""


class Silent:
    """An observer that looks away."""

    def changed(self, run: RunRecord) -> None:
        """Ignore it."""

    def line(self, task: TaskRecord, text: str) -> None:
        """Ignore it."""


class TaskRuns:
    """The TaskRuns of one run and the ways to stop them."""

    def __init__(
        self, made: plan.Plan, run: RunRecord, setting: steps.Setting, observer: Observer, changed: Callable[[], None]
    ) -> None:
        self.plan, self.record, self.setting, self.observer, self.changed = made, run, setting, observer, changed
        self.stops: dict[str, dict[str, Stop]] = {}  # by Task and TaskRun

    def stop(self, name: str, message: str, timed_out: bool) -> None:
        """Cancel the TaskRuns of a Task."""
        entry = self.record.tasks[name]
        for one in entry.children or [entry]:
            stop = self.stops.get(name, {}).get(one.name)
            if stop is not None and not stop.event.is_set():
                one.timed_out = timed_out
                stop.now(_CANCELLED, message)

    def hurry(self) -> None:
        """Stop waiting for processes that take their time to end."""
        for stop in (stop for stops in self.stops.values() for stop in stops.values()):
            stop.hurry.set()

    async def run(self, task: PipelineTask, entry: TaskRecord) -> None:
        """Run a Task to its end; a matrix' combinations run side by side, and none stops the others."""
        began = datetime.now(utcnow().tzinfo)
        if task.matrix is None:
            run = self.record.name
            name = run if self.record.kind == "TaskRun" else matrix.child_name(run, f"-{task.name}")
            await self._task_run(task, entry, entry, name)
        else:
            await self._combinations(task, entry)
        entry.finished = record.now()
        entry.seconds = record.seconds_between(began, datetime.now(utcnow().tzinfo))
        self.changed()

    async def _combinations(self, task: PipelineTask, entry: TaskRecord) -> None:
        combinations = matrix.fan_out(task.matrix) if task.matrix else []
        names = matrix.run_names(self.record.name, task.name, len(combinations))
        entry.children = [
            TaskRecord(name, task.task.name, task.final, RUNNING, RUNNING, started=record.now(), params=dict(values))
            for name, values in zip(names, combinations, strict=True)
        ]

        async def one(index: int, child: TaskRecord) -> None:
            began = datetime.now(utcnow().tzinfo)
            params = {**child.params, **task.params}
            await self._task_run(task.with_(params=params), entry, child, child.name, str(index))
            child.finished = record.now()
            child.seconds = record.seconds_between(began, datetime.now(utcnow().tzinfo))

        await asyncio.gather(*(one(index, child) for index, child in enumerate(entry.children)))
        _gather(entry)

    async def _task_run(
        self, task: PipelineTask, entry: TaskRecord, own: TaskRecord, name: str, folder: str = ""
    ) -> None:
        """Run the attempts of one TaskRun one after another, without a pause, as Tekton does."""
        stops = self.stops.setdefault(entry.name, {})
        for number in range(1, task.retries + 2):
            own.attempts, stops[own.name] = number, Stop()
            outcome = await self._attempt(task, entry, own, name, folder)
            if outcome.succeeded or outcome.reason == _CANCELLED or number > task.retries:
                break
            own.reason, own.message, own.cause = "ToBeRetried", outcome.message, outcome.cause
            self.changed()
        own.state = SUCCEEDED if outcome.succeeded else CANCELLED if outcome.reason == _CANCELLED else FAILED
        own.reason, own.message, own.results = outcome.reason, outcome.message, dict(outcome.results)
        own.cause = "" if outcome.succeeded else outcome.cause
        if task.on_error == CONTINUE and own.reason == _BY_A_STEP:
            own.reason = _IGNORED

    def _limit(self, task: PipelineTask) -> float:
        """Return the seconds that each attempt of a Task may take."""
        if task.name in self.plan.run.task_timeouts:
            return self.plan.run.task_timeouts[task.name]
        if task.timeout is not None:
            return task.timeout
        section = self.plan.run.timeouts.final if task.final else self.plan.run.timeouts.tasks
        return max(section or 0.0, resolve.DEFAULT_TIMEOUT)

    async def _attempt(self, task: PipelineTask, entry: TaskRecord, own: TaskRecord, name: str, folder: str) -> Outcome:
        where = self.record.folder / "tasks" / task.name / folder / f"attempt-{own.attempts}"
        place = workspaces.Place(self.plan.namespace, self.record.folder, self.record.uid, where)
        own.log = str((where / "log").relative_to(self.record.folder))
        self.changed()

        def line(text: str) -> None:
            entry.last_line = own.last_line = text
            self.observer.line(entry, text)

        limit, stop = self._limit(task), self.stops[entry.name][own.name]
        message = f'TaskRun "{name}" failed to finish within "{limit:g}s"'
        timer = (
            asyncio.get_running_loop().call_later(limit, stop.now, "TaskRunTimeout", message)
            if math.isfinite(limit)
            else None
        )
        try:
            return await Attempt(task, name, own.attempts, place, self.setting).run(stop, line)
        finally:
            if timer is not None:
                timer.cancel()


def _gather(entry: TaskRecord) -> None:
    """Judge a matrix by its TaskRuns: failed where one failed, with the reason of the first that did."""
    bad = [child for child in entry.children if child.state != SUCCEEDED]
    cancelled = [child for child in bad if child.state == CANCELLED]
    first = bad[0] if bad else entry.children[0]
    entry.state = CANCELLED if cancelled else FAILED if bad else SUCCEEDED
    entry.timed_out = any(child.timed_out for child in cancelled)
    entry.reason, entry.message, entry.cause, entry.log = first.reason, first.message, first.cause, first.log
    entry.attempts = max(child.attempts for child in entry.children)
    entry.results = dict(matrix.results(entry.children))
