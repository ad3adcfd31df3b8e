"""The one process behind the local target: embedded API and controllers; its children are HAProxy, MLflow, predictors.

Inputs: a `Settings`. It ends on SIGTERM or SIGINT and takes its children with it; a child that dies is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from isotherm import tekton
from isotherm_local import processes
from isotherm_local.processes import Process
from isotherm_local.translation import IDLE_CONNECTIONS

CHILDREN_FILE = "children.json"
LOG_LIMIT_BYTES = 5 << 20
RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
log = logging.getLogger("isotherm_local")


@dataclass(frozen=True)
class Settings:
    """Where the local target keeps its state and which loopback ports it listens on."""

    state: Path
    api_port: int
    router_port: int
    mlflow_port: int
    token: str
    reload_seconds: float = 0.2
    with_mlflow: bool = True
    idle_connections: str = IDLE_CONNECTIONS[0]


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to; one that grew over 5 MiB becomes `<name>.1` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


@dataclass
class Children:
    """All children of this process, with a record on disk so that survivors of a SIGKILL are found and ended."""

    record: Path
    running: dict[str, tuple[subprocess.Popen[bytes], Process]] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)

    def start(
        self, name: str, command: list[str], *, env: dict[str, str], cwd: Path, log_file: Path
    ) -> subprocess.Popen[bytes]:
        """Start a child under a unique name, its output appended to `log_file`."""
        with open_log(log_file) as output:
            child = processes.spawn(command, env=env, cwd=cwd, log=output)
        self.running[name], self.logs[name] = (child, Process.of(child.pid)), log_file
        self._save()
        return child

    def alive(self, name: str) -> bool:
        """Tell whether a child runs; `poll` says so a moment longer, until the last thread of a killed one is gone."""
        return name in self.running and self.running[name][1].alive()

    def forget(self, name: str) -> None:
        """Drop a child that has ended."""
        if self.running.pop(name, None):
            self._save()

    def _save(self) -> None:
        listed = {name: {**asdict(p), "log": str(self.logs[name])} for name, (_, p) in self.running.items()}
        tekton.write_atomic(self.record, json.dumps(listed, indent=1))

    def end_all(self) -> None:
        """End every child and wait for it."""
        for child, process in self.running.values():
            if child.poll() is None:
                process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for child, _ in self.running.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.running.clear()
        self._save()


def read_children(record: Path) -> dict[str, tuple[Process, Path]]:
    """Read the children that a supervisor recorded, by name: process and log."""
    try:
        listed = json.loads(record.read_text(encoding="utf-8"))
        return {n: (Process(entry["pid"], entry["identity"]), Path(entry["log"])) for n, entry in listed.items()}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


async def http_status(port: int, path: str, timeout: float = 1.0) -> int | None:
    """GET a path on loopback and return the status code; None when nothing answers within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


class Mlflow:
    """Keeps the MLflow server running."""

    name = "mlflow"

    def __init__(self, settings: Settings, children: Children) -> None:
        self.settings, self.children = settings, children
        self.answered = self.was_ready = False
        self.child: subprocess.Popen[bytes] | None = None
        self.folder = settings.state / "mlflow"

    @property
    def ready(self) -> bool:
        """Tell whether the server has answered and still runs."""
        return self.answered and self.children.alive(self.name)

    def start(self) -> None:
        """Start the server process."""
        self.answered = False
        python = processes.own_interpreter()
        env = processes.environment(self.folder / "home", python.parent)
        env["PYTHONWARNINGS"] = "ignore"
        command = [str(python), "-m", "isotherm_local.mlflow_server", "--folder", str(self.folder)]
        command += ["--port", str(self.settings.mlflow_port)]
        self.child = self.children.start(self.name, command, env=env, cwd=self.folder, log_file=self.folder / "log")

    async def run(self) -> None:
        """Watch the server: ready once it answers, started again when it ends; raises when it never started."""
        failures = 0
        while True:
            if self.child is None or self.child.poll() is not None:
                cause = processes.last_line(self.folder / "log")
                if not self.was_ready:
                    raise tekton.Unavailable(f"MLflow did not start: {cause}", remedy=f"see {self.folder / 'log'}")
                log.warning("mlflow ended: %s", cause)
                await asyncio.sleep(RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)])
                self.start()
                failures += 1
            elif not self.answered and await http_status(self.settings.mlflow_port, "/health") == 200:
                self.answered, self.was_ready, failures = True, True, 0
            await asyncio.sleep(0.5 if self.answered else 0.05)


async def _serve(settings: Settings, children: Children) -> None:
    mlflow = Mlflow(settings, children)
    # First of all and before our own imports: it takes by far the longest to start.
    if settings.with_mlflow:
        mlflow.start()
    import uvicorn

    from isotherm_local.api import create_app
    from isotherm_local.kserve import Controller
    from isotherm_local.routing import StoreRouter
    from isotherm_local.store import Store

    class Server(uvicorn.Server):
        """uvicorn without its own signal handling, which would end the process before the children are."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    store = Store(settings.state / "api")
    router = StoreRouter(store, settings, children)
    kserve = Controller(store, settings, children)
    kserve.reconcile()  # nothing that an earlier life called ready is shown as such

    def ready() -> dict[str, Any]:
        parts = {"api": True, "router": router.ready}
        return {**parts, "mlflow": mlflow.ready} if settings.with_mlflow else parts

    app = create_app(store, settings.token, ready)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=settings.api_port, log_level="warning", access_log=False, lifespan="off"
    )
    server = Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    loop.add_signal_handler(signal.SIGCHLD, kserve.changed.set)
    workers = [asyncio.create_task(router.run()), asyncio.create_task(kserve.run())]
    if settings.with_mlflow:
        workers.append(asyncio.create_task(mlflow.run()))
    serving = asyncio.create_task(server.serve())
    await asyncio.wait([serving, *workers], return_when=asyncio.FIRST_COMPLETED)
    for task in workers:
        if task.done():  # a controller never returns: what it raised is why the local target ends
            task.result()
        task.cancel()
    await serving


def serve(settings: Settings) -> None:
    """Run the local target until SIGTERM or SIGINT."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.umask(0o077)  # the API's secret path and the objects are this user's business
    children = Children(settings.state / CHILDREN_FILE)
    try:
        asyncio.run(_serve(settings, children))
    finally:
        children.end_all()
