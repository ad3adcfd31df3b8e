"""Lost alerts, with a real Alertmanager."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from events_api import EventsApi, events_api, template
from mlflow_server import free_port

from isotherm import kube, tekton
from isotherm.events import admit, config, reconcile_alerts
from isotherm.events.runs import Runs

__all__ = ["events_api"]
PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
STARTED = datetime(2026, 3, 1, 10, 11, 12, 345000, tzinfo=UTC)
HOUR = 3600
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("no Alertmanager on PATH")
    folder, port = tmp_path_factory.mktemp("alertmanager"), free_port()
    (folder / "config.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    url = f"http://127.0.0.1:{port}"
    command = [PROGRAM, f"--config.file={folder}/config.yml", f"--storage.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/-/ready").status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


class World:
    """An API namespace, a model of its own, and the Alertmanager."""

    def __init__(self, api: EventsApi, url: str) -> None:
        number = next(_numbers)
        self.api, self.url, self.namespace, self.model = api, url, f"alerts-{number}", f"plate-{number}"
        self.cluster = api.cluster(self.namespace)
        self.cluster.create(
            kube.TRIGGER_TEMPLATE, template("retrain", "alert", ["name", "model", "fingerprint", "started"])
        )

    def fire(self, started: datetime = STARTED, ended: bool = False, **labels: str) -> None:
        now = datetime.now(UTC)
        alert = {
            "labels": {"alertname": "Drift", "model": self.model, "retrain": "true", **labels},
            "startsAt": started.isoformat().replace("+00:00", "Z"),
            "endsAt": (now + timedelta(seconds=-1 if ended else HOUR)).isoformat().replace("+00:00", "Z"),
        }
        httpx.post(f"{self.url}/api/v2/alerts", json=[alert]).raise_for_status()

    def reconcile(self, at: datetime | None = None) -> list[str]:
        runs = Runs(self.cluster)
        source = config.Alerts.model_validate(
            {"alertmanager-url": self.url, "template": "retrain", "models": [self.model]}
        )
        reconcile_alerts.reconcile(runs, source, lambda: at or datetime.now(UTC))
        return runs.created

    def admit(self, name: str, at: datetime, uid: str = "") -> admit.Verdict:
        run = self.api.runs(self.namespace)[name]["metadata"]
        key = run["annotations"]["isotherm.dev/event-key"]
        return admit.admit(self.cluster, admit.Request(key, self.model, HOUR, name, uid or run["uid"]), now=lambda: at)

    def finish(self, name: str, status: str = "True") -> None:
        self.api.finish(name, status, self.namespace)


@pytest.fixture
def world(events_api: EventsApi, alertmanager: str) -> World:
    return World(events_api, alertmanager)


def test_a_firing_alert_gets_its_run_once(world: World) -> None:
    world.fire()
    (name,) = world.reconcile()
    assert name.startswith("retrain-")
    assert name.endswith("-20260301101112")
    run = world.api.runs(world.namespace)[name]
    params = {param["name"]: param["value"] for param in run["spec"]["params"]}
    assert (params["model"], params["started"]) == (world.model, "20260301101112")
    assert world.reconcile() == []
    assert world.admit(name, datetime.now(UTC)).admitted
    world.finish(name)
    assert world.reconcile() == []
    world.api.prune(name, world.namespace)
    assert world.reconcile() == [], "the key is done although the run is gone"


def test_what_does_not_ask_for_a_training_gets_none(world: World) -> None:
    world.fire(retrain="false")
    world.fire(retrain="")
    world.fire(model="unknown")
    world.fire(severity="resolved", ended=True)
    assert world.reconcile() == []


def test_a_silenced_alert_gets_none(world: World) -> None:
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "model", "value": world.model, "isRegex": False}], "comment": "c", "createdBy": "t",
        "startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat(),
    }  # fmt: skip
    httpx.post(f"{world.url}/api/v2/silences", json=silence).raise_for_status()
    world.fire()
    assert world.reconcile() == []
    assert world.api.runs(world.namespace) == {}


def test_a_firing_that_met_a_cool_down_comes_again_when_it_is_over(world: World) -> None:
    world.fire()
    (first,) = world.reconcile()
    begun = datetime.now(UTC)
    assert world.admit(first, begun).admitted
    world.fire(started=STARTED + timedelta(hours=1), kind="other")
    assert world.reconcile(begun + timedelta(minutes=30)) == [], "no run that would only be refused"
    (second,) = world.reconcile(begun + timedelta(minutes=61))
    assert world.admit(second, begun + timedelta(minutes=30)).reason.startswith("cooling-down")
    assert world.reconcile(begun + timedelta(minutes=61)) == [], "the refused run has not ended"
    world.finish(second)
    assert world.reconcile(begun + timedelta(minutes=59)) == []
    (third,) = world.reconcile(begun + timedelta(minutes=61))
    assert third == f"{second}-2"
    run = world.api.runs(world.namespace)[third]["metadata"]
    assert run["annotations"]["isotherm.dev/event-key"] == second
    assert world.admit(third, begun + timedelta(minutes=61)).admitted
    world.finish(third)
    assert world.reconcile(begun + timedelta(hours=5)) == []
    assert world.admit(second, begun + timedelta(hours=5), uid="late").reason == "done", "a late delivery is told"


def test_runs_that_fail_before_they_claim_are_not_repeated_for_ever(world: World) -> None:
    world.fire()
    made = []
    for _ in range(6):
        for name in world.reconcile():
            made.append(name)
            world.finish(name, "False")
    assert len(made) == reconcile_alerts.MAX_FAILURES


def test_an_alertmanager_that_does_not_answer_is_unavailable(world: World) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", f"{world.url}/none"):
        world.url = url
        with pytest.raises(tekton.Unavailable, match="gave no usable answer"):
            world.reconcile()


def test_a_source_with_a_token_is_asked_with_it_and_one_whose_token_is_missing_is_named(tmp_path: Path) -> None:
    """As Grafana wants it; Alertmanager itself knows no tokens, so a server that only listens stands here."""
    asked: list[str | None] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *arguments: object) -> None:
            pass

    file = tmp_path / "grafana"
    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api/alertmanager/grafana"
        source = config.Alerts.model_validate(
            {"alertmanager-url": url, "template": "retrain", "models": ["plate"], "token-file": str(file)}
        )
        with pytest.raises(tekton.BadInput, match="cannot be read from"):
            reconcile_alerts.reconcile(Runs(kube.Cluster(None, "nowhere")), source)
        file.write_text("glsa_x\n")
        reconcile_alerts.reconcile(Runs(kube.Cluster(None, "nowhere")), source)
        server.shutdown()
    assert asked == ["Bearer glsa_x"]
