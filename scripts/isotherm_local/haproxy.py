"""The local router: Routes of the embedded API become the configuration of a real HAProxy.

Inputs   Routes, Services and EndpointSlices of the `Store`
Outputs  `<state>/router/haproxy.cfg` and `hosts.map`, a running HAProxy, `status.ingress` of every Route
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isotherm import tekton
from isotherm_local import ports, processes, router
from isotherm_local.kinds import ENDPOINT_SLICE, ROUTE, SERVICE, Kind, Object
from isotherm_local.store import Store

if TYPE_CHECKING:
    from isotherm_local.supervisor import Children, Settings

ROUTER_NAME = "default"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
SETTLE_SECONDS = 5.0
_INSTALL = {
    "apt-get": "sudo apt-get install -y haproxy",
    "dnf": "sudo dnf install -y haproxy",
    "microdnf": "sudo microdnf install -y haproxy",
    "zypper": "sudo zypper -n install haproxy",
}
log = logging.getLogger("isotherm_local")

GLOBAL = """\
# Written by isotherm_local; changes are lost at the next reload.
global
  description {generation}
  log stdout format raw local0
  maxconn 2000
  nbthread 1
  hard-stop-after 30s
  stats socket unix@haproxy.sock mode 600 level admin expose-fd listeners

defaults
  mode http
  log global
  option httplog
  option dontlog-normal
  option redispatch
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-request 10s
  timeout http-keep-alive 300s
  timeout check 5s

frontend public
  bind 127.0.0.1:{port}
  http-request del-header Proxy
  http-request set-header Host %[req.hdr(Host),lower]
  use_backend %[req.hdr(Host),field(1,:),map(hosts.map)]
  default_backend no_route

backend no_route
  http-request return status 503 content-type text/plain file no-route.txt
"""


NO_ROUTE = "503: no Route claims this host; send the Host header of a Route (spec.host)\n"


def program() -> str:
    """Find HAProxy, also in the sbin folders; refuse with the command that installs it."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which("haproxy", path=path)
    if found is None:
        remedy = next((command for manager, command in _INSTALL.items() if shutil.which(manager)), None)
        raise tekton.Unavailable("HAProxy is not installed", remedy=f"run: {remedy or 'install the package haproxy'}")
    return found


@dataclass(frozen=True)
class Backend:
    """One Route as HAProxy carries it: servers are (Service, name, address, port)."""

    name: str
    host: str
    weights: Mapping[str, int]
    annotations: Mapping[str, str]
    servers: Sequence[tuple[str, str, str, int]]

    def lines(self) -> list[str]:
        """Render the `backend` section."""
        counts = {service: sum(s == service for s, *_ in self.servers) for service in self.weights}
        weights = router.endpoint_weights(self.weights, counts)
        lines = [f"backend {self.name}", f"  balance {router.balance(self.weights, self.annotations)}"]
        lines += ["  option forwardfor", "  http-request add-header X-Forwarded-Host %[req.hdr(host)]"]
        sticky = router.cookies_enabled(self.annotations)
        if sticky:
            named = self.annotations.get(router.ANNOTATION_COOKIE_NAME, "")
            cookie = named if re.fullmatch(r"[\w-]{1,64}", named) else _digest(f"cookie {self.name}")
            lines.append(f"  cookie {cookie} insert indirect nocache httponly")
        active = sum(count for service, count in counts.items() if self.weights[service] > 0)
        check = " check inter 5000ms" if active > 1 else ""
        for service, name, address, port in self.servers:
            key = f" cookie {_digest(f'{address}:{port}')}" if sticky else ""
            lines.append(f"  server {name} {address}:{port}{key} weight {weights[service]}{check}")
        return lines


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def render(backends: Sequence[Backend], port: int) -> tuple[str, str, str]:
    """Render configuration and host map; the third text, a digest of both, is the configuration's `description`."""
    sections = "\n".join("\n".join(["", *backend.lines()]) for backend in backends) + "\n"
    hosts = "".join(f"{backend.host} {backend.name}\n" for backend in backends)
    generation = _digest(sections + hosts + str(port))[:12]
    return GLOBAL.format(generation=generation, port=port) + sections, hosts, generation


