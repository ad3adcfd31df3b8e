"""The names that events give to their runs, and the arithmetic of cool-downs: pure functions.

A key names an event; the run that it makes is named by its key, so that the API server refuses the second one. A later
attempt for the same event (the first was not admitted) is named `<key>-N`, N from 2.

Raises `tekton.BadInput` on every value that its strict pattern does not pass: what is left needs no escaping anywhere.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from isotherm import tekton

MAX_NAME = 63  # Tekton copies a run's name into a label
SHORT_SHA = 12
NO_COMMIT = "0" * 40  # what git forges send as `before` of a new branch

SHA = re.compile(r"[0-9a-f]{40}")
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
MODEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?")
SLUG = re.compile(r"[a-z0-9]([-a-z0-9]{0,43}[a-z0-9])?")  # of a watch or a lakeFS repository
VERSION = re.compile(r"[1-9][0-9]{0,8}")
MINUTE = re.compile(r"[0-9]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
KEY = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check(what: str, value: object, pattern: re.Pattern[str]) -> str:
    """Return a value that the whole pattern matches; name `what` where it does not."""
    if not isinstance(value, str) or not value.isascii() or not pattern.fullmatch(value):
        raise tekton.BadInput(f"{what} is {str(value)[:80]!r}", remedy=f"it must match {pattern.pattern}")
    return value


def _name(*parts: str) -> str:
    name = "-".join(parts)
    if len(name) > MAX_NAME:
        raise tekton.BadInput(
            f"the run would be named {name!r}, longer than {MAX_NAME} characters",
            remedy="give the model (or watch) a shorter name",
        )
    return name


def data_push(watch: str, head: str) -> str:
    """`data-REPO-SHA12`, for a push whose commits change data."""
    return _name("data", check("the watch", watch, SLUG), check("the commit", head, SHA)[:SHORT_SHA])


def code_push(watch: str, head: str) -> str:
    """`build-REPO-SHA12`, for a push whose commits change code."""
    return _name("build", check("the watch", watch, SLUG), check("the commit", head, SHA)[:SHORT_SHA])


def alert(fingerprint: str, starts_at: str) -> str:
    """`retrain-FINGERPRINT-STARTED`: one firing of one alert, whatever is sent again while it lasts.

    STARTED is the first 14 digits of the text, as the listener's filter takes them; no time zone is converted.
    """
    digits = re.sub("[^0-9]", "", check("startsAt", starts_at, TIME))
    return _name("retrain", check("the fingerprint", fingerprint, FINGERPRINT), digits[:14])


def deploy(model: str, version: str) -> str:
    """`deploy-MODEL-vVERSION`, for a registered version that got the alias."""
    return _name("deploy", check("the model", model, MODEL), "v" + check("the version", version, VERSION))


def schedule(model: str, minute: str) -> str:
    """`schedule-MODEL-YYYYMMDDHHMM`; leaves 41 characters to the model's name."""
    return _name("schedule", check("the model", model, MODEL), check("the minute", minute, MINUTE))


def lakefs(repository: str, commit: str) -> str:
    """`lakefs-REPO-COMMIT12`; lakeFS' commit ids have 64 hexadecimal digits."""
    commit = check("the commit", commit, re.compile(r"[0-9a-f]{64}"))
    return _name("lakefs", check("the repository", repository, SLUG), commit[:SHORT_SHA])


def nth(name: str, number: int) -> str:
    """Name the N-th run of a kind: the name itself, then `<name>-2`, `<name>-3`."""
    return name if number == 1 else _name(check("the key", name, KEY), str(number))


def scheduled_minute(job_name: str) -> str:
    """Read the minute (UTC, YYYYMMDDHHMM) out of a CronJob's Job name, `NAME-<minutes since the epoch>`."""
    found = re.fullmatch(r"[a-z0-9][-a-z0-9.]*-([1-9][0-9]{7,8})", job_name)
    if not found or not job_name.isascii():
        raise tekton.BadInput(
            f"JOB_NAME is {job_name[:80]!r}, which names no scheduled minute",
            remedy="let the CronJob make the Job; to train at once start a PipelineRun by hand",
        )
    return f"{datetime.fromtimestamp(int(found[1]) * 60, UTC):%Y%m%d%H%M}"


def moment(text: str) -> datetime:
    """Read an RFC 3339 time, with or without a fraction."""
    check("the time", text, TIME)
    try:
        # Python reads microseconds at most.
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise tekton.BadInput(f"the time is {text!r}", remedy="give a time that exists") from error


def cool_until(renewed: datetime, seconds: int) -> datetime:
    """When a cool-down that began at `renewed` ends; a run that starts at that very moment is late enough."""
    return renewed + timedelta(seconds=seconds)


def cooling(now: datetime, renewed: datetime | None, seconds: int) -> datetime | None:
    """When the cool-down ends that `now` lies in; None outside of one.

    A clock that was set back (`renewed` lies ahead) prolongs a cool-down by at most its own length.
    """
    if renewed is None or seconds <= 0 or renewed > cool_until(now, seconds):
        return None
    until = cool_until(renewed, seconds)
    return until if now < until else None
