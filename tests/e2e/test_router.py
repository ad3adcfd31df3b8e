"""The cluster's router on the real API: whose answers a Route's weights give, by the same rules as the local router's.

Backends are HTTP servers of this test on the node's address, which EndpointSlices name; no pod is started.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from lab import routes
from lab.part import NODE_IP
from waiting import eventually

from e2e import reach
from e2e.cluster import Object
from isotherm import contract
from isotherm.deploy.weights import expected_shares, tolerance

pytestmark = pytest.mark.core
NAMESPACE = "api-router"
HOST = "heat.api-router.example"
NO_COOKIES = {contract.ANNOTATION_DISABLE_COOKIES: "true"}
REQUESTS = 150
# The router reloads at most every 5 seconds, and a reload takes a moment on a busy machine.
SETTLE_SECONDS = 30.0


class Answer(BaseHTTPRequestHandler):
    """Answers with the name of its Service."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.name.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Backend(ThreadingHTTPServer):
    """A server with the name of its Service; HAProxy's checks end connections without a word, so it says none."""

    daemon_threads = True
    name = ""

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def backends(address: str, *names: str) -> Iterator[dict[str, int]]:
    """HTTP servers on an address of the node; gives their ports."""
    servers: dict[str, Backend] = {}
    try:
        for name in names:
            servers[name] = Backend((address, 0), Answer)
            servers[name].name = name
            threading.Thread(target=servers[name].serve_forever, daemon=True).start()
        yield {name: server.server_port for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.shutdown()
            server.server_close()


@dataclass
class Place:
    """A namespace with Services blue and green, each with one endpoint, and empty, which has none."""

    router: tuple[str, int]
    used: set[str] = field(default_factory=set)

    def apply(self, *objects: Object) -> None:
        """Create or change objects."""
        reach.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def route(self, weights: dict[str, int], name: str = "heat", **metadata: Any) -> None:
        """Create or change a Route of host HOST."""
        first, *rest = [{"kind": "Service", "name": service, "weight": weight} for service, weight in weights.items()]
        spec = {"host": HOST, "to": first, "alternateBackends": rest}
        header = {"apiVersion": "route.openshift.io/v1", "kind": "Route"}
        self.apply({**header, "metadata": {"name": name, **metadata}, "spec": spec})

    def get(self, cookie: str = "") -> tuple[str, str]:
        """One request on a connection of its own: who answered (or the status), and the cookie that came."""
        connection = http.client.HTTPConnection(*self.router, timeout=10)
        try:
            connection.request("GET", "/", headers={"Host": HOST, **({"Cookie": cookie} if cookie else {})})
            answer = connection.getresponse()
            body, given = answer.read().decode(), answer.getheader("Set-Cookie") or ""
            return (body if answer.status == 200 else str(answer.status)), given.partition(";")[0]
        finally:
            connection.close()

    def counts(self, requests: int = REQUESTS) -> Counter[str]:
        """Who answers that many requests."""
        return Counter(self.get()[0] for _ in range(requests))

    def settled(self, seen: Callable[[set[str]], bool]) -> None:
        """Wait until a handful of requests is answered by whom it should be."""
        eventually(lambda: seen(set(self.counts(20))), SETTLE_SECONDS)

    def admitted(self, name: str) -> Object:
        """The router's verdict on a Route."""

        def found() -> Object | None:
            shown = yaml.safe_load(reach.kubectl("-n", NAMESPACE, "get", "route", name, "-o", "yaml").stdout)
            entries = (shown.get("status") or {}).get("ingress") or []
            return next((c for entry in entries for c in entry["conditions"] if c["type"] == "Admitted"), None)

        return dict(eventually(found, SETTLE_SECONDS))


def service(name: str, address: str, port: int | None) -> list[Object]:
    """A Service without selector and, where it has an endpoint, the slice that names it."""
    header: Object = {"metadata": {"name": name}}
    ports = [{"name": "http", "port": 80, "targetPort": port or 80}]
    made: list[Object] = [{"apiVersion": "v1", "kind": "Service", **header, "spec": {"ports": ports}}]
    if port:
        made.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            }
        )
    return made


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The namespace and its Services; E2E_NODE_IP is an address of this machine that the router reaches."""
    url = urlsplit(os.environ.get("E2E_ROUTER", routes.URL))
    address = os.environ.get("E2E_NODE_IP", NODE_IP)
    assert url.hostname
    reach.kubeconfig()
    with backends(address, "blue", "green") as ports, reach.namespace(NAMESPACE):
        found = Place((url.hostname, url.port or 80))
        ends = {"blue": ports["blue"], "green": ports["green"], "empty": None}
        found.apply(*(item for name, port in ends.items() for item in service(name, address, port)))
        yield found


def test_weights_shift_all_requests_then_a_share_then_skip_who_has_no_endpoint(place: Place) -> None:
    one = {"blue": 1, "green": 1}
    place.route({"blue": 100, "green": 0}, annotations=NO_COOKIES)
    place.settled(lambda who: who == {"blue"})
    assert place.counts() == {"blue": REQUESTS}
    assert place.get()[1] == "", "no cookie"

    split = {"blue": 90, "green": 10}
    place.route(split, annotations=NO_COOKIES)
    place.settled(lambda who: who == {"blue", "green"})
    found, share = place.counts(300), expected_shares(split, one)["green"]
    assert sum(found.values()) == found["blue"] + found["green"] == 300
    assert abs(found["green"] / 300 - share) <= tolerance(share, 300)

    unserved = {"empty": 99, "green": 1}
    place.route(unserved, annotations=NO_COOKIES)
    place.settled(lambda who: who == {"green"})
    assert expected_shares(unserved, {"empty": 0, "green": 1})["green"] == 1.0
    assert place.counts(50) == {"green": 50}


def test_a_cookie_keeps_a_client_on_a_service_of_weight_0(place: Place) -> None:
    place.route({"blue": 100, "green": 0}, annotations={contract.ANNOTATION_DISABLE_COOKIES: "false"})
    place.settled(lambda who: who == {"blue"})
    cookie = str(eventually(lambda: place.get()[1], SETTLE_SECONDS))
    place.route({"blue": 0, "green": 100}, annotations={contract.ANNOTATION_DISABLE_COOKIES: "false"})
    place.settled(lambda who: who == {"green"})
    assert {place.get(cookie)[0] for _ in range(10)} == {"blue"}


def test_a_host_claimed_twice_stays_with_the_first_and_goes_with_it(place: Place) -> None:
    place.route({"green": 100}, annotations=NO_COOKIES)
    assert place.admitted("heat")["status"] == "True"
    place.settled(lambda who: who == {"green"})
    place.route({"blue": 100}, name="second", annotations=NO_COOKIES)
    verdict = place.admitted("second")
    assert (verdict["status"], verdict["reason"]) == ("False", "HostAlreadyClaimed")
    assert f"{NAMESPACE}/heat" in verdict["message"]
    assert place.counts(20) == {"green": 20}

    reach.kubectl("-n", NAMESPACE, "delete", "route", "heat")
    place.settled(lambda who: who == {"blue"})
    assert place.admitted("second")["status"] == "True"
    reach.kubectl("-n", NAMESPACE, "delete", "route", "second")
    place.settled(lambda who: who == {"503"})
