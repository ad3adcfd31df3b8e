"""The router against a real HAProxy: what clients get for the weights of a Route."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_target import named, route

from isotherm import tekton
from isotherm_local import haproxy, router
from isotherm_local.haproxy import RouterController
from isotherm_local.kinds import ENDPOINT_SLICE, ROUTE, SERVICE, Object
from isotherm_local.ports import free_port
from isotherm_local.store import Store
from isotherm_local.supervisor import Children, Settings

NO_COOKIES = {"annotations": {"haproxy.router.openshift.io/disable_cookies": "true"}}


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with the name of its server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def pods() -> Iterator[Callable[[str], int]]:
    """Start an HTTP server that answers with a name; returns its port."""
    servers = []

    def start(name: str) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.name = name
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Router:
    """A running RouterController over a Store; endpoints are set by hand."""

    def __init__(self, state: Path, port: int) -> None:
        self.settings = Settings(state, 0, port, 0, "", reload_seconds=0.05, with_mlflow=False)
        self.children = Children(state / "children.json")
        self.store = Store(state / "api")
        self.controller = RouterController(self.store, self.settings, self.children)

    def endpoints(self, service: str, *ports: int) -> None:
        """Declare the ready endpoints of a Service, one slice each as the controller does; others are emptied."""
        ready = [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}]
        if self.store.find(SERVICE, "n", service) is None:
            spec = {"selector": {"app": service}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
            self.store.create(SERVICE, "n", named(service, spec=spec))
        for slot in range(4):
            mine = ports[slot : slot + 1]
            content = {"endpoints": ready if mine else [], "ports": [{"name": "http", "port": p} for p in mine]}
            labels = {"labels": {"kubernetes.io/service-name": service}}
            self.store.apply(ENDPOINT_SLICE, "n", f"{service}-{slot}", {"metadata": labels, **content})

    async def settle(self) -> None:
        """Wait until HAProxy runs what the Store says and every Route has its status."""
        async with asyncio.timeout(20):
            while True:
                wanted = haproxy.render(self.controller.backends(), self.settings.router_port)[2]
                admitted = all("status" in r for r in self.store.list(ROUTE))
                if wanted == self.controller.applied and admitted and not self.controller.changed.is_set():
                    return
                await asyncio.sleep(0.02)

    async def get(self, host: str = "heat-n.apps.localhost", n: int = 1, **headers: str) -> list[tuple[int, str, str]]:
        """Send requests one after another, each on a connection of its own: status, body, cookie that was set."""

        def send() -> list[tuple[int, str, str]]:
            answers = []
            for _ in range(n):
                connection = http.client.HTTPConnection("127.0.0.1", self.settings.router_port, timeout=10)
                connection.request("GET", "/", headers={"Host": host, **headers})
                answer = connection.getresponse()
                cookie = (answer.getheader("Set-Cookie") or "").partition(";")[0]
                answers.append((answer.status, answer.read().decode(), cookie))
                connection.close()
            return answers

        return await asyncio.to_thread(send)

    async def counts(self, n: int) -> Counter[str]:
        """Count who answers `n` requests."""
        return Counter(body if status == 200 else str(status) for status, body, _ in await self.get(n=n))


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., None]:
    """Run a test's coroutine beside a router."""

    def run(test: Callable[[Router], Awaitable[None]], port: int = 0) -> None:
        async def both() -> None:
            driver = Router(tmp_path / ("long folder name " * 6).strip(), port or free_port())
            task = asyncio.create_task(driver.controller.run())
            checks = asyncio.create_task(test(driver))
            try:
                await asyncio.wait([task, checks], return_when=asyncio.FIRST_COMPLETED)
                await (checks if checks.done() else task)
            finally:
                task.cancel()
                driver.children.end_all()

        asyncio.run(both())

    return run


@pytest.mark.parametrize(
    ("weights", "blue", "green"),
    [({"blue": 90, "green": 10}, 1, 1), ({"blue": 99, "green": 1}, 1, 2), ({"blue": 50, "green": 50}, 2, 1)],
)
def test_requests_are_shared_as_the_rules_say(
    running: Any, pods: Callable[[str], int], weights: dict[str, int], blue: int, green: int
) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", *(pods("blue") for _ in range(blue)))
        driver.endpoints("green", *(pods("green") for _ in range(green)))
        driver.store.create(ROUTE, "n", route("heat", weights, **NO_COOKIES))
        await driver.settle()
        share = router.achieved_share(weights, {"blue": blue, "green": green})["green"]
        found = await driver.counts(400)
        assert found["blue"] + found["green"] == 400
        assert abs(found["green"] / 400 - share) <= 0.01

    running(test)


