"""Run a PipelineRun or TaskRun to its end: start Tasks in their order, keep the record, obey limits and Ctrl-C.

`run_pipeline(...)` is what the `isotherm run` command and the demo call.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from isotherm.tekton import utcnow
from isotherm_local.runner import graph, images, plan, record, resolve, steps, workspaces
from isotherm_local.runner.documents import ROOT
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
from isotherm_local.runner.specs import PipelineTask
from isotherm_local.runner.steps import Attempt, Outcome, Stop

STATE = ROOT / "build" / "local"
_CANCELLED = "TaskRunCancelled"
_BY_CANCEL = "TaskRun cancelled as the PipelineRun it belongs to has been cancelled."
_BY_TIMEOUT = "TaskRun cancelled as the PipelineRun it belongs to has timed out."


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


def run_pipeline(
    file: Path,
    *,
    state: Path = STATE,
    namespace: str = "",
    params: Mapping[str, str] | None = None,
    files: Sequence[Path] = (),
    name: str = "",
    delete_first: bool = False,
    root: Path = ROOT,
    observer: Observer | None = None,
) -> RunRecord:
    """Run the one PipelineRun or TaskRun of `file`; return its record, also when it failed.

    `params` override those of the file; `files` hold further Pipelines and Tasks; `namespace` and `name` override its
    metadata.
    Raises `BadInput` for what cannot be run, before anything runs, and `Refused` where a run of this name exists.
    """
    state = state.resolve()
    made = plan.make(plan.Request(file, root, state, namespace, params, files, name))
    folder = made.namespace.run(made.name)
    with record.claim(folder, made.name, delete_first):
        run = _new_record(made, folder)
        setting = steps.Setting(
            root,
            _kubeconfig(state, folder, made.namespace.name),
            images.git_sha(root),
            made.run.bindings,
            made.variables,
            made.written,
        )
        driver = Driver(made, run, setting, observer or Silent())
        asyncio.run(driver.run())
    return run


def _new_record(made: plan.Plan, folder: Path) -> RunRecord:
    tasks = {task.name: TaskRecord(task.name, task.task.name, task.final) for task in made.pipeline.tasks}
    return RunRecord(
        kind=made.document.kind,
        name=made.name,
        namespace=made.namespace.name,
        uid=made.uid,
        file=str(made.document.file),
        pipeline=made.pipeline.name,
        params=dict(made.params),
        spec=made.document.body.get("spec") or {},
        folder=folder,
        started=record.now(),
        tasks=tasks,
        without_effect=made.without_effect,
        pid=os.getpid(),
    )


def _kubeconfig(state: Path, folder: Path, namespace: str) -> Path:
    """Copy the target's kubeconfig with the run's namespace in its context; without one, name where it would be."""
    source = state / "kubeconfig"
    if not source.is_file():
        return source
    config: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    for context in config.get("contexts") or ():
        if context.get("name") == config.get("current-context"):
            context["context"] = {**(context.get("context") or {}), "namespace": namespace}
    target = folder / "kubeconfig"
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return target


class Driver:
    """The loop of one run; everything happens in one thread, each running Task is one asyncio task."""

    def __init__(self, made: plan.Plan, run: RunRecord, setting: steps.Setting, observer: Observer) -> None:
        self.plan, self.record, self.setting, self.observer = made, run, setting, observer
        self.running: dict[str, asyncio.Task[None]] = {}
        self.stops: dict[str, Stop] = {}
        self.began = self.final_began = 0.0
        self.moments: dict[str, datetime] = {"": utcnow()}
        self.cancelled = False
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Run until every Task is done, a limit has ended the run, or it was cancelled."""
        self.began = asyncio.get_running_loop().time()
        self.moments[""] = datetime.now(utcnow().tzinfo)
        self._changed()
        with _Interrupts(self):
            try:
                await self._loop()
            finally:
                self._stop_all(list(self.running), _BY_CANCEL, timed_out=False)
                await asyncio.gather(*self.running.values(), return_exceptions=True)
        self._conclude()

    async def _loop(self) -> None:
        while True:
            self._limits()
            self._schedule()
            if not self.running:
                return
            woken = asyncio.create_task(self.woken.wait())
            await asyncio.wait(
                {*self.running.values(), woken}, timeout=self._next_limit(), return_when=asyncio.FIRST_COMPLETED
            )
            woken.cancel()
            self.woken.clear()
            for name in [name for name, task in self.running.items() if task.done()]:
                self.running.pop(name).result()

    def _elapsed(self) -> graph.Elapsed:
        now, limits = asyncio.get_running_loop().time(), self.plan.run.timeouts
        return graph.Elapsed(
            pipeline=now - self.began > limits.pipeline,
            tasks=limits.tasks is not None and now - self.began > limits.tasks,
            final=limits.final is not None and self.final_began > 0 and now - self.final_began > limits.final,
        )

    def _next_limit(self) -> float | None:
        now, limits = asyncio.get_running_loop().time(), self.plan.run.timeouts
        ends = [self.began + limits.pipeline]
        if limits.tasks is not None and not self.final_began:
            ends.append(self.began + limits.tasks)
        if limits.final is not None and self.final_began:
            ends.append(self.final_began + limits.final)
        left = [end - now for end in ends if math.isfinite(end) and end > now]
        return min(left) + 0.01 if left else None

    def _limits(self) -> None:
        """Stop the Tasks whose part of the run has used up its time."""
        elapsed = self._elapsed()
        for name in self.running:
            final = self.record.tasks[name].final
            if elapsed.pipeline or (elapsed.final if final else elapsed.tasks):
                self._stop_all([name], _BY_TIMEOUT, timed_out=True)

    def _stop_all(self, names: Iterable[str], message: str, timed_out: bool) -> None:
        for name in names:
            if not self.stops[name].event.is_set():
                self.record.tasks[name].timed_out = timed_out
            self.stops[name].now(_CANCELLED, message)

    def cancel(self) -> None:
        """Cancel the run, as `spec.status: Cancelled` does: running Tasks end, finally Tasks do not run."""
        if self.cancelled:
            for stop in self.stops.values():
                stop.hurry.set()
        self.cancelled = True
        self._stop_all(list(self.running), _BY_CANCEL, timed_out=False)
        self.woken.set()

    def _schedule(self) -> None:
        """Start, skip or refuse Tasks until nothing more follows from what is known."""
        tasks, again = self.record.tasks, not self.cancelled
        while again:
            again = False
            for task in self.plan.pipeline.tasks:
                entry = tasks[task.name]
                if entry.state != PENDING:
                    continue
                elapsed = self._elapsed()
                if elapsed.pipeline:
                    decision = graph.Decision(graph.Step.SKIP, graph.PIPELINE_TIMEOUT_SKIP, task)
                else:
                    decision = graph.decide(task, tasks, elapsed)
                if decision.step is graph.Step.WAIT:
                    continue
                again = True
                self._settle(entry, decision)

    def _settle(self, entry: TaskRecord, decision: graph.Decision) -> None:
        task = decision.task
        entry.whenExpressions = [when.as_record() for when in task.when]
        if task.final and not self.final_began:
            self.final_began = asyncio.get_running_loop().time()
        if decision.step is graph.Step.SKIP:
            entry.state, entry.reason = SKIPPED, decision.why
            self._changed()
        elif decision.step is graph.Step.INVALID:
            entry.state, entry.reason, entry.message = INVALID, "PipelineValidationFailed", decision.why
            entry.cause, entry.finished = decision.why, record.now()
            self._changed()
        else:
            entry.state, entry.reason, entry.started = RUNNING, RUNNING, record.now()
            self.moments[entry.name] = datetime.now(utcnow().tzinfo)
            self.stops[entry.name] = Stop()
            self.running[entry.name] = asyncio.create_task(self._task(task, entry))

    def _limit(self, task: PipelineTask) -> float:
        """Return the seconds that each attempt of a Task may take."""
        if task.name in self.plan.run.task_timeouts:
            return self.plan.run.task_timeouts[task.name]
        if task.timeout is not None:
            return task.timeout
        section = self.plan.run.timeouts.final if task.final else self.plan.run.timeouts.tasks
        return max(section or 0.0, resolve.DEFAULT_TIMEOUT)

    async def _task(self, task: PipelineTask, entry: TaskRecord) -> None:
        """Run a Task's attempts one after another, without a pause, as Tekton does."""
        for number in range(1, task.retries + 2):
            entry.attempts = number
            stop = self.stops[entry.name]
            outcome = await self._attempt(task, entry, number, stop)
            if outcome.succeeded or outcome.reason == _CANCELLED or number > task.retries:
                break
            entry.reason, entry.message, entry.cause = "ToBeRetried", outcome.message, outcome.cause
            self.stops[entry.name] = Stop()
            self._changed()
        entry.state = SUCCEEDED if outcome.succeeded else CANCELLED if outcome.reason == _CANCELLED else FAILED
        entry.reason, entry.message, entry.results = outcome.reason, outcome.message, dict(outcome.results)
        entry.cause = "" if outcome.succeeded else outcome.cause
        entry.finished = record.now()
        entry.seconds = record.seconds_between(self.moments[entry.name], datetime.now(utcnow().tzinfo))
        self._changed()

    async def _attempt(self, task: PipelineTask, entry: TaskRecord, number: int, stop: Stop) -> Outcome:
        folder = self.record.folder / "tasks" / task.name / f"attempt-{number}"
        place = workspaces.Place(self.plan.namespace, self.record.folder, self.record.uid, folder)
        task_run = (
            self.record.name if self.record.kind == "TaskRun" else resolve.child_name(self.record.name, task.name)
        )
        entry.log = str((folder / "log").relative_to(self.record.folder))
        self._changed()

        def line(text: str) -> None:
            entry.last_line = text
            self.observer.line(entry, text)

        limit = self._limit(task)
        message = f'TaskRun "{task_run}" failed to finish within "{limit:g}s"'
        timer = (
            asyncio.get_running_loop().call_later(limit, stop.now, "TaskRunTimeout", message)
            if math.isfinite(limit)
            else None
        )
        try:
            return await Attempt(task, task_run, number, place, self.setting).run(stop, line)
        finally:
            if timer is not None:
                timer.cancel()

    def _changed(self) -> None:
        self.record.seconds = record.seconds_between(self.moments[""], datetime.now(utcnow().tzinfo))
        self.record.write()
        self.observer.changed(self.record)

    def _conclude(self) -> None:
        condition = self._condition()
        self.record.results, broken = graph.results_of_pipeline(self.plan.pipeline, self.record.tasks)
        if broken:
            text = f"invalid pipelineresults [{' '.join(broken)}], the referenced results don't exist"
            condition = graph.Condition(
                "False", "CouldntGetPipelineResult", f"Failed to get PipelineResult from TaskRun Results: {text}"
            )
        self.record.status, self.record.reason, self.record.message = (
            condition.status,
            condition.reason,
            condition.message,
        )
        self.record.finished = record.now()
        self._changed()

    def _condition(self) -> graph.Condition:
        name, limits, elapsed = self.record.name, self.plan.run.timeouts, self._elapsed()
        if self.cancelled:
            return graph.Condition("False", "Cancelled", f'PipelineRun "{name}" was cancelled')
        if self.record.kind == "TaskRun":
            only = self.record.tasks["task"]
            return graph.Condition("True" if only.state == SUCCEEDED else "False", only.reason, only.message)
        if elapsed.pipeline:
            return graph.Condition(
                "False", "PipelineRunTimeout", f'PipelineRun "{name}" failed to finish within "{limits.pipeline:g}s"'
            )
        # Tekton counts to the end of the run: finally Tasks that go on beyond `timeouts.tasks` let it time out too.
        if elapsed.tasks:
            text = f'PipelineRun "{name}" failed due to tasks failed to finish within "{limits.tasks:g}s"'
            return graph.Condition("False", "PipelineRunTimeout", text)
        return graph.conclude(list(self.record.tasks.values()))


class _Interrupts:
    """While a run lives, Ctrl-C and SIGTERM cancel it; the second one does not wait for processes to end."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def __enter__(self) -> None:
        for number in self.signals:
            asyncio.get_running_loop().add_signal_handler(number, self.driver.cancel)

    def __exit__(self, *_: object) -> None:
        for number in self.signals:
            asyncio.get_running_loop().remove_signal_handler(number)
