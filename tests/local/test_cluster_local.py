"""The life of the local target: start, stop, repair, and the MLflow server in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from isotherm import tekton
from isotherm_local import processes
from isotherm_local.cluster import Cluster
from isotherm_local.ports import free_port


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Cluster]:
    """A target of the test's own, down at first."""
    target = Cluster(tmp_path / "state", with_mlflow=False)
    yield target
    target.stop()


def test_start_is_repeatable_keeps_its_ports_and_stop_leaves_nothing(own: Cluster) -> None:
    first = own.start()
    pids = [part.pid for part in own.status()]
    assert own.start() == first
    assert [part.pid for part in own.status()] == pids
    assert own.stop()
    assert not any(processes.identity(pid) for pid in pids)
    assert own.status() == []
    assert not own.stop()
    with pytest.raises(tekton.Unavailable, match="not running"):
        own.kubeconfig()
    assert own.start() == first


@pytest.mark.parametrize("victim", ["api", "haproxy"])
def test_start_repairs_what_was_killed(own: Cluster, victim: str) -> None:
    own.start()
    parts = {part.name: part.pid for part in own.status()}
    os.kill(parts[victim], signal.SIGKILL)
    eventually(lambda: processes.identity(parts[victim]) is None)
    own.start()
    again = {part.name: part for part in own.status()}
    assert all(part.ready for part in again.values())
    assert again[victim].pid != parts[victim]


def test_a_process_that_took_over_a_recorded_pid_is_left_alone(own: Cluster) -> None:
    own.start()
    own.stop()
    record = own.state / "cluster.json"
    text = record.read_text()
    pid = next(int(line.partition(":")[2].strip(" ,")) for line in text.splitlines() if '"pid"' in line)
    record.write_text(text.replace(str(pid), str(os.getpid()), 1))
    assert not own.stop()
    assert own.status() == []


@pytest.mark.parametrize("part", ["api", "router", "mlflow"])
def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path, part: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        target = Cluster(tmp_path / "state", **{f"{part}_port": port})
        with pytest.raises(tekton.BadInput, match=f"port {port} for {part} is taken.*") as raised:
            target.start()
    assert f"--{part}-port" in raised.value.remedy
    assert target.status() == []


def test_another_port_than_the_running_one_is_refused(own: Cluster) -> None:
    own.start()
    with pytest.raises(tekton.BadInput, match="already runs with router on port"):
        Cluster(own.state, router_port=free_port(), with_mlflow=False).start()


def test_state_is_for_its_owner_only(own: Cluster) -> None:
    own.start()
    for path in (own.state, own.state / "api", own.state / "token", own.kubeconfig(), own.kubeconfig("other")):
        assert not path.exists() or path.stat().st_mode & 0o077 == 0


def test_the_supervisor_takes_its_children_with_it(own: Cluster) -> None:
    own.start()
    parts = {part.name: part.pid for part in own.status()}
    os.kill(parts["api"], signal.SIGKILL)
    eventually(lambda: not any(processes.identity(pid) for pid in parts.values()))


def test_missing_haproxy_stops_the_start_before_anything_runs(own: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "isotherm_local.haproxy.shutil.which", lambda name, path=None: None if name == "haproxy" else name
    )
    with pytest.raises(tekton.Unavailable, match="HAProxy is not installed"):
        own.start()
    assert not own.state.exists()


def mlflow(target: Cluster, method: str, path: str, body: bytes = b"") -> bytes:
    """Send one REST request to a target's MLflow server."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(target.mlflow_url + path, data=body or None, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def test_mlflow_keeps_its_runs_and_starts_again_when_killed(tmp_path: Path) -> None:
    target = Cluster(tmp_path / "state")
    try:
        target.start()
        assert b"<title>MLflow</title>" in mlflow(target, "GET", "/")
        made = mlflow(target, "POST", "/api/2.0/mlflow/runs/create", b'{"experiment_id": "0"}')
        run = json.loads(made)["run"]["info"]
        assert run["artifact_uri"] == f"mlflow-artifacts:/0/{run['run_id']}/artifacts"
        mlflow(target, "PUT", f"/api/2.0/mlflow-artifacts/artifacts/0/{run['run_id']}/artifacts/notes.txt", b"hello")
        assert [p.read_text() for p in target.state.glob("mlflow/artifacts/**/notes.txt")] == ["hello"]
        [pid] = [part.pid for part in target.status() if part.name == "mlflow"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: processes.identity(pid) is None)
        target.start()
        assert mlflow(target, "GET", f"/api/2.0/mlflow/runs/get?run_id={run['run_id']}")
    finally:
        target.stop()
