"""What reaches a listener: by which way, how large, how often."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
from collections.abc import Iterator

import httpx
import pytest
from lab import mlflow, routes
from waiting import eventually

from e2e.events import INSIDE, PUBLIC, Events, fresh
from isotherm_local.events import payloads

LIMIT = 1 << 20


def raw(events: Events, port: int, path: str, method: str = "POST") -> int:
    """Status of a request whose path no client library has tidied."""
    connection = http.client.HTTPConnection(events.door, port, timeout=10)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.core
@pytest.mark.parametrize(
    "path", ["/alerts", "/registry", "/lakefs", "/schedule", "/", "/git/../schedule", "/git%2f../schedule"]
)
def test_from_outside_only_git_and_grafana_can_be_reached(events: Events, path: str) -> None:
    assert raw(events, PUBLIC, path) == httpx.codes.NOT_FOUND


@pytest.mark.core
def test_only_posts_are_taken(events: Events) -> None:
    assert raw(events, INSIDE, "/schedule", "GET") == httpx.codes.METHOD_NOT_ALLOWED
    assert raw(events, INSIDE, "/unknown") == httpx.codes.NOT_FOUND


def in_parts(size: int) -> Iterator[bytes]:
    """A body whose length no header tells."""
    for _ in range(size // 1024):
        yield b" " * 1024


@pytest.mark.core
@pytest.mark.parametrize("told", [True, False], ids=["Content-Length", "chunked"])
def test_a_body_above_the_limit_never_reaches_the_listener(events: Events, *, told: bool) -> None:
    content = os.urandom(LIMIT + 1) if told else in_parts(LIMIT + 2048)
    answer = httpx.post(events.url("github"), content=content, timeout=20)
    assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert "nginx/" not in answer.text


def test_a_push_of_many_commits_within_the_limit_makes_its_run(events: Events) -> None:
    name = events.send("github", [*fresh("github"), ("padding", "x" * (LIMIT - 64 * 1024))])
    eventually(lambda: events.matching(name), 30)


def test_a_flood_is_told_to_come_again_and_other_events_still_pass(events: Events) -> None:
    """503: after 4xx Alertmanager would drop its alert."""
    # One client: each of its own would spend its time on reading certificates.
    with httpx.Client(timeout=30, limits=httpx.Limits(max_connections=200)) as client:
        with concurrent.futures.ThreadPoolExecutor(max_workers=200) as pool:
            url = events.url("github")
            seen = list(pool.map(lambda _: client.post(url, content=b"{}").status_code, range(400)))
        other = events.send("schedule", fresh("schedule"))
    assert set(seen) == {httpx.codes.ACCEPTED, httpx.codes.SERVICE_UNAVAILABLE}
    eventually(lambda: events.matching(other), 30)
    restarts = [
        status["restartCount"] for pod in events.get("pods")["items"] for status in pod["status"]["containerStatuses"]
    ]
    assert sum(restarts) == 0


def test_a_push_by_the_tls_route_makes_its_run(events: Events) -> None:
    if events.target.mlflow != mlflow.URL:
        pytest.skip("the router's address is known of the lab alone")
    host = eventually(lambda: events.get("route", "events").get("status", {}).get("ingress"), 30)[0]["host"]
    request = events.signed("github", fresh("github"))
    secure = events.target.router.replace("http://", "https://").replace(str(routes.HTTP_PORT), str(routes.HTTPS_PORT))

    def posted(url: str) -> int:
        headers = dict(request.headers) | {"Host": host}
        extensions = {"sni_hostname": host}
        with httpx.Client(verify=False, timeout=10) as client:
            return client.post(url, content=request.body, headers=headers, extensions=extensions).status_code

    assert eventually(lambda: posted(f"{secure}/git") == httpx.codes.ACCEPTED, 30)
    pattern = payloads.names("github", json.loads(request.body))
    assert pattern
    eventually(lambda: events.matching(pattern.pattern), 30)
    assert posted(f"{secure}/schedule") == httpx.codes.NOT_FOUND
    assert posted(f"{events.target.router}/git") != httpx.codes.ACCEPTED, "a secret may not travel in the clear"
