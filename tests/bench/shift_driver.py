"""The program of Task route-shift as a process on this machine, and a door before the API server at which it can die.

Its environment is the Task's own: every variable of its step, filled in from params and their defaults.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from lab_lanes import EXPIRY_SECONDS, NAMESPACE, UID, Lane
from lab_objects import ROOT, VERSIONS, task

from isotherm import contract

MODULE = ("-m", "isotherm.deploy.shift")
REFERENCE = re.compile(r"\$\((params|workspaces|results)\.([a-z0-9-]+)(?:\.path)?\)")
# Task's defaults divided by 10, and probes at ten times their rate: the judge needs as many as ever.
PACE = {
    "verify-requests": "50", "verify-timeout-seconds": "40", "expiry-seconds": f"{EXPIRY_SECONDS:g}",
    "interval-seconds": "0.5", "bake-seconds": "6", "hold-seconds": "30", "probes-per-second": "50",
}  # fmt: skip


def params(lane: Lane, uid: str = UID, **changes: str) -> dict[str, str]:
    """Params of Task route-shift for a canary on green; names with underscores."""
    given = {
        "route": lane.name, "colour": "green", "model-digest": lane.digests["green"],
        "model-version": VERSIONS["green"], "service-blue": lane.services["blue"],
        "service-green": lane.services["green"], "router-url": lane.target.router, "pipeline-run-uid": uid, **PACE,
    }  # fmt: skip
    return given | {name.replace("_", "-"): value for name, value in changes.items()}


def environment(given: dict[str, str], folder: Path) -> dict[str, str]:
    """The step's variables: params as given or by default, results and reports in a folder, no optional workspace."""
    spec = task()["spec"]
    values = {("params", one["name"]): one.get("default", "") for one in spec["params"]}
    values |= {("params", name): value for name, value in given.items()}
    values |= {("results", one["name"]): str(folder / one["name"]) for one in spec["results"]}
    values |= {("workspaces", one["name"]): "" for one in spec["workspaces"]} | {("workspaces", "reports"): str(folder)}
    return {
        one["name"]: REFERENCE.sub(lambda found: values[found[1], found[2]], one["value"])
        for one in spec["steps"][0]["env"]
    }


class Driver:
    """One life of the program."""

    def __init__(
        self, lane: Lane, kubeconfig: str | Path, given: dict[str, str], command: Sequence[str] = MODULE
    ) -> None:
        self.folder = lane.folder / given["pipeline-run-uid"]
        self.folder.mkdir(exist_ok=True)
        env = environment(given, self.folder) | {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(ROOT / "images"),
        }  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=env, cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def go(self) -> None:
        """Tell a program that waits for it to begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and wait until nothing of it runs any more."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP: it stays as it is, with all that it has read, until `carry_on`."""
        self.process.send_signal(signal.SIGSTOP)

    def carry_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def wait(self, seconds: float) -> int | None:
        """Its exit status; one that does not end in time is killed and has none."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def last_line(self) -> str:
        """What it said last."""
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


@dataclass
class Door:
    """What passes to the API server, and the write at which the writer is killed: before it is done, or right after.

    A write is called `weights N` (N % for green), `heartbeat at N`, `confirm`, or `event`.
    """

    lane: Lane
    at: str = ""
    after: bool = False
    kill: Callable[[], None] = lambda: None
    struck: bool = False
    writes: list[str] = field(default_factory=list)
    share: int = 0  # of green, as it was written last

    def __enter__(self) -> Door:
        self._client = self.lane.client()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Passing)
        self._server.daemon_threads = True
        self._server.door = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        self.kubeconfig = self.lane.folder / "door.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(f"http://127.0.0.1:{self._server.server_port}")))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def passed(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Any | None:
        """The API server's answer; None where the writer is dead and nobody is there to hear it."""
        name = self._write(verb, json.loads(body)) if verb in ("POST", "PATCH") else ""
        mine = bool(name) and name == self.at and not self.struck
        self.writes += [name] if name else []
        self.struck = self.struck or mine
        if mine and not self.after:
            self.kill()
            return None
        answer = self._client.rest_client.pool_manager.request(
            verb, self._client.configuration.host + path, headers=headers, body=body or None, retries=False
        )
        if mine:
            self.kill()
            return None
        return answer

    def _write(self, verb: str, body: dict[str, Any]) -> str:
        if verb == "POST":
            return "event"
        notes = body["metadata"]["annotations"]
        if contract.ANNOTATION_SHIFT_TOKEN in notes:
            backends = [body["spec"]["to"], *(body["spec"]["alternateBackends"] or [])]
            self.share = sum(one["weight"] for one in backends if one["name"] == self.lane.services["green"])
            return f"weights {self.share}"
        return "confirm" if notes[contract.ANNOTATION_SHIFT_EXPIRES] is None else f"heartbeat at {self.share}"


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Accept", "Content-Type") if name in self.headers}
        answer = self.server.door.passed(self.command, self.path, headers, body)  # type: ignore[attr-defined]
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_POST = do_PATCH = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _kubeconfig(server: str) -> dict[str, Any]:
    """An entry to the namespace at this address."""
    context = {"cluster": "lab", "user": "bench", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "contexts": [{"name": "lab", "context": context}], "users": [{"name": "bench", "user": {}}],
    }  # fmt: skip
