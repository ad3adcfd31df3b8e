"""What is known of a run: `run.json`, written whole at each change, and the lock that its live runner holds.

Writes `<state>/namespaces/<ns>/runs/<name>/run.json`; beside it `lock`, held while the runner lives, so that a record
that says Running without a holder is known to be interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from isotherm.tekton import BadInput, Refused, rfc3339, utcnow, write_atomic
from isotherm_local.runner.substitution import Value

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

PENDING, RUNNING = "Pending", "Running"
CONTINUE = "continue"
SUCCEEDED, FAILED, CANCELLED, SKIPPED, INVALID = "Succeeded", "Failed", "Cancelled", "Skipped", "Invalid"


@dataclass
class TaskRecord:
    """One Task of a run.

    `state` is Pending, Running, Succeeded, Failed, Cancelled, Skipped or Invalid (never started: a result is missing);
    `reason` is Tekton's reason or skip reason; `cause` is the last line of a failing Task; times are RFC 3339.
    A matrix has one of `children` per combination; their results together are its arrays.
    """

    name: str
    task: str
    final: bool = False
    state: str = PENDING
    reason: str = ""
    message: str = ""
    cause: str = ""
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    attempts: int = 0
    results: dict[str, Value] = field(default_factory=dict)
    whenExpressions: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""
    timed_out: bool = False
    last_line: str = ""
    onError: str = ""
    params: dict[str, Value] = field(default_factory=dict)
    children: list[TaskRecord] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Tell whether nothing more will happen to this Task."""
        return self.state not in (PENDING, RUNNING)

    @property
    def failed(self) -> bool:
        """Tell whether this Task failed, as Tekton's `isFailure` or a failed validation do."""
        return self.state in (FAILED, CANCELLED, INVALID)

    @property
    def stopping(self) -> bool:
        """Tell whether this Task's failure stops the run."""
        return self.failed and self.onError != CONTINUE

    @property
    def ignored(self) -> bool:
        """Tell whether this Task's failure does not fail the run."""
        return self.state == FAILED and self.onError == CONTINUE


@dataclass
class RunRecord:
    """One PipelineRun or TaskRun. `status` is Tekton's: True succeeded, False failed, Unknown running."""

    kind: str
    name: str
    namespace: str
    uid: str
    file: str
    pipeline: str
    params: dict[str, Value]
    spec: dict[str, Any]
    folder: Path
    status: str = "Unknown"
    reason: str = "Running"
    message: str = ""
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    results: dict[str, Value] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)
    pid: int = 0

    @property
    def succeeded(self) -> bool:
        """Tell whether the run ended well (reason Succeeded, or Completed where a Task was skipped)."""
        return self.status == "True"

    def culprit(self) -> TaskRecord | None:
        """Find the Task whose last line is the cause of a failed run: the first that failed."""
        tasks = [task for task in self.tasks.values() if not task.ignored]
        failed = [task for task in tasks if (task.failed and task.state != CANCELLED) or task.timed_out]
        return min(failed, key=lambda task: (task.final, task.finished or "9"), default=None)

    def write(self) -> None:
        """Write run.json, atomically."""
        body = asdict(self) | {"folder": str(self.folder)}
        write_atomic(self.folder / RUN_FILE, json.dumps({"schema_version": SCHEMA_VERSION, **body}, indent=2) + "\n")


def read(folder: Path) -> RunRecord | None:
    """Read a run's record; None where there is none."""
    try:
        body = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"record {folder / RUN_FILE} cannot be read ({error})", remedy="remove its folder") from error
    try:
        body.pop("schema_version", None)
        tasks = {name: _task(task) for name, task in body.pop("tasks").items()}
        return RunRecord(**{**body, "folder": folder, "tasks": tasks})
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(
            f"record {folder / RUN_FILE} is of another version ({error})", remedy="remove its folder"
        ) from error


def _task(body: dict[str, Any]) -> TaskRecord:
    return TaskRecord(**{**body, "children": [_task(child) for child in body.get("children", ())]})


def now() -> str:
    """Return the time in UTC as RFC 3339."""
    return rfc3339(utcnow())


def seconds_between(started: datetime, finished: datetime) -> float:
    """Return the seconds between two times, to a tenth."""
    return round((finished - started).total_seconds(), 1)


class Namespace:
    """The folders of one namespace below the state folder."""

    def __init__(self, state: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"namespace {name!r} is not a name for Kubernetes", remedy="use small letters, digits and dashes"
            )
        self.name = name
        self.folder = state / "namespaces" / name
        self.claims = self.folder / "pvcs"
        self.secrets = self.folder / "secrets"
        self.config_maps = self.folder / "configmaps"

    def run(self, name: str) -> Path:
        """Name the folder of a run."""
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"run name {name!r} is not a name for Kubernetes", remedy="use small letters, digits and dashes"
            )
        return self.folder / "runs" / name

    def runs(self) -> list[RunRecord]:
        """List the runs, oldest first."""
        found = (read(folder) for folder in (self.folder / "runs").glob("*"))
        return sorted((record for record in found if record), key=lambda record: record.started)


def _try_lock(folder: Path) -> IO[str] | None:
    handle = (folder / "lock").open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def condition(record: RunRecord) -> str:
    """Say how a run stands in one word: its reason, Running, or Interrupted where its runner is gone."""
    if record.status != "Unknown":
        return record.reason
    lock = _try_lock(record.folder)
    if lock is None:
        return RUNNING
    lock.close()
    return "Interrupted"


def claim(folder: Path, name: str, delete_first: bool) -> IO[str]:
    """Take the folder of a new run and hold its lock; an existing run is refused, or deleted first where asked.

    Raises `Refused` (Tekton's AlreadyExists) where the run exists.
    """
    existing = read(folder)
    if existing is not None:
        if not delete_first:
            state = condition(existing)
            words = (
                "was interrupted: its runner was killed"
                if state == "Interrupted"
                else "is running"
                if state == RUNNING
                else "exists"
            )
            raise Refused(
                f"{existing.kind} {name} {words} (AlreadyExists)",
                remedy=f"delete it (isotherm delete {name} -n {existing.namespace}) or use another name (--name)",
            )
        delete(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(folder)
    except OSError as error:
        what = f"the run's folder {folder} cannot be made ({error.strerror})"
        raise BadInput(what, remedy="give a folder that can be written (--state DIR)") from error
    if lock is None:
        raise Refused(f"run {name} is being started by another runner", remedy="wait, or use another name (--name)")
    return lock


def delete(folder: Path) -> RunRecord:
    """Delete a run's record, logs and its volumeClaimTemplates' folders, as the cluster does; never a named claim.

    Raises `BadInput` where there is no such run, `Refused` while it runs.
    """
    record = read(folder)
    if record is None:
        raise BadInput(f"run {folder.name} does not exist", remedy="`isotherm list` names the runs")
    if condition(record) == RUNNING:
        raise Refused(
            f"{record.kind} {record.name} is running (pid {record.pid})",
            remedy="press Ctrl-C there, or wait until it ends",
        )
    # Renamed first: a delete that is killed half-way leaves no record that looks whole.
    doomed = folder.with_name(f".deleted-{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    return record
