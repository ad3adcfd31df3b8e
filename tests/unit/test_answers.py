"""An answer is bounded as a whole: in time where the server drips, in size where it goes on and on."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from serving import Quiet, served

from isotherm.deploy import answers

HEAD = b"HTTP/1.1 200 OK\r\n"
Send = Callable[[bytes], object]


def answering(answer: Callable[[Send], None]) -> AbstractContextManager[str]:
    """A server that sends what it is told to, and does not mind a client that has gone."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            try:
                answer(self.wfile.write)
            except OSError:
                return

    return served(Handler)


def asked(url: str, seconds: float) -> httpx.Response:
    with httpx.Client(timeout=seconds, trust_env=False) as client:
        return answers.get(client, url)


def drips(send: Send) -> None:
    send(HEAD + b"Content-Length: 1000\r\n\r\n")
    for _ in range(1000):
        send(b" ")
        time.sleep(0.05)


def never_ends(send: Send) -> None:
    send(HEAD + b"\r\n")
    for _ in itertools.count():
        send(b"0" * (1 << 16))


def silent(_: Send) -> None:
    time.sleep(1)


def test_a_server_that_drips_is_too_slow_as_a_whole() -> None:
    with answering(drips) as url, pytest.raises(httpx.ReadTimeout, match=r"longer than 0\.3 s"):
        asked(url, 0.3)


def test_a_server_that_says_nothing_is_too_slow() -> None:
    with answering(silent) as url, pytest.raises(httpx.ReadTimeout):
        asked(url, 0.2)


def test_an_answer_that_goes_on_and_on_is_left() -> None:
    with answering(never_ends) as url, pytest.raises(httpx.ReadError, match="longer than 4194304 bytes"):
        asked(url, 30)


def test_a_small_answer_that_unpacks_to_a_large_one_is_left() -> None:
    packed = gzip.compress(b"0" * (2 * answers.BODY_LIMIT))

    def bomb(send: Send) -> None:
        send(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)

    with answering(bomb) as url, pytest.raises(httpx.ReadError, match="longer"):
        asked(url, 30)


def test_a_packed_answer_is_read_as_what_it_says() -> None:
    packed = gzip.compress(json.dumps({"u": 1.5}).encode())

    def answer(send: Send) -> None:
        send(HEAD + b"Content-Encoding: gzip\r\nX-Own: yes\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)

    with answering(answer) as url:
        found = asked(url, 10)
    assert (found.status_code, found.json(), found.headers["x-own"]) == (200, {"u": 1.5}, "yes")
    assert "content-encoding" not in found.headers
