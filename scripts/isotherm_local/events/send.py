"""Send an event to a listener, and find the PipelineRun that it made.

A listener answers 202 before it checks anything, so its answer says nothing of the event: only the run does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from isotherm import tekton
from isotherm_local.events import payloads

EVENT_LABEL = "isotherm.dev/event"
_REQUEST_SECONDS = 15
_POLL_SECONDS = 1.0
_TOO_LARGE, _TOO_MANY = 413, 429

Run = Mapping[str, Any]
Runs = Callable[[], Sequence[Run]]


@dataclass(frozen=True)
class Found:
    """The run of an event; with `before`, it was there before the event was sent."""

    run: Run
    before: bool


def send(request: payloads.Request, url: str) -> int:
    """Send a request; return the status, which is below 400.

    Raises `BadInput` where the URL is none or the listener does not take the body, `Unavailable` where it does not
    answer, `Refused` where what stands before it turns the request away.
    """
    try:
        answer = httpx.post(url, content=request.body, headers=dict(request.headers), timeout=_REQUEST_SECONDS)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise tekton.BadInput(
            f"{url!r} is not a URL ({error})", remedy="give http://HOST:PORT or https://HOST"
        ) from error
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise tekton.Unavailable(
            f"listener {url} does not answer ({why})", remedy="look at its Service and Route, and at the EventListener"
        ) from error
    if answer.is_success:
        return answer.status_code
    what = f"listener {url} answers {answer.status_code} {answer.reason_phrase}: {' '.join(answer.text.split())[:200]}"
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise tekton.BadInput(what, remedy="send a JSON object")
    if answer.status_code in (_TOO_LARGE, _TOO_MANY):
        raise tekton.Refused(what, remedy="the front door limits size and rate: send less, or later")
    raise tekton.Unavailable(what, remedy="look at the Route, the front door and the EventListener's pod")


def _match(runs: Sequence[Run], label: str, names: re.Pattern[str] | None, not_these: frozenset[str]) -> Run | None:
    for run in runs:
        metadata = run["metadata"]
        ours = (metadata.get("labels") or {}).get(EVENT_LABEL) == label
        if names.fullmatch(metadata["name"]) if names else ours and metadata["name"] not in not_these:
            return run
    return None


def send_and_find(
    request: payloads.Request,
    url: str,
    runs: Runs,
    names: re.Pattern[str] | None,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Found | None:
    """Send a request and wait for its run: by its name, or as the first new run of this sort of event.

    Returns None where none appears in time. Raises what `send` and `runs` raise.
    """
    label = payloads.SENDERS[request.kind].label
    earlier = runs()
    known = _match(earlier, label, names, frozenset()) if names else None
    not_these = frozenset(run["metadata"]["name"] for run in earlier)
    send(request, url)
    if known:
        return Found(known, before=True)
    deadline = clock() + seconds
    while True:
        run = _match(runs(), label, names, not_these)
        if run:
            return Found(run, before=False)
        if clock() >= deadline:
            return None
        sleep(_POLL_SECONDS)


def described(found: Found, namespace: str) -> str:
    """Say in a line which run an event has."""
    metadata = found.run["metadata"]
    line = f"PipelineRun {metadata['name']} in {namespace}, made {metadata.get('creationTimestamp', 'just now')}"
    conditions = (found.run.get("status") or {}).get("conditions") or [{}]
    reason = conditions[0].get("reason")
    line += f" ({reason})" if reason else ""
    return line + (": it was there before, so this event is a repetition" if found.before else "")


def nothing(namespace: str, seconds: float, kind: str) -> tekton.Unavailable:
    """Say that no run appeared, and what to look at."""
    return tekton.Unavailable(
        f"no PipelineRun of this {kind} event appeared in {namespace} within {seconds:g} s",
        remedy="the listener answers 202 before it checks anything: look at its log (deployment el-NAME), at its "
        "Secret (keys current and previous) and its account's rights, or ask `isotherm event ... --offline` why",
    )
