"""Run one attempt of a Task: its steps one after another, each a process group with its output in the attempt's log.

Writes `<attempt>/log`, `<attempt>/results/<name>`; `<attempt>/scratch/` (home, emptyDirs, working folder) is removed
afterwards, as a pod is.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isotherm.tekton import BadInput, TaskError, redact
from isotherm_local.runner import checks, images, workspaces
from isotherm_local.runner.specs import Binding, PipelineTask, Step, TaskSpec, type_of
from isotherm_local.runner.substitution import (
    Value,
    Variables,
    apply,
    apply_list,
    expand,
    params,
    references,
    spellings,
)

TERMINATION_MESSAGE_LIMIT = 4096  # bytes; the kubelet's, for all results of a step together
GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
Write = Callable[[bytes], int | None]
Seen = Callable[[str], None]
_BREAK = re.compile(r"[\r\n]+")


@dataclass
class Stop:
    """How an attempt is ended from outside; `hurry` cuts the grace short in which its process may end by itself."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    message: str = ""

    def now(self, reason: str, message: str) -> None:
        """Ask for the end; the first reason counts."""
        if not self.event.is_set():
            self.reason, self.message = reason, message
            self.event.set()


@dataclass(frozen=True)
class Setting:
    """What every attempt of a run shares."""

    root: Path
    kubeconfig: Path
    git_sha: str
    bindings: Mapping[str, Binding]
    pipeline_variables: Variables
    written: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: Tekton's reason and message, the results that were left, and the last line of the log."""

    succeeded: bool
    reason: str
    message: str = ""
    results: Mapping[str, Value] = field(default_factory=dict)
    cause: str = ""


@dataclass(frozen=True)
class _Ready:
    """A step with everything substituted."""

    argv: list[str]
    env: dict[str, str]
    folder: Path