def endpoints(slices: Sequence[Object], service: str, port_name: str | None) -> list[tuple[str, str, str, int]]:
    """List the ready endpoints of a Service as servers, in a stable order."""
    found = []
    for item in slices:
        if item["metadata"].get("labels", {}).get(LABEL_SERVICE_NAME) != service:
            continue
        numbers = [p["port"] for p in item.get("ports") or [] if port_name in (None, p.get("name"))]
        for endpoint in item.get("endpoints") or []:
            if numbers and endpoint.get("conditions", {}).get("ready"):
                address = endpoint["addresses"][0]
                found.append((service, f"{service}:{address}:{numbers[0]}", address, numbers[0]))
    return sorted(found)


def _port_name(route: Object, service: Object | None) -> str | None:
    """Translate the Route's `port.targetPort` (a Service's port name or its target) to the slices' port name."""
    wanted = (route["spec"].get("port") or {}).get("targetPort")
    declared = service["spec"]["ports"] if service else []
    if wanted is None:
        return declared[0].get("name") if declared else None
    return next((p.get("name") for p in declared if wanted in (p.get("name"), p.get("targetPort"))), str(wanted))


def admit(routes: Sequence[Object]) -> dict[str, Object]:
    """Decide which Route carries each host: the oldest that claims it, as on OpenShift."""
    claims: dict[str, Object] = {}
    for route in sorted(routes, key=lambda r: (r["metadata"]["creationTimestamp"], r["metadata"]["uid"])):
        claims.setdefault(route["spec"]["host"], route)
    return claims


class HAProxy:
    """One HAProxy in master-worker mode in a folder of its own: check, start, reload, read back."""

    def __init__(self, folder: Path, port: int, children: Children, executable: str) -> None:
        self.folder, self.port, self.children, self.executable = folder, port, children, executable
        self.child: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        tekton.write_atomic(folder / "no-route.txt", NO_ROUTE)

    @property
    def log(self) -> Path:
        """The log of all its lives."""
        return self.folder.parent / "haproxy.log"

    def write(self, configuration: str, hosts: str) -> None:
        """Install a configuration that HAProxy itself accepts; raises `BadInput` with its words, the old one stays."""
        candidate = self.folder / "candidate.cfg"
        previous = (self.folder / "hosts.map").read_text() if (self.folder / "hosts.map").exists() else None
        tekton.write_atomic(candidate, configuration)
        tekton.write_atomic(self.folder / "hosts.map", hosts)
        command = [self.executable, "-c", "-f", candidate.name]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            if previous is not None:
                tekton.write_atomic(self.folder / "hosts.map", previous)
            words = "; ".join(re.findall(r"\[ALERT\]\s*\(\d+\) : (.*)", done.stderr)[:3]) or done.stderr
            raise tekton.BadInput(f"HAProxy refuses the configuration: {words}", remedy=f"look at {candidate}")
        candidate.replace(self.folder / "haproxy.cfg")

    def running(self) -> bool:
        """Tell whether the master process runs."""
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        """Start the master on the written configuration."""
        env = processes.environment(self.folder, Path("/usr/sbin"))
        command = [self.executable, "-W", "-f", "haproxy.cfg"]
        self.child = self.children.start("haproxy", command, env=env, cwd=self.folder, log_file=self.log)

    def reload(self) -> None:
        """Make the master start a worker on the written configuration; the old one finishes what it has."""
        if self.child is not None:
            self.child.send_signal(signal.SIGUSR2)

    def command(self, text: str) -> str:
        """Send one command to the stats socket and return the answer; empty when HAProxy does not answer."""
        folder = os.open(self.folder, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(1.0)
                # A UNIX socket's path holds 108 characters, a checkout's folder may be longer.
                client.connect(f"/proc/self/fd/{folder}/haproxy.sock")
                client.sendall(f"{text}\n".encode())
                parts = []
                while part := client.recv(65536):
                    parts.append(part)
                return b"".join(parts).decode()
        except OSError:
            return ""
        finally:
            os.close(folder)

    def generation(self) -> str:
        """Read back which configuration the worker that answers has loaded; empty when none answers."""
        lines = self.command("show info").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("description:")), "")

    def statistics(self) -> list[dict[str, str]]:
        """Read HAProxy's own counters: a row per frontend, backend and server."""
        return list(csv.DictReader(self.command("show stat").removeprefix("# ").splitlines()))


