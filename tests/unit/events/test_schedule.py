"""Schedules: the event is sent until it is a run, against a listener that answers 202 whatever becomes of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from events_api import EventsApi, events_api, template
from mlflow_server import free_port
from serving import Quiet, served

from isotherm import kube
from isotherm.events import keys
from isotherm.events.runs import Runs, Wanted

__all__ = ["events_api"]
JOB, MINUTE = "isotherm-retrain-29123456", "202505161456"
_models = (f"plate-{n}" for n in itertools.count(1))


class Listener:
    """Answers `codes` in turn (202 after that) and makes a run of the events whose number is not in `lost`."""

    def __init__(self, cluster: kube.Cluster, token: str, codes: list[int], lost: set[int]) -> None:
        self.cluster, self.token, self.codes, self.lost = cluster, token, codes, lost
        self.bodies: list[Any] = []

    def receive(self, authorization: str, body: bytes) -> int:
        self.bodies.append(json.loads(body))
        code = self.codes.pop(0) if self.codes else 202
        if code == 202 and authorization == f"Bearer {self.token}" and len(self.bodies) not in self.lost:
            event = self.bodies[-1]
            key = keys.schedule(event["model"], event["scheduled"])
            Runs(self.cluster).create(Wanted(key, "schedule", "schedule", event))
        return code


def listening(listener: Listener) -> contextlib.AbstractContextManager[str]:
    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(listener.receive(self.headers["Authorization"], body))
            self.send_header("Content-Length", "0")
            self.end_headers()

    return served(Handler)


@pytest.fixture(scope="module")
def cluster(events_api: EventsApi) -> kube.Cluster:
    found = events_api.cluster()
    found.create(kube.TRIGGER_TEMPLATE, template("schedule", "schedule", ["name", "model", "scheduled"]))
    return found


def program(
    events_api: EventsApi, folder: Path, token: str, model: str, url: str, **inputs: str
) -> subprocess.CompletedProcess[str]:
    file = folder / "token"
    file.write_text(f"{token}\n")
    env = {
        **events_api.environment(), "JOB_NAME": JOB, "MODEL_NAME": model, "LISTENER_URL": url, "TOKEN_FILE": str(file),
        "DEADLINE_SECONDS": "20", **inputs,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "isotherm.events.schedule"], env=env, capture_output=True, text=True, timeout=90
    )


@pytest.mark.parametrize(
    ("codes", "lost", "sent"), [([], set(), 1), ([500, 503], set(), 3), ([], {1}, 2)], ids=["taken", "busy", "lost"]
)
def test_the_event_is_sent_until_its_run_exists(
    events_api: EventsApi, cluster: kube.Cluster, tmp_path: Path, codes: list[int], lost: set[int], sent: int
) -> None:
    token, model = secrets.token_hex(16), next(_models)
    listener = Listener(cluster, token, codes, lost)
    with listening(listener) as url:
        done = program(events_api, tmp_path, token, model, url, DEADLINE_SECONDS="40")
    assert done.returncode == 0, done.stderr
    assert listener.bodies == [{"model": model, "scheduled": MINUTE}] * sent
    assert f"run schedule-{model}-{MINUTE} exists" in done.stderr
    assert token not in done.stderr + done.stdout


def test_a_run_that_exists_is_not_asked_for_again(events_api: EventsApi, cluster: kube.Cluster, tmp_path: Path) -> None:
    token, model = secrets.token_hex(16), next(_models)
    listener = Listener(cluster, token, [], set())
    with listening(listener) as url:
        for _ in range(2):
            assert program(events_api, tmp_path, token, model, url).returncode == 0
    assert len(listener.bodies) == 1


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [(202, 4, "took the event, but there is no such run"), (500, 4, "it answers 500"), (401, 3, "answers 401")],
)
def test_what_became_no_run_fails_with_one_line(
    events_api: EventsApi, cluster: kube.Cluster, tmp_path: Path, code: int, exit_code: int, reason: str
) -> None:
    token, model = secrets.token_hex(16), next(_models)
    with listening(Listener(cluster, "another", [code] * 99, set())) as url:
        done = program(events_api, tmp_path, token, model, url, DEADLINE_SECONDS="3")
    assert done.returncode == exit_code
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert reason in last
    assert token not in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"JOB_NAME": "isotherm-retrain-manual"}, {"MODEL_NAME": "A b"}, {"MODEL_NAME": "m" * 42},
        {"LISTENER_URL": "file:///x"}, {"TOKEN_FILE": "/none"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_sends_nothing(
    events_api: EventsApi, cluster: kube.Cluster, tmp_path: Path, change: dict[str, str]
) -> None:
    done = program(events_api, tmp_path, "t", "plate", f"http://127.0.0.1:{free_port()}", **change)
    assert done.returncode == 2, done.stderr
