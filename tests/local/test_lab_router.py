"""The lab's router as a process: TLS, and what it does when the API server or its own life is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_target import route
from routers import HOST, Lab, pod_servers, runner, wait_gone

EDGE: dict[str, Any] = {"termination": "edge"}


@pytest.fixture
def pods() -> Iterator[Callable[[str], int]]:
    with pod_servers() as start:
        yield start


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., None]:
    return runner("lab", tmp_path)


def edge(policy: str | None, **metadata: Any) -> dict[str, Any]:
    made = route("heat", {"blue": 1}, **metadata)
    made["spec"]["tls"] = EDGE | ({} if policy is None else {"insecureEdgeTerminationPolicy": policy})
    return made


@pytest.mark.parametrize(
    ("policy", "status", "secure"),
    [(None, 503, True), ("None", 503, True), ("Redirect", 302, True), ("Allow", 200, False)],
)
def test_edge_routes_end_tls_here_and_plain_http_gets_what_the_policy_says(
    running: Any, pods: Callable[[str], int], policy: str | None, status: int, secure: bool
) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(edge(policy))
        await driver.settle()
        [(code, body, cookie)] = await driver.get(tls=True)
        assert (code, body) == (200, "blue")
        assert ("; Secure" in cookie, "SameSite=None" in cookie) == (secure, secure)
        [(plain, _, noted)] = await driver.get(path="/predict?x=1")
        assert plain == status
        if policy == "Redirect":
            assert noted == f"https://{HOST}:{driver.listeners.https_port}/predict?x=1"

    running(test)


def test_a_plain_route_is_not_served_by_tls(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        assert [code for code, *_ in await driver.get(tls=True)] == [503]
        assert [code for code, *_ in await driver.get()] == [200]

    running(test)


def test_hosts_are_generated_only_where_absent_and_a_deleted_route_answers_503(
    running: Any, pods: Callable[[str], int]
) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        named = route("named", {"blue": 1})
        named["spec"]["host"] = "named.example"
        driver.create(named)
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        assert driver.route("heat")["spec"]["host"] == HOST
        assert driver.route("named")["spec"]["host"] == "named.example"
        assert [body for _, body, _ in await driver.get("named.example")] == ["blue"]
        driver.api.delete("routes", "heat")
        await driver.settle()
        assert [code for code, *_ in await driver.get()] == [503]

    running(test)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": "/v1"}, "NotSupported"),
        ({"tls": {"termination": "passthrough"}}, "NotSupported"),
        ({"wildcardPolicy": "Subdomain"}, "NotSupported"),
        ({"host": "Not A Host\n"}, "InvalidHost"),
    ],
)
def test_what_the_router_does_not_carry_is_refused_by_name_and_disturbs_nobody(
    running: Any, pods: Callable[[str], int], change: dict[str, Any], reason: str
) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        bad = route("bad", {"blue": 1})
        bad["spec"] |= {"host": "bad.example"} | change
        driver.create(bad)
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        [entry] = driver.route("bad")["status"]["ingress"]
        assert (entry["conditions"][0]["status"], entry["conditions"][0]["reason"]) == ("False", reason)
        assert await driver.counts(2) == {"blue": 2}

    running(test)


def test_status_written_on_an_old_version_is_judged_anew_and_other_routers_entries_stay(
    running: Any, pods: Callable[[str], int]
) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        other = {"host": HOST, "routerName": "sharded", "conditions": [{"type": "Admitted", "status": "True"}]}
        driver.api.before_patch.append(lambda: driver.patch("heat", {"status": {"ingress": [other]}}))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        assert [e["routerName"] for e in driver.route("heat")["status"]["ingress"]] == ["sharded", "default"]
        assert driver.api.before_patch == []

    running(test)


def test_an_expired_watch_lists_again(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 1, "green": 0}))
        await driver.settle()
        before = driver.api.requests.count(("list", "routes"))
        with driver.api.change:  # the event is in no history: only a list can tell of it
            driver.patch("heat", {"spec": route("heat", {"blue": 0, "green": 1})["spec"]})
            driver.api.compact()
        await driver.settle()
        assert driver.api.requests.count(("list", "routes")) == before + 1
        assert await driver.counts(2) == {"green": 2}

    running(test)


def test_traffic_flows_while_the_api_server_is_away_and_what_changed_meanwhile_is_found(
    running: Any, pods: Callable[[str], int]
) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 1}))
        driver.create(route("gone", {"blue": 1}))
        await driver.settle()
        for _ in range(2):
            driver.api.stop()
            assert await driver.counts(3) == {"blue": 3}
            await driver.healthy(200)
            with driver.api.change:
                driver.patch("heat", {"spec": route("heat", {"green": 1})["spec"]})
                driver.api.compact()
            driver.api.start()
            await driver.settle()
            assert await driver.counts(3) == {"green": 3}
            driver.patch("heat", {"spec": route("heat", {"blue": 1})["spec"]})
            await driver.settle()

    running(test)


def test_changes_within_the_reload_interval_are_one_reload(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.endpoints("green", pods("green"))
        driver.create(route("heat", {"blue": 100, "green": 1}))
        await driver.settle()
        before = driver.log.count("router: configuration")
        for weight in range(2, 30):
            driver.patch("heat", {"spec": route("heat", {"blue": 100, "green": weight})["spec"]})
            await asyncio.sleep(0.02)
        await driver.settle()
        assert driver.log.count("router: configuration") - before <= 2

    running(test, reload_seconds=2.0)


def test_sigterm_ends_haproxy_too_and_a_new_life_takes_over(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        certificate, first = (driver.state / "router-ca.crt").read_text(), driver.haproxy()
        assert await driver.end() == 0
        assert wait_gone(first)
        await driver.healthy(None)
        assert "Traceback" not in (driver.state / "out").read_text()
        driver.start()
        await driver.healthy(200)
        await driver.settle()
        assert await driver.counts(2) == {"blue": 2}
        assert (driver.state / "router-ca.crt").read_text() == certificate

    running(test)


def test_it_is_not_ready_before_the_api_server_has_answered(running: Any) -> None:
    async def test(driver: Lab) -> None:
        assert await driver.end() == 0
        driver.api.stop()
        driver.start()
        await driver.healthy(503)
        driver.api.start()
        await driver.healthy(200)

    running(test)


def test_a_killed_router_takes_haproxy_with_it_and_starts_again(running: Any, pods: Callable[[str], int]) -> None:
    async def test(driver: Lab) -> None:
        driver.endpoints("blue", pods("blue"))
        driver.create(route("heat", {"blue": 1}))
        await driver.settle()
        first = driver.haproxy()
        assert driver.process is not None
        driver.process.kill()
        driver.process.wait()
        assert wait_gone(first)
        driver.start()
        await driver.healthy(200)
        assert await driver.counts(2) == {"blue": 2}

    running(test)
