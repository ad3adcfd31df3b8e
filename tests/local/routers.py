"""Both routers behind one face, for tests that hold for either: the local target's and the lab's.

Endpoints are set by hand, requests go through the real HAProxy, and what HAProxy has loaded is read back from it.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from list_watch_server import ListWatchServer
from local_target import named
from serving import Quiet, Server

from isotherm_local import admission, processes
from isotherm_local.haproxy import HAProxy, program
from isotherm_local.kinds import ENDPOINT_SLICE, ROUTE, SERVICE, Object
from isotherm_local.ports import free_port
from isotherm_local.routing import StoreRouter
from isotherm_local.store import Store
from isotherm_local.supervisor import CHILDREN_FILE, Children, Settings, http_status, read_children
from isotherm_local.translation import Listeners, Snapshot, render, translate

HOST = "heat-n.apps.localhost"
SLOTS = 10


class Answer(Quiet):
    """Answers with the name of its server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def pod_servers() -> Iterator[Callable[[str], int]]:
    """Start HTTP servers that answer with a name; the function returns the port of a new one."""
    servers = []

    def start(name: str) -> int:
        server = Server(("127.0.0.1", 0), Answer)
        server.name = name  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.connections("tcp4"))
    except psutil.Error:
        return False  # it has ended meanwhile


