"""Start, stop and inspect the local target: embedded API, router, MLflow server and predictors, as processes.

Usage: python -m isotherm_local.cluster {start,stop,status} [--state DIR] [--api-port N] [--router-port N] ...

State lies under DIR (default build/local): `cluster.json` (ports, pid), `token`, `kubeconfig`, `api/` (objects),
`mlflow/`, `router/`, `namespaces/<ns>/`; logs: `cluster.log`, `haproxy.log`, `mlflow/log`,
`namespaces/<ns>/predictors/<isvc>/log`.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm_local import processes
from isotherm_local.ports import PARTS, choose_ports
from isotherm_local.processes import Process
from isotherm_local.translation import IDLE_CONNECTIONS

DEFAULT_STATE = Path("build/local")
DEFAULT_NAMESPACE = "default"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Endpoints:
    """The loopback ports of a local target and the URLs on them."""

    api_port: int
    router_port: int
    mlflow_port: int

    @property
    def router_url(self) -> str:
        """Where every Route is served, told apart by the Host header (param `router-url`)."""
        return f"http://127.0.0.1:{self.router_port}"

    @property
    def mlflow_url(self) -> str:
        """The tracking server (param `mlflow-uri`)."""
        return f"http://127.0.0.1:{self.mlflow_port}"


@dataclass(frozen=True)
class Part:
    """What `status` says about one process: `ready` means that it answers (of a predictor: that it runs)."""

    name: str
    pid: int
    ready: bool
    rss_mib: float
    url: str
    log: Path


@dataclass(frozen=True)
class _Record:
    """`cluster.json`: which process is the supervisor and where it listens."""

    pid: int
    identity: str
    endpoints: Endpoints

    @property
    def process(self) -> Process:
        return Process(self.pid, self.identity)


def _write_private(path: Path, text: str) -> None:
    """Write a file, atomically, that nobody but its owner may read at any moment: it tells the API's secret path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


