"""Run one attempt of a Task: its steps one after another, each a process group with its output in the attempt's log.

Writes `<attempt>/log`, `<attempt>/results/<name>`; `<attempt>/scratch/` (home, emptyDirs, working folder) is removed
afterwards, as a pod is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isotherm.tekton import BadInput, TaskError
from isotherm_local.runner import prepare, process, results, workspaces
from isotherm_local.runner.process import Ready, Seen, Stop, Write
from isotherm_local.runner.specs import Binding, PipelineTask, Step
from isotherm_local.runner.substitution import Value, Variables, apply, params, spellings


@dataclass(frozen=True)
class Setting:
    """What every attempt of a run shares."""

    root: Path
    kubeconfig: Path
    git_sha: str
    bindings: Mapping[str, Binding]
    pipeline_variables: Variables
    written: frozenset[str]
    foreign: bool = False


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: Tekton's reason and message, the results that were left, and the last line of the log."""

    succeeded: bool
    reason: str
    message: str = ""
    results: Mapping[str, Value] = field(default_factory=dict)
    cause: str = ""


class Attempt:
    """One attempt of a Task."""

    def __init__(
        self, task: PipelineTask, run_name: str, number: int, place: workspaces.Place, setting: Setting
    ) -> None:
        self.task, self.place, self.setting, self.number = task, place, setting, number
        self.task_run = run_name
        self.log = place.attempt / "log"
        self.results = place.attempt / "results"
        self.scene = prepare.Scene(
            place.attempt / "scratch", self.results, setting.root, setting.foreign, setting.kubeconfig, setting.git_sha
        )
        self.last_line = ""

    async def run(self, stop: Stop, on_line: Seen) -> Outcome:
        """Run the steps until one fails, a limit is reached or `stop` is set."""
        shutil.rmtree(self.place.attempt, ignore_errors=True)
        for folder in (self.results, *self.scene.standing.values()):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("wb", buffering=0) as log:
                outcome = await self._steps(stop, lambda data: log.write(data), on_line)
        finally:
            shutil.rmtree(self.scene.scratch, ignore_errors=True)
        return outcome

    async def _steps(self, stop: Stop, write: Write, on_line: Seen) -> Outcome:
        def seen(line: str) -> None:
            self.last_line = line
            on_line(line)

        def refused(reason: str, message: str, left: Mapping[str, Value] | None = None) -> Outcome:
            write(f"error: {message}\n".encode())
            seen(f"error: {message}")
            return Outcome(False, reason, message, self._read()[0] if left is None else left, self.last_line)

        try:
            mounts = self._mounts()
            variables = self._variables(mounts)
            before = {mount.name: workspaces.snapshot(mount.path) for mount in mounts.values() if mount.watched}
        except TaskError as error:
            return refused("TaskRunValidationFailed", error.line())
        mounted_at = {self.task.task.workspaces[name].path: mount.path for name, mount in mounts.items()}
        kept: Mapping[str, Value] = {}
        for index, step in enumerate(self.task.task.steps):
            try:
                ready = prepare.ready(step, variables, self.scene, mounted_at)
            except TaskError as error:
                return refused("InvalidParamValue", error.line())
            outcome = await self._step(index, step, ready, stop, write, seen)
            if outcome is not None:
                return outcome
            found, size = self._read()
            if size > results.TERMINATION_MESSAGE_LIMIT:
                text = f"Termination message is above max allowed size {results.TERMINATION_MESSAGE_LIMIT}"
                text += f", caused by large task result ({size} bytes); put it on a workspace and its path here"
                return refused("StepFailed", text, kept)  # the step's message is lost, those of earlier ones are not
            kept = found
        for name, files in before.items():
            if workspaces.snapshot(mounts[name].path) != files:
                return refused(
                    "StepFailed",
                    f"readOnly workspace {name} was changed by this Task; on a cluster the write would have failed",
                )
        found, _ = self._read()
        problem = results.mismatched(self.task.task, found)
        if problem:
            return refused("TaskRunValidationFailed", problem)
        return Outcome(True, "Succeeded", "All Steps have completed executing", found, self.last_line)

    async def _step(self, index: int, step: Step, ready: Ready, stop: Stop, write: Write, seen: Seen) -> Outcome | None:
        """Run one step; None when it ended well, or when its failure does not count."""
        try:
            ready.folder.mkdir(parents=True, exist_ok=True)
            code, late = await process.run(ready, step.timeout, stop, write, seen)
        except OSError as error:
            message = f'"step-{step.name}" could not start: {error.strerror} ({error.filename})'
            return Outcome(False, "StepFailed", message, {}, message)
        if stop.event.is_set():
            return Outcome(False, stop.reason, stop.message, {}, self.last_line)
        if late:
            message = f'"step-{step.name}" exited because the step exceeded the specified timeout limit'
            return Outcome(False, "StepFailed", message, self._read()[0], self.last_line)
        if code != 0 and not ready.goes_on:
            message = f'"step-{step.name}" exited with code {code if code > 0 else 128 - code}'
            return Outcome(False, "StepFailed", message, self._read()[0], self.last_line)
        self._exit_code(index, step, code)
        return None

    def _exit_code(self, index: int, step: Step, code: int) -> None:
        """Leave the exit code as Tekton's entrypoint does: -1 for a process that a signal ended."""
        file = self.scene.exit_code(step)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(max(code, -1)))
        link = file.parent.with_name(str(index))
        if not link.exists():
            link.symlink_to(file.parent, target_is_directory=True)

    def _mounts(self) -> dict[str, workspaces.Mount]:
        strings = self.setting.pipeline_variables.strings | params(self._values()).strings
        return workspaces.bind(self.task, self.setting.bindings, strings, self.place, self.setting.written)

    def _values(self) -> dict[str, Value]:
        """Give every declared param its value; what is given but not declared stays, for an embedded Task."""
        values: dict[str, Value] = {}
        for spec in self.task.task.params.values():
            value = self.task.params.get(spec.name, spec.default)
            if value is None:
                raise BadInput(
                    f"missing values for these params which have no default values: [{spec.name}]",
                    remedy="give it in each combination of the matrix",
                )
            if isinstance(value, dict) and isinstance(spec.default, dict):
                value = {**spec.default, **value}
            values[spec.name] = _default(value, values) if spec.name not in self.task.params else value
        return {**self.task.params, **values}

    def _variables(self, mounts: Mapping[str, workspaces.Mount]) -> list[Variables]:
        """List the Task's variables in the order in which Tekton applies them, one pass each."""
        context = {
            "context.taskRun.name": self.task_run,
            "context.taskRun.namespace": self.place.namespace.name,
            "context.taskRun.uid": f"{self.place.run_uid}-{self.task.name}",
            "context.task.name": self.task.task.name,
        }
        outer = Variables()
        if self.task.embedded:
            context["context.task.retry-count"] = str(self.number - 1)
            context["context.pipelineTask.retries"] = str(self.task.retries)
            outer = self.setting.pipeline_variables | self.task.inherited
        values = self._values()
        # An embedded Task is substituted with the Pipeline's params first: they stand before its own defaults.
        defaults = {name: value for name, value in values.items() if name not in self.task.params}
        given = {name: value for name, value in values.items() if name in self.task.params}
        paths = {
            spelling: str(self.results / name)
            for name in self.task.task.results
            for spelling in spellings("results", name, ".path")
        }
        codes = {
            f"steps.step-{step.name}.exitCode.path": str(self.scene.exit_code(step)) for step in self.task.task.steps
        }
        return [
            params(defaults, of_task=True) | outer | params(given, of_task=True),
            Variables(context),
            Variables(paths),
            Variables(codes),
            workspaces.variables(self.task, mounts),
        ]

    def _read(self) -> tuple[dict[str, Value], int]:
        return results.read(self.results, self.task.task)


def _default(value: Value, earlier: Mapping[str, Value]) -> Value:
    # A default may name another param of the Task.
    return apply(value, params(earlier).strings) if isinstance(value, str) else value
