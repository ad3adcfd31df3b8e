"""A Task as it lives behind a door: its program with its step's environment, its folders, and what it leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import task_program
import urllib3
import yaml
from deploy_target import Target
from door import Answer, Door
from warm_program import Life

LIFE_SECONDS = 180.0


class Before(Door):
    """Before the API server of a local target and its MLflow server, in one row."""

    def __init__(self, target: Target, at: int = 0, *, after: bool = False, deadly: bool = True) -> None:
        super().__init__(at, after=after, deadly=deadly)
        [cluster] = yaml.safe_load(target.local.kubeconfig(target.namespace).read_text())["clusters"]
        server = urllib3.util.parse_url(cluster["cluster"]["server"])
        self._entry = server.path or ""  # the local API's paths begin with its token
        self._api, self._mlflow = f"http://{server.netloc}", target.mlflow_url
        self._pool = urllib3.PoolManager()

    def named(self, verb: str, path: str, body: bytes) -> str:
        """The verb, and the last words of the path that are no object's own name."""
        path = path.partition("?")[0]
        if verb in ("GET", "HEAD") or path.endswith("/search"):
            return ""
        words = path.removeprefix(self._entry).strip("/").split("/")
        if path.startswith(self._entry):
            after = words.index("namespaces") + 2 if "namespaces" in words else 0
            return f"{verb} {words[after]}"
        return f"{verb} artifact" if "mlflow-artifacts" in words else f"{verb} {'/'.join(words[3:5])}"

    def forward(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """To the server whose path it is."""
        server = self._api if path.startswith(self._entry) else self._mlflow
        answer: Answer = self._pool.request(
            verb, server + path, headers=headers, body=body or None, retries=False, redirect=False, decode_content=False
        )
        return answer

    def kubeconfig(self, target: Target, folder: Path) -> Path:
        """The target's, by this door."""
        content = yaml.safe_load(target.local.kubeconfig(target.namespace).read_text())
        content["clusters"][0]["cluster"]["server"] = self.url + self._entry
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path


@dataclass
class Case:
    """One Task that is to be killed: where it runs, what it is given, and what there is afterwards."""

    task: str
    target: Target
    folder: Path
    params: Mapping[str, str]
    state: Callable[[], Any]
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    workspaces: Mapping[str, Path] = field(default_factory=dict)

    def live(self, door: Before, pod: str = ".", meanwhile: Callable[[], None] | None = None) -> int:
        """Run the program once, behind this door; its exit status.

        The door's strike kills it; with `meanwhile` it stops it for as long as that takes. Results, log and home are
        the pod's own, a folder in the case's; reports and model are in the workspace, and so every pod's.
        """
        task, own = task_program.task(self.task), self.folder / pod
        (own / "results").mkdir(parents=True, exist_ok=True)
        for name in ("reports", "model"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        folders = {"reports": self.folder / "reports", "model": self.folder / "model", **self.workspaces}
        params = dict(self.params)
        if "mlflow-uri" in {one["name"] for one in task["spec"]["params"]}:
            params["mlflow-uri"] = door.url
        variables = task_program.environment(task, params, folders, own / "results")
        variables |= {"KUBECONFIG": str(door.kubeconfig(self.target, own)), **self.variables}
        [_, *module] = task["spec"]["steps"][0]["command"]
        process = Life([*module, *self.arguments], task_program.own(variables, own), own)

        def kill() -> None:
            process.kill()
            process.wait()

        def hold_up() -> None:
            assert meanwhile is not None
            process.signal(signal.SIGSTOP)
            meanwhile()
            process.signal(signal.SIGCONT)

        door.strike = kill if meanwhile is None else hold_up
        try:
            return process.wait(LIFE_SECONDS)
        finally:
            kill()

    def live_well(self) -> list[str]:
        """A life that nobody ends, and that must end well; the writes in it."""
        with Before(self.target) as door:
            status = self.live(door)
        if status != 0:
            raise RuntimeError(f"{self.task} ended with {status}: {task_program.said(self.folder)}")
        return door.writes