def _pass_on_death() -> Callable[[], None] | None:
    """Let a step die with a runner that is killed (on Linux; elsewhere its processes stay)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return arrange


class Attempt:
    """One attempt of a Task."""

    def __init__(
        self, task: PipelineTask, run_name: str, number: int, place: workspaces.Place, setting: Setting
    ) -> None:
        self.task, self.place, self.setting, self.number = task, place, setting, number
        self.task_run = run_name
        self.log = place.attempt / "log"
        self.results = place.attempt / "results"
        self.last_line = ""

    async def run(self, stop: Stop, on_line: Seen) -> Outcome:
        """Run the steps until one fails, a limit is reached or `stop` is set."""
        shutil.rmtree(self.place.attempt, ignore_errors=True)
        for folder in (
            self.results,
            self.place.attempt / "scratch" / "home",
            self.place.attempt / "scratch" / "workspace",
        ):
            folder.mkdir(parents=True)
        try:
            with self.log.open("wb", buffering=0) as log:
                outcome = await self._steps(stop, lambda data: log.write(data), on_line)
        finally:
            shutil.rmtree(self.place.attempt / "scratch", ignore_errors=True)
        return outcome

    async def _steps(self, stop: Stop, write: Write, on_line: Seen) -> Outcome:
        def seen(line: str) -> None:
            self.last_line = line
            on_line(line)

        def refused(reason: str, message: str) -> Outcome:
            write(f"error: {message}\n".encode())
            seen(f"error: {message}")
            return Outcome(False, reason, message, self._read()[0], self.last_line)

        try:
            mounts = self._mounts()
            variables = self._variables(mounts)
            before = {mount.name: workspaces.snapshot(mount.path) for mount in mounts.values() if mount.watched}
        except TaskError as error:
            return refused("TaskRunValidationFailed", error.line())
        for step in self.task.task.steps:
            try:
                ready = self._prepare(step, variables)
            except TaskError as error:
                return refused("InvalidParamValue", error.line())
            outcome = await self._step(step, ready, stop, write, seen)
            if outcome is not None:
                return outcome
            _, size = self._read()
            if size > TERMINATION_MESSAGE_LIMIT:
                text = f"Termination message is above max allowed size {TERMINATION_MESSAGE_LIMIT}"
                text += f", caused by large task result ({size} bytes); put it on a workspace and its path here"
                return refused("StepFailed", text)
        for name, files in before.items():
            if workspaces.snapshot(mounts[name].path) != files:
                return refused(
                    "StepFailed",
                    f"readOnly workspace {name} was changed by this Task; on a cluster the write would have failed",
                )
        found, _ = self._read()
        problem = mismatched(self.task.task, found)
        if problem:
            return refused("TaskRunValidationFailed", problem)
        return Outcome(True, "Succeeded", "All Steps have completed executing", found, self.last_line)

    async def _step(self, step: Step, ready: _Ready, stop: Stop, write: Write, seen: Seen) -> Outcome | None:
        """Run one step; None when it ended well."""
        try:
            ready.folder.mkdir(parents=True, exist_ok=True)
            code, late = await _process(ready, step.timeout, stop, write, seen)
        except OSError as error:
            message = f'"step-{step.name}" could not start: {error.strerror} ({error.filename})'
            return Outcome(False, "StepFailed", message, {}, message)
        if stop.event.is_set():
            return Outcome(False, stop.reason, stop.message, {}, self.last_line)
        if late:
            message = f'"step-{step.name}" exited because the step exceeded the specified timeout limit'
            return Outcome(False, "StepFailed", message, self._read()[0], self.last_line)
        if code != 0:
            message = f'"step-{step.name}" exited with code {code}'
            return Outcome(False, "StepFailed", message, self._read()[0], self.last_line)
        return None

    def _mounts(self) -> dict[str, workspaces.Mount]:
        strings = self.setting.pipeline_variables.strings | params(self._values()).strings
        return workspaces.bind(self.task, self.setting.bindings, strings, self.place, self.setting.written)

    def _values(self) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for spec in self.task.task.params.values():
            value = self.task.params.get(spec.name, spec.default)
            if isinstance(value, dict) and isinstance(spec.default, dict):
                value = {**spec.default, **value}
            if value is not None:
                values[spec.name] = _default(value, values) if spec.name not in self.task.params else value
        return values

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
            outer = self.setting.pipeline_variables
        results = {
            spelling: str(self.results / name)
            for name in self.task.task.results
            for spelling in spellings("results", name, ".path")
        }
        return [
            outer | params(self._values()),
            Variables(context),
            Variables(results),
            workspaces.variables(self.task, mounts),
        ]

    def _prepare(self, step: Step, passes: Sequence[Variables]) -> _Ready:
        """Substitute a step's texts, expand as the kubelet does, and find its program.

        Raises `BadInput` where a value would be altered: by the kubelet (`$$`, `$(NAME)`) or by a later pass of Tekton.
        """
        folders = {mount: str(self.place.attempt / "scratch" / "volumes" / name) for mount, name in step.mounts.items()}
        for real in folders.values():
            Path(real).mkdir(parents=True, exist_ok=True)
        once = Variables()
        for variables in passes:
            once = once | variables

        def items(texts: Sequence[str], env: Mapping[str, str], place: str) -> list[str]:
            texts = [_with_folders(text, folders) for text in texts]
            for name in (name for text in texts for name in references(text)):
                if name not in once.strings and name.removesuffix("[*]") not in once.arrays:
                    raise BadInput(
                        f"{step.source.at()}: $({name}) in {place} has no value",
                        remedy="look at the length of the array or the object's keys",
                    )
            done = list(texts)
            for variables in passes:
                done = apply_list(done, variables)
            done = [expand(text, env) for text in done]
            # The author may use the kubelet's expansion; what a value brings along must arrive as it is.
            if done != apply_list([expand(text, env) for text in texts], once):
                raise BadInput(
                    f"{step.source.at()}: a value in {place} contains $$ or $(...)",
                    remedy="change it: the kubelet or Tekton would alter it on a cluster",
                )
            return done

        own: dict[str, str] = {}
        for name, value in step.env:
            own[name] = items([value], own, f"env {name}")[0]
        argv = items(step.command, own, "command") + items(step.args, own, "args")
        environment = images.environment_of(step, self.setting.root)
        start = images.program(argv[0], environment)
        if start is None:
            raise step.source.refuse(
                "command", problem=f": program {argv[0]!r} is not on PATH", remedy="install it, or use python"
            )
        given = images.variables(
            self.setting.root,
            environment,
            self.place.attempt / "scratch" / "home",
            self.setting.kubeconfig,
            self.setting.git_sha,
        )
        folder = self.place.attempt / "scratch" / "workspace" / items([step.working_dir], own, "workingDir")[0]
        return _Ready([start, *argv[1:]], {**given, **own}, folder)

    def _read(self) -> tuple[dict[str, Value], int]:
        """Read the results that are there and the bytes that they take in a termination message."""
        found: dict[str, Value] = {}
        entries = []
        for name, spec in self.task.task.results.items():
            with contextlib.suppress(FileNotFoundError):
                text = (self.results / name).read_text(encoding="utf-8", errors="replace")
                found[name] = text if spec.type == "string" else parse_result(text)
                entries.append({"key": name, "value": text, "type": 1})
        return found, len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()) if entries else 0


def _default(value: Value, earlier: Mapping[str, Value]) -> Value:
    # A default may name another param of the Task.
    return apply(value, params(earlier).strings) if isinstance(value, str) else value


def _with_folders(text: str, folders: Mapping[str, str]) -> str:
    for mount, folder in sorted(folders.items(), key=lambda item: -len(item[0])):
        match = checks.mounted(text, mount)
        if match:
            text = text[: match.start()] + folder + text[match.end() :]
    return text


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


async def _process(ready: _Ready, limit: float | None, stop: Stop, write: Write, seen: Seen) -> tuple[int, bool]:
    """Run a process group to its end; return its exit code (128 + n for signal n) and whether the limit ended it."""
    # A pipe of our own: asyncio's waits for everyone who holds it, so for what a step leaves running as well.
    reading, writing = os.pipe()
    output = os.fdopen(reading, "rb", buffering=0)
    try:
        process = await asyncio.create_subprocess_exec(
            *ready.argv,
            env=ready.env,
            cwd=ready.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_pass_on_death(),
        )
    except OSError:
        output.close()
        raise
    finally:
        os.close(writing)
    stream = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), output)
    reader = asyncio.create_task(_pump(stream, write, seen))
    ended = asyncio.create_task(process.wait())
    stopped, hurried = asyncio.create_task(stop.event.wait()), asyncio.create_task(stop.hurry.wait())
    try:
        await asyncio.wait({ended, stopped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        late = not ended.done() and not stopped.done()
        if not ended.done():
            _signal(process.pid, signal.SIGTERM)
            await asyncio.wait({ended, hurried}, timeout=GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        hurried.cancel()
        # Whatever the step left running ends with it, as in a container.
        _signal(process.pid, signal.SIGKILL)
    code = await ended
    await asyncio.wait({reader}, timeout=2.0)
    reader.cancel()
    pipe.close()
    return code if code >= 0 else 128 - code, late


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _pump(stream: asyncio.StreamReader, write: Write, seen: Seen) -> None:
    """Copy output to the log and hand on each line; a carriage return ends a line too, so that progress bars show."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while data := await stream.read(65536):
        write(data)
        *lines, rest = _BREAK.split(rest + decoder.decode(data))
        for line in lines:
            if line.strip():
                seen(redact(line.rstrip())[:2000])
        rest = rest[-65536:]
    if rest.strip():
        seen(redact(rest.rstrip())[:2000])
