"""Sending events to a listener over HTTP, and finding the run that each made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving import Quiet, served

from isotherm import tekton
from isotherm_local import cli
from isotherm_local.events import payloads, send

RUNS = "/apis/tekton.dev/v1/namespaces/isotherm/pipelineruns"


class Cluster:
    """A listener and the API's list of PipelineRuns behind one port: an accepted event makes a run, late."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.makes: Callable[[bytes], str] = lambda _: ""
        self.status, self.late, self._waiting = 202, 0, list[dict[str, Any]]()

    def post(self, headers: dict[str, str], body: bytes) -> int:
        self.requests.append((headers, body))
        name = self.makes(body) if self.status == 202 else ""
        if name and name not in [run["metadata"]["name"] for run in self.runs]:
            self._waiting.append(run(name))
        return self.status

    def list(self) -> list[dict[str, Any]]:
        if self._waiting and self.late > 0:
            self.late -= 1
        elif self._waiting:
            self.runs.append(self._waiting.pop())
        return self.runs


def run(name: str, event: str = "schedule") -> dict[str, Any]:
    labels = {"isotherm.dev/event": event}
    return {"metadata": {"name": name, "creationTimestamp": "2026-07-27T03:00:01Z", "labels": labels}}


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, str]]:
    state = Cluster()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(state.post(dict(self.headers), body), {})

        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == RUNS
            self.answer(200 if known else 404, {"items": state.list()} if known else {})

        def answer(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with served(Handler) as url:
        yield state, url


@pytest.fixture
def command(cluster: tuple[Cluster, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command for the clock's event, with a kubeconfig of the cluster and a secret file."""
    _, url = cluster
    kubeconfig, secret = tmp_path / "kubeconfig", tmp_path / "secret"
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [context]}
    config |= {"clusters": [{"name": "x", "cluster": {"server": url}}], "users": [{"name": "x", "user": {}}]}
    kubeconfig.write_text(yaml.safe_dump(config))
    secret.write_text("token-1\n")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return lambda *more: cli.main(["event", "schedule", "--to", url, "--secret-file", str(secret), *more])


def scheduled(body: bytes) -> str:
    return f"schedule-inverse-heat-pinn-{json.loads(body)['scheduled']}"


def test_the_run_of_an_event_is_found_by_its_name(
    cluster: tuple[Cluster, str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = cluster
    state.runs = [run("schedule-inverse-heat-pinn-202601010000")]
    state.makes, state.late = scheduled, 1
    assert command("-n", "isotherm", "--set", "scheduled=202607280300") == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out == "PipelineRun schedule-inverse-heat-pinn-202607280300 in isotherm, made 2026-07-27T03:00:01Z\n"
    headers, body = state.requests[0]
    assert headers["Authorization"] == "Bearer token-1"
    assert json.loads(body) == {"model": "inverse-heat-pinn", "scheduled": "202607280300"}


def test_a_repeated_event_is_told_from_a_new_one(
    cluster: tuple[Cluster, str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = cluster
    state.makes = scheduled
    assert command("-n", "isotherm") == command("-n", "isotherm") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert second == first + ": it was there before, so this event is a repetition"
    assert len(state.requests) == 2
    assert len(state.runs) == 1


def test_an_event_without_a_run_says_what_to_look_at(
    cluster: tuple[Cluster, str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = cluster
    state.runs = [run("schedule-inverse-heat-pinn-202601010000"), run("retrain-1", "alert")]
    assert command("-n", "isotherm", "--wait", "0") == 4
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: no PipelineRun of this schedule event appeared in isotherm within 0 s")
    assert "answers 202 before it checks anything" in error
    assert "--offline" in error
    assert error.count("\n") == 1


def test_without_a_namespace_only_the_answer_is_told(
    cluster: tuple[Cluster, str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    assert "answers 202, as it does before it checks anything" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "code"), [(400, 2), (413, 3), (429, 3), (500, 4), (503, 4)])
def test_refusals_of_the_listener_or_its_front_door_are_one_line(
    status: int,
    code: int,
    cluster: tuple[Cluster, str],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    state, _ = cluster
    state.status = status
    assert command() == code
    error = capsys.readouterr().err
    assert f"answers {status}" in error
    assert error.count("\n") == 1


def test_a_payload_that_names_no_run_is_followed_by_its_label(cluster: tuple[Cluster, str]) -> None:
    state, url = cluster
    state.runs = [run("schedule-old")]
    state.makes = lambda _: "schedule-new"
    request = payloads.request("schedule", {"other": 1}, b"x")
    found = send.send_and_find(request, url, state.list, payloads.names("schedule", {"other": 1}), seconds=5)
    assert found is not None
    assert (found.run["metadata"]["name"], found.before) == ("schedule-new", False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9/x"])
def test_a_listener_that_does_not_answer_is_unavailable(url: str) -> None:
    with pytest.raises(tekton.Unavailable, match="does not answer"):
        send.send(payloads.request("schedule", {}, b"x"), url)


@pytest.mark.parametrize("url", ["ftp://x", "el-git:8080", "http://x:abc"])
def test_what_is_no_url_is_bad_input(url: str) -> None:
    with pytest.raises(tekton.BadInput, match="is not a URL"):
        send.send(payloads.request("schedule", {}, b"x"), url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--offline", "x"], "no listener is named"),
        (["--to", "http://127.0.0.1:9", "--set", "no.such=1"], "the payload has no place"),
        (["--to", "http://127.0.0.1:9", "--payload", "nowhere.json"], "cannot be read"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert cli.main(["event", "github", "--secret-file", str(secret), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