class RouterController:
    """Brings HAProxy to what Routes, Services and EndpointSlices say, at most every `reload_seconds`."""

    def __init__(self, store: Store, settings: Settings, children: Children) -> None:
        self.store, self.settings = store, settings
        self.haproxy = HAProxy(settings.state / "router", settings.router_port, children, program())
        self.applied = ""  # the generation that HAProxy was last seen to run
        self.answering = False
        self.changed = asyncio.Event()
        self.changed.set()
        store.subscribers.append(self._notice)

    @property
    def ready(self) -> bool:
        """Tell whether HAProxy runs a configuration of ours."""
        return self.answering and self.haproxy.children.alive("haproxy")

    def _notice(self, kind: Kind, _: Object) -> None:
        if kind in (ROUTE, SERVICE, ENDPOINT_SLICE):
            self.changed.set()

    def backends(self) -> list[Backend]:
        """Translate the admitted Routes."""
        backends = []
        routes = self.store.list(ROUTE)
        admitted = {route["metadata"]["uid"] for route in admit(routes).values()}
        for route in routes:
            namespace, name = route["metadata"]["namespace"], route["metadata"]["name"]
            if route["metadata"]["uid"] not in admitted:
                continue
            slices = self.store.list(ENDPOINT_SLICE, namespace)
            weights = router.route_weights(route["spec"])
            servers = []
            for service in sorted(weights):
                port_name = _port_name(route, self.store.find(SERVICE, namespace, service))
                servers += endpoints(slices, service, port_name)
            prefix = "be_edge_http" if route["spec"].get("tls") else "be_http"
            annotations = route["metadata"].get("annotations") or {}
            backends.append(
                Backend(f"{prefix}:{namespace}:{name}", route["spec"]["host"], weights, annotations, servers)
            )
        return backends

    def admit_routes(self) -> None:
        """Write `status.ingress` of every Route, like OpenShift's router."""
        routes = self.store.list(ROUTE)
        claims = admit(routes)
        for route in routes:
            host = route["spec"]["host"]
            holder = claims[host]["metadata"]
            admitted = holder["uid"] == route["metadata"]["uid"]
            condition: dict[str, Any] = {"type": "Admitted", "status": "True" if admitted else "False"}
            if not admitted:
                holder_name = f"{holder['namespace']}/{holder['name']}"
                condition |= {"reason": "HostAlreadyClaimed", "message": f"route {holder_name} already exposes {host}"}
            old = (route.get("status", {}).get("ingress") or [{}])[0].get("conditions") or [{}]
            same = all(old[0].get(key) == value for key, value in condition.items())
            now = tekton.rfc3339(self.store.now())
            condition["lastTransitionTime"] = old[0]["lastTransitionTime"] if same else now
            ingress = {
                "host": host,
                "routerName": ROUTER_NAME,
                "routerCanonicalHostname": "router-default.apps.localhost",
                "wildcardPolicy": "None",
                "conditions": [condition],
            }
            namespace, name = route["metadata"]["namespace"], route["metadata"]["name"]
            self.store.set_status(ROUTE, namespace, name, {"ingress": [ingress]})

    async def apply(self) -> None:
        """Render, check, start or reload, and wait until HAProxy says that it runs the new configuration."""
        configuration, hosts, generation = render(self.backends(), self.settings.router_port)
        if generation == self.applied and self.haproxy.running():
            return
        self.haproxy.write(configuration, hosts)
        if self.haproxy.running():
            self.haproxy.reload()
        else:
            self.answering = False
            if not ports.port_is_free(self.haproxy.port):
                what = f"port {self.haproxy.port}, where the router should listen, is taken"
                raise tekton.Unavailable(what, remedy=ports.remedy("router", self.haproxy.port))
            self.haproxy.start()
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.haproxy.generation() != generation:
            if not self.haproxy.running() or time.monotonic() > deadline:
                cause = processes.last_line(self.haproxy.log)
                raise tekton.Unavailable(
                    f"HAProxy did not take the configuration: {cause}", remedy=f"see {self.haproxy.log}"
                )
            await asyncio.sleep(0.01)
        self.applied, self.answering = generation, True
        log.info("router: configuration %s, %d routes", generation, configuration.count("\nbackend be_"))

    async def run(self) -> None:
        """Follow changes for ever; a failure is logged and tried again after a second."""
        while True:
            try:
                async with asyncio.timeout(0.25):
                    await self.changed.wait()
            except TimeoutError:
                if self.haproxy.running():
                    continue
            self.changed.clear()
            try:
                await self.apply()
                self.admit_routes()
            except (tekton.TaskError, OSError) as error:
                if not self.applied:
                    raise  # never ran: a port, a file or a program is wrong, and waiting does not mend it
                log.error("router: %s", error)
                await asyncio.sleep(1.0)
                self.changed.set()
            # What changes meanwhile is part of the next reload, as with RELOAD_INTERVAL on OpenShift.
            await asyncio.sleep(self.settings.reload_seconds)
