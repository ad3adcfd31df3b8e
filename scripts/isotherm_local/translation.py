"""Routes, Services and EndpointSlices become HAProxy's configuration.

Pure functions. Source: openshift/router, images/router/haproxy/conf/haproxy-config.template and
pkg/router/controller/endpointsubset, as of 2026. Not taken over: paths, reencrypt and passthrough (refused at
admission), a Route's own certificate (the router's serves every host), rate limits and allow lists.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from isotherm_local import admission, router
from isotherm_local.kinds import Object

LABEL_SERVICE_NAME = "kubernetes.io/service-name"
CERTIFICATE = "router.pem"
HTTPS_PORT = 443
# IngressController spec.idleConnectionTerminationPolicy; OpenShift's default first
IDLE_CONNECTIONS = ("Immediate", "Deferred")

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

backend no_route
  http-request return status 503 content-type text/plain file no-route.txt
"""

# DNS names do not depend on case; a Proxy header would become a program's HTTP_PROXY.
FRONTEND = """
frontend {name}
  bind {bind}
{idle}  http-request del-header Proxy
  http-request set-header Host %[req.hdr(Host),lower]
{rules}  use_backend %[req.hdr(Host),field(1,:),map({hosts})]
  default_backend no_route
"""


@dataclass(frozen=True)
class Listeners:
    """Where HAProxy listens. Without a port for TLS (the local target) edge Routes are served as plain HTTP.

    `idle_connections` says what a reload does to kept connections: Immediate closes them, and a request that is on its
    way then is lost; Deferred lets the old process answer one more request on each, by the old weights.
    """

    http_port: int
    https_port: int | None = None
    address: str = "127.0.0.1"
    idle_connections: str = IDLE_CONNECTIONS[0]

    @property
    def ports(self) -> dict[str, int]:
        """The ports by the name of the option that gives them."""
        return (
            {"router": self.http_port}
            if self.https_port is None
            else {
                "http": self.http_port,
                "https": self.https_port,
            }
        )


@dataclass(frozen=True)
class Snapshot:
    """What the API holds at one moment."""

    routes: Sequence[Object]
    services: Sequence[Object]
    slices: Sequence[Object]


@dataclass(frozen=True)
class Backend:
    """One Route as HAProxy carries it: servers are (Service, name, address, port)."""

    name: str
    host: str
    weights: Mapping[str, int]
    annotations: Mapping[str, str]
    servers: Sequence[tuple[str, str, str, int]]
    edge: bool = False
    insecure: str = "None"  # insecureEdgeTerminationPolicy: what plain HTTP gets of an edge Route

    def lines(self, listeners: Listeners) -> list[str]:
        """Render the `backend` section."""
        counts = {service: sum(s == service for s, *_ in self.servers) for service in self.weights}
        weights = router.endpoint_weights(self.weights, counts)
        lines = [f"backend {self.name}", f"  balance {router.balance(self.weights, self.annotations)}"]
        lines += ["  option forwardfor", "  http-request add-header X-Forwarded-Host %[req.hdr(host)]"]
        lines += [f"  http-request add-header X-Forwarded-Proto http{s} if {no}{{ ssl_fc }}" for s, no in _SCHEMES]
        sticky = router.cookies_enabled(self.annotations)
        if sticky:
            lines.append(f"  cookie {self._cookie_name()} insert indirect nocache httponly{self._secure(listeners)}")
        active = sum(count for service, count in counts.items() if self.weights[service] > 0)
        check = " check inter 5000ms" if active > 1 else ""
        for service, name, address, port in self.servers:
            key = f" cookie {_digest(f'{address}:{port}')}" if sticky else ""
            # Weight 0 stays: whoever holds a cookie of that server is still served by it.
            lines.append(f"  server {name} {address}:{port}{key} weight {weights[service]}{check}")
        return lines

    def _cookie_name(self) -> str:
        named = self.annotations.get(router.ANNOTATION_COOKIE_NAME, "")
        return named if re.fullmatch(r"[\w-]{1,64}", named) else _digest(f"cookie {self.name}")

    def _secure(self, listeners: Listeners) -> str:
        """Keep the cookie to TLS unless plain HTTP is allowed as well."""
        only_tls = self.edge and listeners.https_port is not None and self.insecure != "Allow"
        return " secure attr SameSite=None" if only_tls else ""


