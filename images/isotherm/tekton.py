"""What every program of a Task shares: inputs from the environment, results on every exit path, and a last line that
says why.

Reads   environment variables (UPPER_SNAKE of a param's name) and RESULT_<NAME>, the path of each result file
Writes  result files, reports as atomic JSON files
Exit    0 done; 2 bad input; 3 refused (a rule says no); 4 a service is unavailable; 1 anything unforeseen
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, get_args

RESULTS_LIMIT_BYTES = 2048
# What a person can mend on the volume itself; any other operating-system error is one that nobody foresaw.
_VOLUME = {errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS}
_SECRET = re.compile(r"(?i)(://[^/\s:@]*:)[^@\s]+(@)|((?:password|secret|token|authorization)[=:]\s*)\S+")


class TaskError(Exception):
    """A failure that a person can act on: what failed and why, and the remedy."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def line(self) -> str:
        """One line for the end of the log: what, why, and what to do."""
        return redact(" ".join(f"{self.what}; {self.remedy}".split()))[:1500]


class BadInput(TaskError):
    """What the user gave cannot be used: data, a param, a file."""

    exit_code = 2


class Refused(TaskError):
    """A rule of the catalog says no: a digest differs, a shift is in progress, a tag is missing."""

    exit_code = 3


class Unavailable(TaskError):
    """A service did not answer within its deadline; the same run may succeed later."""

    exit_code = 4


def redact(text: str) -> str:
    """Blank out credentials in URLs and key=value pairs before a text reaches a log."""
    return _SECRET.sub(lambda m: f"{m[1]}***{m[2]}" if m[1] else f"{m[3]}***", text)


def say(line: str) -> None:
    """Print a line of a program's log at once, without credentials."""
    print(redact(line), flush=True)


def utcnow() -> datetime:
    """Return the current time in UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """Format a UTC time as `2025-10-20T15:22:17Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(moment: datetime) -> str:
    """Format a UTC time as a Lease wants it, with microseconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError("is neither true nor false")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


_PARSERS: Mapping[type, Callable[[str], Any]] = {str: str, int: int, float: _finite, bool: _boolean, Path: Path}


def environment(**wanted: type | UnionType) -> SimpleNamespace:
    """Read typed inputs from environment variables: `environment(model_name=str, lr=float)` takes MODEL_NAME and LR.

    An optional value is declared as `float | None`; the empty string then gives None.
    Raises `BadInput` naming the param (kebab-case, as in the Task) that is missing or malformed.
    """
    values = SimpleNamespace()
    for name, kind in wanted.items():
        param, text = name.replace("_", "-"), os.environ.get(name.upper())
        if text is None:
            raise BadInput(
                f"environment variable {name.upper()} is not set",
                remedy=f"set param {param}, or the variable when run by hand",
            )
        kinds = get_args(kind) or (kind,)
        if text == "" and type(None) in kinds:
            setattr(values, name, None)
            continue
        plain = next(one for one in kinds if one is not type(None))
        try:
            setattr(values, name, _PARSERS[plain](text))
        except ValueError as error:
            expected = {int: "a whole number", float: "a finite number", bool: "true or false"}.get(plain, "text")
            raise BadInput(f"param {param} is {text[:80]!r}", remedy=f"give {expected}") from error
    return values


@contextmanager
def results(**initial: str) -> Iterator[SimpleNamespace]:
    """Write every result before any work and again on every way out.

    Use: `with results(verdict="fail") as r: ...; r.verdict = "pass"`. Each name maps to the file that RESULT_<NAME>
    points to; without that variable (run by hand) it is not written. Raises RuntimeError on an undeclared name.
    """
    values = SimpleNamespace(**initial)
    _write_results(vars(values))
    try:
        yield values
    finally:
        unknown = set(vars(values)) - set(initial)
        _write_results(vars(values))
        if unknown:
            raise RuntimeError(f"undeclared results: {sorted(unknown)}")


def _write_results(values: Mapping[str, object]) -> None:
    total = sum(len(str(value).encode()) for value in values.values())
    if total > RESULTS_LIMIT_BYTES:
        raise RuntimeError(f"results hold {total} bytes, more than {RESULTS_LIMIT_BYTES}: put a pointer there instead")
    for name, value in values.items():
        path = os.environ.get(f"RESULT_{name.upper()}")
        if path:
            Path(path).write_text(str(value), encoding="utf-8")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader or a crash sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o664)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as strict JSON (no NaN) with `schema_version` first, atomically."""
    body = json.dumps({"schema_version": 1, **report}, indent=2, allow_nan=False) + "\n"
    write_atomic(path, body)


@contextmanager
def report(path: Path, task: str) -> Iterator[dict[str, Any]]:
    """Write a Task's report when its work ends: what the work put into the yielded dict, with the times.

    Use: `with tekton.report(reports / "x.json", "task") as report: ...; report.update(found)`. The report of a failure
    has `error` as well, the last line of the log. An earlier attempt's report is removed first: it is not this one's. A
    later attempt's stays, where Tekton has given this pod up and it lives on all the same.
    """
    began, clock = utcnow(), time.monotonic()
    content: dict[str, Any] = {}

    def write(**more: str) -> None:
        if _began_later(path, began):
            print(f"a later attempt has written {path.name}, which stays as it is", flush=True)
            return
        times = {"started_at": rfc3339(began), "finished_at": rfc3339(utcnow())}
        seconds = round(time.monotonic() - clock, 3)
        write_report(path, {"task": task, **times, "seconds": seconds, **content, **more})

    path.unlink(missing_ok=True)
    try:
        yield content
    except Exception as error:
        # The cause must reach the log, even where its report cannot be written.
        with suppress(OSError, ValueError):
            write(error=last_line(error))
        raise
    write()


def _began_later(path: Path, began: datetime) -> bool:
    """Whether the report that is there is an attempt's that began after this one."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        return str(there["started_at"]) > rfc3339(began)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_report(path: Path) -> dict[str, Any] | None:
    """Read a report; None where the Task did not get to write one."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"report {path} cannot be read ({error})", remedy="delete it and run its Task again") from error
    return report


def _foreseen(error: Exception) -> str:
    """Word an error that a person can act on; empty for any other."""
    if isinstance(error, TaskError):
        return error.line()
    if isinstance(error, OSError) and error.errno in _VOLUME:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}; check that its volume is writable and has space"
    return ""


def last_line(error: Exception) -> str:
    """Say in one line what failed, why, and what to do."""
    if line := _foreseen(error):
        return line
    text = " ".join(redact(f"{type(error).__name__}: {error}").split())[:600]
    return f"unexpected {text}; please report it with the log above"


def main(run: Callable[[], None]) -> int:
    """Run a program's `run()` and turn what it raises into an exit code and one last line on stderr."""
    try:
        run()
    except Exception as error:
        if not _foreseen(error):
            traceback.print_exc()
        print(f"error: {last_line(error)}", file=sys.stderr, flush=True)
        return error.exit_code if isinstance(error, TaskError) else 1
    return 0


def step_main(run: Callable[[], None]) -> int:
    """Run a Task's step like `main`, with all that it prints on stderr.

    A container runtime reads stdout and stderr through two pipes and may swap lines of the two, so that the cause of a
    failure would not be the last line of the log that a person sees.
    """
    with redirect_stdout(sys.stderr):
        return main(run)