class Router:
    """A running router; subclasses say over which API."""

    def __init__(self, state: Path, listeners: Listeners, folder: Path) -> None:
        self.state, self.listeners = state, listeners
        self.reader = HAProxy(folder, listeners, Children(state / "unused.json"), program())

    def put(self, plural: str, content: Object) -> None:
        """Create or set a Service or an EndpointSlice."""
        raise NotImplementedError

    def create(self, route: Object) -> None:
        raise NotImplementedError

    def patch(self, name: str, patch: Object) -> None:
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    def endpoints(self, service: str, *ports: int) -> None:
        """Declare the ready endpoints of a Service, one slice each as their ports differ; other slices are emptied."""
        ready = [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}]
        spec = {"selector": {"app": service}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
        self.put("services", named(service, spec=spec))
        for slot in range(SLOTS):
            mine = ports[slot : slot + 1]
            content = {"endpoints": ready if mine else [], "ports": [{"name": "http", "port": p} for p in mine]}
            metadata = {"name": f"{service}-{slot}", "labels": {"kubernetes.io/service-name": service}}
            self.put("endpointslices", {"metadata": metadata, "addressType": "IPv4", **content})

    def route(self, name: str) -> Object:
        return next(r for r in self.snapshot().routes if r["metadata"]["name"] == name)

    def haproxy(self) -> processes.Process:
        """The HAProxy that runs now."""
        return read_children(self.state / CHILDREN_FILE)["haproxy"][0]

    def accepting(self) -> list[int]:
        """The workers that listen for clients.

        For some milliseconds of a reload these are two: the new one answers already while the old one still accepts
        what it then closes unanswered, as the policy Immediate has it.
        """
        try:
            workers = psutil.Process(self.haproxy().pid).children()
        except psutil.NoSuchProcess:
            return []
        return [worker.pid for worker in workers if _listens(worker, self.listeners.http_port)]

    def settled(self) -> bool:
        """Tell whether HAProxy runs what the API says, one worker of it, and every Route has its host and status."""
        snapshot = self.snapshot()
        if not all(admission.host_of(route) for route in snapshot.routes):
            return False
        if self.reader.generation() != render(translate(snapshot), self.listeners).generation:
            return False
        if len(self.accepting()) != 1:
            return False
        verdicts = admission.decide(snapshot.routes)
        return all(
            admission.ingress(r, verdicts[r["metadata"]["uid"]], "now") == (r.get("status") or {}).get("ingress")
            for r in snapshot.routes
        )

    async def settle(self, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not self.settled():
                await asyncio.sleep(0.02)

    async def get(self, host: str = HOST, n: int = 1, path: str = "/", tls: bool = False, **headers: str) -> list[Any]:
        """Send requests one after another, each on a connection of its own: status, body, cookie or location."""

        def send() -> list[tuple[int, str, str]]:
            answers = []
            for _ in range(n):
                connection = self._tls(host) if tls else self._plain()
                connection.request("GET", path, headers={"Host": host, **headers})
                answer = connection.getresponse()
                noted = answer.getheader("Set-Cookie") or answer.getheader("Location") or ""
                answers.append((answer.status, answer.read().decode(), noted))
                connection.close()
            return answers

        return await asyncio.to_thread(send)

    def _plain(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.listeners.http_port, timeout=10)

    def _tls(self, host: str) -> http.client.HTTPConnection:
        """Connect by TLS to the router's address, the certificate checked for the Route's host."""
        connection = self._plain()
        connection.port = self.listeners.https_port or 0
        connection.connect()
        context = ssl.create_default_context(cafile=str(self.state / "router-ca.crt"))
        connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
        return connection

    async def counts(self, n: int) -> Counter[str]:
        """Count who answers `n` requests."""
        return Counter(body if status == 200 else str(status) for status, body, _ in await self.get(n=n))


class Embedded(Router):
    """The local target's router over a store, in this process."""

    def __init__(self, state: Path, port: int, reload_seconds: float) -> None:
        settings = Settings(state, 0, port, 0, "", reload_seconds=reload_seconds, with_mlflow=False)
        super().__init__(state, Listeners(port), state / "router")
        self.children = Children(state / CHILDREN_FILE)
        self.store = Store(state / "api")
        self.controller = StoreRouter(self.store, settings, self.children)

    def put(self, plural: str, content: Object) -> None:
        self.store.apply(
            {"services": SERVICE, "endpointslices": ENDPOINT_SLICE}[plural], "n", content["metadata"]["name"], content
        )

    def create(self, route: Object) -> None:
        self.store.create(ROUTE, "n", route)

    def patch(self, name: str, patch: Object) -> None:
        self.store.patch(ROUTE, "n", name, patch)

    def snapshot(self) -> Snapshot:
        return self.controller.snapshot()

    async def run(self, test: Callable[[Any], Awaitable[None]]) -> None:
        task, checks = asyncio.create_task(self.controller.run()), asyncio.create_task(test(self))
        try:
            await asyncio.wait([task, checks], return_when=asyncio.FIRST_COMPLETED)
            await (checks if checks.done() else task)
        finally:
            task.cancel()
            self.children.end_all()


class Lab(Router):
    """The lab's router in a process of its own, over a small API server in this one."""

    def __init__(self, state: Path, port: int, reload_seconds: float) -> None:
        super().__init__(state, Listeners(port, free_port()), state / "haproxy")
        self.api, self.health_port, self.reload_seconds = ListWatchServer(), free_port(), reload_seconds
        self.process: subprocess.Popen[bytes] | None = None

    def put(self, plural: str, content: Object) -> None:
        self.api.put(plural, content)

    def create(self, route: Object) -> None:
        self.api.put("routes", route)

    def patch(self, name: str, patch: Object) -> None:
        self.api.patch(name, patch)

    def snapshot(self) -> Snapshot:
        return Snapshot(*(self.api.list(plural) for plural in ("routes", "services", "endpointslices")))

    @property
    def log(self) -> str:
        return (self.state / "router.log").read_text()

    def start(self) -> None:
        ports = {"http": self.listeners.http_port, "https": self.listeners.https_port, "health": self.health_port}
        command = [sys.executable, "-m", "lab.router", "--folder", str(self.state)]
        command += ["--kubeconfig", str(self.api.kubeconfig(self.state / "kubeconfig"))]
        command += ["--bind", "127.0.0.1", "--reload-seconds", str(self.reload_seconds)]
        command += [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
        path = ":".join(str(processes.ROOT / folder) for folder in ("tests", "scripts", "images"))
        with (self.state / "out").open("ab") as out:
            self.process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=out, stderr=out)

    async def healthy(self, status: int | None, seconds: float = 30.0) -> None:
        """Wait until /healthz answers so; None: until nothing answers."""
        async with asyncio.timeout(seconds):
            while await http_status(self.health_port, "/healthz") != status:
                await asyncio.sleep(0.05)

    async def end(self) -> int:
        """Send SIGTERM and return the exit code; it must end within 10 seconds."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 10)

    async def run(self, test: Callable[[Any], Awaitable[None]]) -> None:
        self.api.start()
        try:
            self.start()
            await self.healthy(200)
            await test(self)
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                self.process.wait(10)
            self.api.stop()


KINDS: dict[str, type[Embedded] | type[Lab]] = {"local": Embedded, "lab": Lab}
Test = Callable[[Any], Awaitable[None]]


def runner(kind: str, folder: Path) -> Callable[..., None]:
    """Return a function that runs a test's coroutine beside a router of that kind."""

    def run(test: Test, port: int = 0, reload_seconds: float = 0.05) -> None:
        state = folder / ("long folder name " * 6).strip()  # longer than a UNIX socket's path may be
        state.mkdir()

        async def both() -> None:
            await KINDS[kind](state, port or free_port(), reload_seconds).run(test)

        asyncio.run(both())

    return run


def wait_gone(process: processes.Process, seconds: float = 10.0) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + seconds
    while process.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not process.alive()