_SCHEMES = (("", "!"), ("s", ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Configuration:
    """HAProxy's configuration and map files by name; `generation`, a digest of all, is its `description`."""

    text: str
    maps: Mapping[str, str]
    generation: str


def render(backends: Sequence[Backend], listeners: Listeners) -> Configuration:
    """Render everything that HAProxy reads, but for the certificate."""
    tls = listeners.https_port is not None
    plain = [b for b in backends if not (b.edge and tls) or b.insecure == "Allow"]
    redirected = [b for b in backends if b.edge and tls and b.insecure == "Redirect"]
    maps = {"hosts.map": _map(plain)}
    if tls:
        maps |= {"redirects.map": _map(redirected), "edge.map": _map([b for b in backends if b.edge])}
    body = _frontends(listeners) + "\n".join("\n".join(["", *b.lines(listeners)]) for b in backends) + "\n"
    generation = _digest(body + "".join(f"{name}\n{text}" for name, text in sorted(maps.items())))[:12]
    return Configuration(GLOBAL.format(generation=generation) + body, maps, generation)


def _map(backends: Sequence[Backend]) -> str:
    return "".join(f"{backend.host} {backend.name}\n" for backend in backends)


def _frontends(listeners: Listeners) -> str:
    address, rules = listeners.address, ""
    idle = "  option idle-close-on-response\n" if listeners.idle_connections == "Deferred" else ""
    frontend = partial(FRONTEND.format, idle=idle)
    if listeners.https_port is None:
        return frontend(name="public", bind=f"{address}:{listeners.http_port}", rules="", hosts="hosts.map")
    port = "" if listeners.https_port == HTTPS_PORT else f":{listeners.https_port}"
    rules = (
        f"  http-request redirect code 302 location https://%[req.hdr(Host),field(1,:)]{port}%[pathq]"
        " if { req.hdr(Host),field(1,:),map(redirects.map) -m found }\n"
    )
    bind = f"{address}:{listeners.https_port} ssl crt {CERTIFICATE} alpn h2,http/1.1"
    plain = frontend(name="public", bind=f"{address}:{listeners.http_port}", rules=rules, hosts="hosts.map")
    return plain + frontend(name="public_ssl", bind=bind, rules="", hosts="edge.map")


def endpoints(
    slices: Sequence[Object], service: str, wanted: str | int | None, declared: Sequence[Object]
) -> list[tuple[str, str, str, int]]:
    """List the ready endpoints of a Service as servers, in a stable order; one that is in two slices counts once.

    `wanted` is the Route's `port.targetPort`, `declared` are the Service's ports. Unknown readiness counts as ready.
    """
    found = set()
    for item in slices:
        if (item["metadata"].get("labels") or {}).get(LABEL_SERVICE_NAME) != service:
            continue
        number = _port_number(item.get("ports") or [], wanted, declared)
        if number is None or item.get("addressType", "IPv4") != "IPv4":
            continue
        for endpoint in item.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                address = endpoint["addresses"][0]
                found.add((service, f"{service}:{address}:{number}", address, number))
    return sorted(found)


def _port_number(ports: Sequence[Object], wanted: str | int | None, declared: Sequence[Object]) -> int | None:
    """Choose a slice's port: by the Service's port name, or by number; without a wish the Service's first port.

    (With several ports and no wish OpenShift's router mixes all of them; the first is what `oc expose` would ask for.)
    """
    names = {str(wanted)} if wanted is not None else {p.get("name") or "" for p in declared[:1]}
    names |= {p.get("name") or "" for p in declared if wanted is not None and wanted == p.get("targetPort")}
    numbered = [(p.get("name") or "", p["port"]) for p in ports if p.get("port")]
    return next((number for name, number in numbered if name in names or str(number) in names), None)


def translate(snapshot: Snapshot) -> list[Backend]:
    """Translate the admitted Routes, in the order of namespace and name."""
    verdicts = admission.decide(snapshot.routes)
    services = {(s["metadata"]["namespace"], s["metadata"]["name"]): s for s in snapshot.services}
    by_namespace: dict[str, list[Object]] = {}
    for item in snapshot.slices:
        by_namespace.setdefault(item["metadata"]["namespace"], []).append(item)
    backends = []
    for route in sorted(snapshot.routes, key=lambda r: (r["metadata"]["namespace"], r["metadata"]["name"])):
        metadata, spec = route["metadata"], route["spec"]
        if not verdicts[metadata["uid"]].admitted:
            continue
        namespace, tls = metadata["namespace"], spec.get("tls") or {}
        weights = router.route_weights(spec)
        wanted = (spec.get("port") or {}).get("targetPort")
        servers: list[tuple[str, str, str, int]] = []
        for service in sorted(weights):
            declared = services.get((namespace, service), {}).get("spec", {}).get("ports") or []
            servers += endpoints(by_namespace.get(namespace, []), service, wanted, declared)
        backends.append(
            Backend(
                name=f"{'be_edge_http' if tls else 'be_http'}:{namespace}:{metadata['name']}",
                host=admission.host_of(route),
                weights=weights,
                annotations=metadata.get("annotations") or {},
                servers=servers,
                edge=bool(tls),
                insecure=tls.get("insecureEdgeTerminationPolicy") or "None",
            )
        )
    return backends
