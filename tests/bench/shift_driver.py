"""The program of Task route-shift as a process on this machine, and a door before the API server at which it can die.

Its environment is the Task's own: every variable of its step, filled in from params and their defaults.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import door
import task_program
import yaml
from lab_lanes import EXPIRY_SECONDS, NAMESPACE, UID, Lane
from lab_objects import VERSIONS, task

from isotherm import contract

MODULE = ("-m", "isotherm.deploy.shift")
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
    """The step's variables, reports and results in one folder."""
    return task_program.environment(task(), given, {"reports": folder}, folder)


class Driver:
    """One life of the program."""

    def __init__(
        self, lane: Lane, kubeconfig: str | Path, given: dict[str, str], command: Sequence[str] = MODULE
    ) -> None:
        self.folder = lane.folder / given["pipeline-run-uid"]
        self.folder.mkdir(exist_ok=True)
        variables = environment(given, self.folder) | {"KUBECONFIG": str(kubeconfig)}
        self.process = task_program.start(command, variables, self.folder)

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
        return task_program.said(self.folder)


class Door(door.Door):
    """Before the lab's API server, for a driver of a lane.

    A write is called `weights N` (N % for green), `heartbeat at N`, `confirm`, or `event`.
    """

    def __init__(self, lane: Lane, at: str = "", after: bool = False) -> None:
        super().__init__(at, after=after)
        self.lane = lane
        self.share = 0  # of green, as it was written last

    def __enter__(self) -> Door:
        super().__enter__()
        self._client = self.lane.client()
        self.kubeconfig = self.lane.folder / "door.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(self.url)))
        return self

    def forward(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        url = self._client.configuration.host + path
        return self._client.rest_client.pool_manager.request(
            verb, url, headers=headers, body=body or None, retries=False, decode_content=False
        )

    def named(self, verb: str, path: str, body: bytes) -> str:
        return self._write(verb, json.loads(body)) if verb in ("POST", "PATCH") else ""

    def _write(self, verb: str, body: dict[str, Any]) -> str:
        if verb == "POST":
            return "event"
        notes = body["metadata"]["annotations"]
        if contract.ANNOTATION_SHIFT_TOKEN in notes:
            backends = [body["spec"]["to"], *(body["spec"]["alternateBackends"] or [])]
            self.share = sum(one["weight"] for one in backends if one["name"] == self.lane.services["green"])
            return f"weights {self.share}"
        return "confirm" if notes[contract.ANNOTATION_SHIFT_EXPIRES] is None else f"heartbeat at {self.share}"


def _kubeconfig(server: str) -> dict[str, Any]:
    """An entry to the namespace at this address."""
    context = {"cluster": "lab", "user": "bench", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "contexts": [{"name": "lab", "context": context}], "users": [{"name": "bench", "user": {}}],
    }  # fmt: skip
