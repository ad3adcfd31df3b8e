"""The routers, the local target's and the lab's, against a real HAProxy: what clients get for a Route's weights."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_target import route
from routers import Embedded, Router, pod_servers, runner

from isotherm import tekton
from isotherm.deploy.weights import tolerance
from isotherm_local import haproxy, router
from isotherm_local.kinds import Object
from isotherm_local.translation import IDLE_CONNECTIONS, Configuration

NO_COOKIES = {"annotations": {"haproxy.router.openshift.io/disable_cookies": "true"}}
REQUESTS = 400
local_only = pytest.mark.parametrize("running", ["local"], indirect=True)


@pytest.fixture
def pods() -> Iterator[Callable[[str], int]]:
    """Start an HTTP server that answers with a name; returns its port."""
    with pod_servers() as start:
        yield start


@pytest.fixture(params=["local", "lab"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Run a test's coroutine beside a router."""
    return runner(request.param, tmp_path)


@pytest.mark.parametrize(
    ("weights", "blue", "green"),
    [
        ({"blue": 90, "green": 10}, 1, 1),
        ({"blue": 99, "green": 1}, 1, 2),
        ({"blue": 50, "green": 50}, 2, 1),
        ({"blue": 99, "green": 1}, 1, 1),
        ({"blue": 99, "green": 1}, 1, 4),
        ({"blue": 95, "green": 5}, 10, 1),
        ({"blue": 256, "green": 1}, 2, 1),
        ({"blue": 1, "green": 99}, 3, 2),
    ],
)
def test_requests_are_shared_as_the_rules_say(
    running: Any, pods: Callable[[str], int], weights: dict[str, int], blue: int, green: int
) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", *(pods("blue") for _ in range(blue)))
        driver.endpoints("green", *(pods("green") for _ in range(green)))
        driver.create(route("heat", weights, **NO_COOKIES))
        await driver.settle()
        share = router.achieved_share(weights, {"blue": blue, "green": green})["green"]
        found = await driver.counts(REQUESTS)
        assert found["blue"] + found["green"] == REQUESTS
        assert abs(found["green"] / REQUESTS - share) <= min(0.01, tolerance(share, REQUESTS))

    running(test)


def test_a_shift_moves_all_requests_and_loses_none(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 100, "green": 0}, **NO_COOKIES))
        await driver.settle()
        assert await driver.counts(20) == {"blue": 20}
        during = asyncio.create_task(driver.counts(300))
        spec = route("heat", {"green": 100, "blue": 0})["spec"]
        driver.patch("heat", {"spec": spec})
        await driver.settle()
        assert await driver.counts(20) == {"green": 20}
        assert set(await during) <= {"blue", "green"}

    running(test)


def test_a_service_without_endpoints_gives_its_share_away(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue")
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 99, "green": 1}, **NO_COOKIES))
        await driver.settle()
        assert await driver.counts(10) == {"green": 10}
        driver.endpoints("green")
        await driver.settle()
        assert await driver.counts(2) == {"503": 2}

    running(test)


def test_all_weights_0_and_an_unknown_host_answer_503(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 0}, **NO_COOKIES))
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
        driver.create(route("heat", {"blue": 100, "green": 0}, **({} if sticky else NO_COOKIES)))
        await driver.settle()
        [(_, _, cookie)] = await driver.get()
        assert bool(cookie) is sticky
        driver.patch("heat", {"spec": route("heat", {"blue": 0, "green": 100})["spec"]})
        await driver.settle()
        answers = await driver.get(n=5, Cookie=cookie or "none=1")
        assert {body for _, body, _ in answers} == {"blue" if sticky else "green"}
        assert await driver.counts(5) == {"green": 5}

    running(test)


@local_only
@pytest.mark.parametrize("policy", IDLE_CONNECTIONS)
def test_what_a_reload_does_to_a_kept_connection_is_the_policy_for_idle_connections(
    running: Any, pods: Callable[[str], int], policy: str
) -> None:
    """Immediate closes it under the client; Deferred answers once more, by the old weights, and says that it closes."""

    def ask(kept: http.client.HTTPConnection) -> tuple[str, str | None]:
        kept.request("GET", "/", headers={"Host": "heat-n.apps.localhost"})
        answer = kept.getresponse()
        return answer.read().decode(), answer.getheader("Connection")

    async def test(driver: Any) -> None:
        driver.listeners = replace(driver.listeners, idle_connections=policy)
        driver.controller.haproxy.listeners = driver.listeners
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 100, "green": 0}, **NO_COOKIES))
        await driver.settle()
        kept = http.client.HTTPConnection("127.0.0.1", driver.listeners.http_port, timeout=5)
        assert await asyncio.to_thread(ask, kept) == ("blue", None)
        driver.patch("heat", {"spec": route("heat", {"blue": 0, "green": 100})["spec"]})
        await driver.settle()
        if policy == "Deferred":
            assert await asyncio.to_thread(ask, kept) == ("blue", "close")
            assert await asyncio.to_thread(ask, kept) == ("green", None)
        else:
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                await asyncio.to_thread(ask, kept)
        kept.close()

    running(test)


def test_routes_are_told_apart_by_host_and_the_oldest_claim_wins(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        first = route("first", {"blue": 1})
        first["spec"]["host"] = "heat.example"
        driver.create(first)
        await asyncio.sleep(1.1)  # the API's times are whole seconds
        second = route("second", {"green": 1})
        second["spec"]["host"] = "heat.example"
        driver.create(second)
        driver.create(route("heat", {"green": 1}))
        await driver.settle()
        assert [body for _, body, _ in await driver.get("HEAT.example:80")] == ["blue"]
        assert [body for _, body, _ in await driver.get()] == ["green"]
        admitted = {name: ingress(driver, name) for name in ("first", "second", "heat")}
        assert {name: c["status"] for name, c in admitted.items()} == {
            "first": "True",
            "second": "False",
            "heat": "True",
        }
        assert admitted["second"]["reason"] == "HostAlreadyClaimed"
        assert "n/first" in admitted["second"]["message"]

    running(test)


def ingress(driver: Router, name: str) -> Object:
    [entry] = driver.route(name)["status"]["ingress"]
    assert (entry["routerName"], entry["conditions"][0]["type"]) == ("default", "Admitted")
    condition: Object = entry["conditions"][0]
    return condition


def test_haproxy_that_dies_is_started_again(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Router) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        first = driver.haproxy()
        first.signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while first.alive() or not driver.haproxy().alive():
                await asyncio.sleep(0.05)
        await driver.settle()
        assert await driver.counts(2) == {"blue": 2}

    running(test)


@local_only
def test_a_configuration_that_haproxy_refuses_leaves_the_old_one(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Embedded) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        with pytest.raises(tekton.BadInput, match=r"HAProxy refuses the configuration: .*nonsense"):
            driver.controller.haproxy.write(Configuration("global\n nonsense\n", {"hosts.map": ""}, ""))
        driver.controller.haproxy.reload()
        assert await driver.counts(2) == {"blue": 2}

    running(test)


@local_only
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
