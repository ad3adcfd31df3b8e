"""Send the event of a schedule, and make sure that it became a run: the listener's 202 proves nothing.

Reads   JOB_NAME (a CronJob names its Job NAME-<minutes since the epoch>), MODEL_NAME, LISTENER_URL, TOKEN_FILE (the
        bearer token), DEADLINE_SECONDS
Sends   {"model": ..., "scheduled": "YYYYMMDDHHMM"}, again and again until PipelineRun `schedule-MODEL-YYYYMMDDHHMM`
        exists; every repetition asks for the same name, so there is one run
Exit    0 the run exists; 2 bad input; 3 the listener refuses the sender; 4 no run until the deadline
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isotherm import kube, tekton
from isotherm.events import keys

POLL_SECONDS = 1.0
AGAIN_SECONDS = 15.0  # how long to wait for the run before the event is sent once more
REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class Event:
    """A scheduled training and where to send it."""

    model: str
    minute: str
    url: str
    token: str

    @property
    def name(self) -> str:
        """The run that must exist in the end."""
        return keys.schedule(self.model, self.minute)


def send(event: Event) -> str:
    """Post the event once; say what went wrong, empty where the listener took it.

    Raises `tekton.Refused` where the listener does not accept the sender.
    """
    import httpx

    body = {"model": event.model, "scheduled": event.minute}
    headers = {"Authorization": f"Bearer {event.token}"}
    try:
        answer = httpx.post(event.url, json=body, headers=headers, timeout=REQUEST_SECONDS)
    except httpx.HTTPError as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    if answer.status_code in (401, 403, 404, 405, 413):
        raise tekton.Refused(
            f"the listener at {event.url} answers {answer.status_code}", remedy="check LISTENER_URL and the token"
        )
    return "" if answer.is_success else f"it answers {answer.status_code}"


def ensure(
    cluster: kube.Cluster,
    event: Event,
    *,
    deadline_seconds: float,
    again_seconds: float = AGAIN_SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Send and look until the run exists. Raises `tekton.Unavailable` at the deadline."""
    name, deadline = event.name, time.monotonic() + deadline_seconds
    problem, next_send = "", 0.0
    while time.monotonic() < deadline:
        if cluster.get(kube.PIPELINE_RUN, name) is not None:
            say(f"run {name} exists")
            return
        if time.monotonic() >= next_send:
            problem = send(event)
            say(f"sent {name}" if not problem else f"not sent: {problem}")
            next_send = time.monotonic() + (POLL_SECONDS * 2 if problem else again_seconds)
        time.sleep(POLL_SECONDS)
    why = f"did not take the event: {problem}" if problem else "took the event, but there is no such run"
    raise tekton.Unavailable(
        f"no run {name} after {deadline_seconds:.0f} s: the listener at {event.url} {why}",
        remedy="see the listener's log (its filter, its ServiceAccount's rights), then run the Job again",
    )


def run() -> None:
    """Send the event of this Job's minute."""
    env = tekton.environment(
        job_name=str, model_name=str, listener_url=str, token_file=Path, deadline_seconds=float
    )  # fmt: skip
    minute = keys.scheduled_minute(env.job_name)
    try:
        token = env.token_file.read_text(encoding="utf-8").strip().removeprefix("Bearer ")
    except (OSError, UnicodeDecodeError) as error:
        raise tekton.BadInput(f"TOKEN_FILE {env.token_file} cannot be read", remedy="mount the token") from error
    if not token or not token.isascii() or not token.isprintable():
        raise tekton.BadInput(f"TOKEN_FILE {env.token_file} holds no token", remedy="write one line of ASCII")
    if not env.listener_url.startswith(("http://", "https://")):
        raise tekton.BadInput(f"LISTENER_URL is {env.listener_url[:80]!r}", remedy="give an http(s) URL")
    event = Event(env.model_name, minute, env.listener_url, token)
    print(f"schedule: {event.name}", flush=True)
    ensure(kube.Cluster.from_config(), event, deadline_seconds=env.deadline_seconds, say=tekton.say)


def main() -> int:
    """Run as the CronJob does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