class Cluster:
    """The local target of one state folder. Ports left None are free ones, kept from one start to the next."""

    def __init__(
        self,
        state: Path = DEFAULT_STATE,
        router_port: int | None = None,
        api_port: int | None = None,
        mlflow_port: int | None = None,
        *,
        reload_seconds: float = 0.2,
        with_mlflow: bool = True,
        idle_connections: str = IDLE_CONNECTIONS[0],
    ) -> None:
        self.state = state.resolve()
        self.asked: dict[str, int | None] = {"api": api_port, "router": router_port, "mlflow": mlflow_port}
        self.reload_seconds, self.with_mlflow = reload_seconds, with_mlflow
        self.idle_connections = idle_connections

    @property
    def log(self) -> Path:
        """The supervisor's log."""
        return self.state / "cluster.log"

    @property
    def endpoints(self) -> Endpoints:
        """Where the running target listens; raises `Unavailable` when it does not run."""
        record = self._record()
        if record is None or not record.process.alive():
            raise tekton.Unavailable("the local target is not running", remedy="start it: isotherm start")
        return record.endpoints

    @property
    def mlflow_url(self) -> str:
        """The running MLflow server (param `mlflow-uri`)."""
        return self.endpoints.mlflow_url

    @property
    def router_url(self) -> str:
        """The running router (param `router-url`)."""
        return self.endpoints.router_url

    def kubeconfig(self, namespace: str = DEFAULT_NAMESPACE) -> Path:
        """Write (again) and return the kubeconfig whose current context is `namespace`."""
        server = f"http://127.0.0.1:{self.endpoints.api_port}/{self._token()}"
        name = "isotherm-local"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server}}],
            "users": [{"name": name, "user": {}}],
            "contexts": [{"name": namespace, "context": {"cluster": name, "user": name, "namespace": namespace}}],
            "current-context": namespace,
        }
        default = namespace == DEFAULT_NAMESPACE
        path = self.state / "kubeconfig" if default else self.state / "namespaces" / namespace / "kubeconfig"
        _write_private(path, json.dumps(content, indent=1) + "\n")  # JSON is YAML
        return path

    def start(self, timeout_seconds: float = START_SECONDS) -> Endpoints:
        """Start what does not run and wait until every part answers; does nothing when all do.

        Raises `Unavailable` or `BadInput` with the cause: HAProxy missing, a port taken, a part that does not start.
        """
        from isotherm_local import haproxy

        haproxy.program()
        with self._lock():
            record = self._record()
            if record is not None and record.process.alive():
                self._check_ports(record.endpoints)
                if self._wait(record, min(timeout_seconds, 15.0)):
                    return record.endpoints
            self._stop()
            record = self._launch()
            if not self._wait(record, timeout_seconds):
                cause = self._cause(record)
                self._stop()
                raise tekton.Unavailable(f"the local target did not start: {cause}", remedy=f"see {self.log}")
        self.kubeconfig()
        return record.endpoints

    def stop(self) -> bool:
        """End every process of this target; tells whether there was one. Objects, runs and models stay."""
        with self._lock():
            return self._stop()

    def status(self) -> list[Part]:
        """List the processes that run, the supervisor (`api`) first; empty when the target is down."""
        from isotherm_local.supervisor import CHILDREN_FILE, read_children

        record = self._record()
        if record is None or not record.process.alive():
            return []
        ready, where = self._readyz(record.endpoints), record.endpoints
        urls = {"haproxy": where.router_url, "mlflow": where.mlflow_url}
        parts = [Part("api", record.pid, ready.get("api", False), record.process.rss_mib(), "", self.log)]
        for name, (process, log) in sorted(read_children(self.state / CHILDREN_FILE).items()):
            answers = ready.get({"haproxy": "router"}.get(name, name), process.alive()) and process.alive()
            parts.append(Part(name, process.pid, answers, process.rss_mib(), urls.get(name, ""), log))
        return parts

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one start or stop of this state folder happen at a time."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.state / "cluster.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _token(self) -> str:
        path = self.state / "token"
        if not path.exists():
            _write_private(path, secrets.token_urlsafe(24))
        return path.read_text(encoding="utf-8").strip()

    def _record(self) -> _Record | None:
        try:
            content = json.loads((self.state / "cluster.json").read_text(encoding="utf-8"))
            return _Record(content["pid"], content["identity"], Endpoints(**content["endpoints"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _check_ports(self, running: Endpoints) -> None:
        for part, port in self.asked.items():
            current = getattr(running, f"{part}_port")
            if port is not None and port != current:
                what = f"the local target already runs with {part} on port {current}, not {port}"
                raise tekton.BadInput(what, remedy="stop it first: isotherm stop")

    def _launch(self) -> _Record:
        """Start the supervisor, detached from this terminal and session."""
        before = self._record()
        last = {part: getattr(before.endpoints, f"{part}_port") for part in PARTS} if before else {}
        endpoints = Endpoints(**{f"{part}_port": port for part, port in choose_ports(self.asked, last).items()})
        self._token()
        python = processes.own_interpreter()
        command = [str(python), "-m", "isotherm_local.cluster", "serve", "--state", str(self.state)]
        command += [f"--{part}-port={getattr(endpoints, f'{part}_port')}" for part in PARTS]
        command += [f"--idle-connections={self.idle_connections}"]
        command += [f"--reload-seconds={self.reload_seconds}", *([] if self.with_mlflow else ["--without-mlflow"])]
        env = processes.environment(self.state / "home", python.parent)
        with self.log.open("wb") as output:
            child = subprocess.Popen(
                command,
                env=env,
                cwd=self.state,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process.of(child.pid)
        record = _Record(process.pid, process.identity, endpoints)
        content = {**asdict(process), "endpoints": asdict(endpoints), "started_at": tekton.rfc3339(tekton.utcnow())}
        tekton.write_atomic(self.state / "cluster.json", json.dumps(content, indent=1) + "\n")
        return record

    def _readyz(self, endpoints: Endpoints) -> dict[str, bool]:
        connection = http.client.HTTPConnection("127.0.0.1", endpoints.api_port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            answer: dict[str, bool] = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return answer

    def _wait(self, record: _Record, seconds: float) -> bool:
        """Wait until every part answers; False when the supervisor ended or time ran out."""
        deadline = time.monotonic() + seconds
        while record.process.alive() and time.monotonic() < deadline:
            ready = self._readyz(record.endpoints)
            if ready and all(ready.values()):
                return True
            time.sleep(0.05)
        return False

    def _cause(self, record: _Record) -> str:
        if not record.process.alive():
            return processes.last_line(self.log).removeprefix("error: ") or "its process ended"
        ready = self._readyz(record.endpoints)
        late = [part for part in PARTS if not ready.get(part, part == "mlflow" and not self.with_mlflow)]
        return f"{' and '.join(late)} did not answer in time: {processes.last_line(self.log)}"

    def _stop(self) -> bool:
        from isotherm_local.supervisor import CHILDREN_FILE, read_children

        record = self._record()
        children = [p for p, _ in read_children(self.state / CHILDREN_FILE).values() if p.alive()]
        supervisor = [record.process] if record is not None and record.process.alive() else []
        # The supervisor ends its children itself; what is left had lost it.
        processes.end(supervisor, grace_seconds=8)
        processes.end(children)
        return bool(supervisor or children)


def _print_status(cluster: Cluster) -> None:
    parts = cluster.status()
    if not parts:
        print(f"local target: down (state in {cluster.state})")
        return
    for part in parts:
        core = part.name in ("api", "haproxy", "mlflow")
        word = "running" if not core else "ready" if part.ready else "starting"
        print(f"{part.name:<44} {word:<8} pid {part.pid:<8} {part.rss_mib:6.0f} MiB  {part.url or part.log}")


def _serve(arguments: argparse.Namespace, state: Path) -> None:
    from isotherm_local.supervisor import Settings, serve

    token = (state / "token").read_text(encoding="utf-8").strip()
    ports: dict[str, Any] = {f"{part}_port": getattr(arguments, f"{part}_port") for part in PARTS}
    with_mlflow = not arguments.without_mlflow
    serve(
        Settings(
            state, token=token, reload_seconds=arguments.reload_seconds, with_mlflow=with_mlflow,
            idle_connections=arguments.idle_connections, **ports,
        )
    )  # fmt: skip


def _run(arguments: argparse.Namespace) -> None:
    if arguments.what == "serve":
        _serve(arguments, arguments.state.resolve())
        return
    cluster = Cluster(
        arguments.state,
        arguments.router_port,
        arguments.api_port,
        arguments.mlflow_port,
        reload_seconds=arguments.reload_seconds,
        with_mlflow=not arguments.without_mlflow,
        idle_connections=arguments.idle_connections,
    )
    if arguments.what == "start":
        began = time.monotonic()
        cluster.start()
        print(f"local target: up after {time.monotonic() - began:.1f} s; export KUBECONFIG={cluster.kubeconfig()}")
    if arguments.what == "stop":
        print("local target: stopped" if cluster.stop() else "local target: was down")
        return
    _print_status(cluster)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["start", "stop", "status", "serve"], help="serve: run in the foreground")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state folder (default: %(default)s)")
    for part in PARTS:
        parser.add_argument(f"--{part}-port", type=int, help=f"loopback port of {part} (default: a free one)")
    parser.add_argument(
        "--reload-seconds", type=float, default=0.2, help="least time between reloads of HAProxy (OpenShift: 5)"
    )
    parser.add_argument(
        "--idle-connections", choices=IDLE_CONNECTIONS, default=IDLE_CONNECTIONS[0],
        help="what a reload does to kept connections, as idleConnectionTerminationPolicy (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--without-mlflow", action="store_true", help="leave the MLflow server out")
    arguments = parser.parse_args()
    return tekton.main(lambda: _run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