def test_a_shift_moves_all_requests_and_loses_none(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 100, "green": 0}, **NO_COOKIES))
        await driver.settle()
        assert await driver.counts(20) == {"blue": 20}
        during = asyncio.create_task(driver.counts(300))
        spec = route("heat", {"green": 100, "blue": 0})["spec"]
        driver.store.patch(ROUTE, "n", "heat", {"spec": spec})
        await driver.settle()
        assert await driver.counts(20) == {"green": 20}
        assert set(await during) <= {"blue", "green"}

    running(test)


def test_a_service_without_endpoints_gives_its_share_away(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue")
        driver.endpoints("green", pods("green"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 99, "green": 1}, **NO_COOKIES))
        await driver.settle()
        assert await driver.counts(10) == {"green": 10}
        driver.endpoints("green")
        await driver.settle()
        assert await driver.counts(2) == {"503": 2}

    running(test)


def test_all_weights_0_and_an_unknown_host_answer_503(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 0}, **NO_COOKIES))
        await driver.settle()
        assert await driver.counts(2) == {"503": 2}
        [(status, body, _)] = await driver.get("nobody.apps.localhost")
        assert (status, "no Route claims this host" in body) == (503, True)

    running(test)


@pytest.mark.parametrize("sticky", [True, False])
def test_a_cookie_keeps_a_client_on_a_backend_of_weight_0(
    running: Any, pods: Callable[[str], int], sticky: bool
) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 100, "green": 0}, **({} if sticky else NO_COOKIES)))
        await driver.settle()
        [(_, _, cookie)] = await driver.get()
        assert bool(cookie) is sticky
        driver.store.patch(ROUTE, "n", "heat", {"spec": route("heat", {"blue": 0, "green": 100})["spec"]})
        await driver.settle()
        answers = await driver.get(n=5, Cookie=cookie or "none=1")
        assert {body for _, body, _ in answers} == {"blue" if sticky else "green"}
        assert await driver.counts(5) == {"green": 5}

    running(test)


def test_routes_are_told_apart_by_host_and_the_oldest_claim_wins(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        first = route("first", {"blue": 1})
        first["spec"]["host"] = "heat.example"
        driver.store.create(ROUTE, "n", first)
        driver.store.now = lambda: tekton.utcnow().replace(year=2999)
        second = route("second", {"green": 1})
        second["spec"]["host"] = "heat.example"
        driver.store.create(ROUTE, "n", second)
        driver.store.create(ROUTE, "n", route("heat", {"green": 1}))
        await driver.settle()
        assert [body for _, body, _ in await driver.get("HEAT.example:80")] == ["blue"]
        assert [body for _, body, _ in await driver.get()] == ["green"]
        admitted = {name: ingress(driver.store, name) for name in ("first", "second", "heat")}
        assert {name: c["status"] for name, c in admitted.items()} == {
            "first": "True",
            "second": "False",
            "heat": "True",
        }
        assert admitted["second"]["reason"] == "HostAlreadyClaimed"
        assert "n/first" in admitted["second"]["message"]

    running(test)


def ingress(store: Store, name: str) -> Object:
    [entry] = store.get(ROUTE, "n", name)["status"]["ingress"]
    assert (entry["routerName"], entry["conditions"][0]["type"]) == ("default", "Admitted")
    condition: Object = entry["conditions"][0]
    return condition


def test_haproxy_that_dies_is_started_again(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 1}))
        await driver.settle()
        first = driver.controller.haproxy.child
        first.kill()
        async with asyncio.timeout(20):
            while driver.controller.haproxy.child is first or not driver.controller.ready:
                await asyncio.sleep(0.05)
        assert await driver.counts(2) == {"blue": 2}

    running(test)


def test_a_configuration_that_haproxy_refuses_leaves_the_old_one(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.store.create(ROUTE, "n", route("heat", {"blue": 1}))
        await driver.settle()
        with pytest.raises(tekton.BadInput, match=r"HAProxy refuses the configuration: .*nonsense"):
            driver.controller.haproxy.write("global\n nonsense\n", "")
        driver.controller.haproxy.reload()
        assert await driver.counts(2) == {"blue": 2}

    running(test)


def test_a_taken_port_is_one_line_with_the_port(running: Any) -> None:
    async def wait(_: Router) -> None:
        await asyncio.sleep(20)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(tekton.Unavailable) as raised:
            running(wait, port)
    assert str(port) in raised.value.line()
    assert "\n" not in raised.value.line()


def test_missing_haproxy_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "isotherm_local.haproxy.shutil.which", lambda name, path=None: None if name == "haproxy" else name
    )
    with pytest.raises(tekton.Unavailable) as raised:
        haproxy.program()
    assert "run: sudo apt-get install -y haproxy" in raised.value.line()
