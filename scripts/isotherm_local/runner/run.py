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
from typing import Any

import yaml

from isotherm.tekton import utcnow
from isotherm_local.runner import companions, graph, images, plan, record, steps
from isotherm_local.runner.documents import ROOT
from isotherm_local.runner.record import INVALID, PENDING, RUNNING, SKIPPED, SUCCEEDED, RunRecord, TaskRecord
from isotherm_local.runner.taskruns import Observer, Silent, TaskRuns

STATE = ROOT / "build" / "local"
_BY_CANCEL = "TaskRun cancelled as the PipelineRun it belongs to has been cancelled."
_BY_TIMEOUT = "TaskRun cancelled as the PipelineRun it belongs to has timed out."


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
    foreign_images: bool = False,
) -> RunRecord:
    """Run the one PipelineRun or TaskRun of `file`; return its record, also when it failed.

    `params` override those of the file; `files` hold further Pipelines and Tasks; `namespace` and `name` override its
    metadata. `foreign_images` lets steps whose image is of no family of ours run as processes of this machine, with its
    own programs and files.
    Raises `BadInput` for what cannot be run, before anything runs, and `Refused` where a run of this name exists.
    """
    state = state.resolve()
    made = plan.make(plan.Request(file, root, state, namespace, params, files, name, foreign_images))
    folder = made.namespace.run(made.name)
    with record.claim(folder, made.name, delete_first):
        companions.make(made.beside, made.namespace)
        run = _new_record(made, folder)
        setting = steps.Setting(
            root,
            _kubeconfig(state, folder, made.namespace.name),
            images.git_sha(root),
            made.run.bindings,
            made.variables,
            made.written,
            foreign_images,
        )
        driver = Driver(made, run, setting, observer or Silent())
        asyncio.run(driver.run())
    return run


def _new_record(made: plan.Plan, folder: Path) -> RunRecord:
    tasks = {
        task.name: TaskRecord(task.name, task.task.name, task.final, onError=task.on_error)
        for task in made.pipeline.tasks
    }
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
        self.task_runs = TaskRuns(made, run, setting, observer, self._changed)
        self.began = self.final_began = 0.0
        self.moment = utcnow()
        self.cancelled = False
        self.woken = asyncio.Event()

    async def run(self) -> None:
        """Run until every Task is done, a limit has ended the run, or it was cancelled."""
        self.began = asyncio.get_running_loop().time()
        self.moment = datetime.now(utcnow().tzinfo)
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
            self.task_runs.stop(name, message, timed_out)

    def cancel(self) -> None:
        """Cancel the run, as `spec.status: Cancelled` does: running Tasks end, finally Tasks do not run."""
        if self.cancelled:
            self.task_runs.hurry()
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
            self.running[entry.name] = asyncio.create_task(self.task_runs.run(task, entry))

    def _changed(self) -> None:
        self.record.seconds = record.seconds_between(self.moment, datetime.now(utcnow().tzinfo))
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
