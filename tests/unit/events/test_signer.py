"""The signer: what shows one of the secrets as its token goes on signed, and the token itself never."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Quiet, served

from isotherm.events import signer

TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
KINDS = st.sampled_from(sorted(signer.SENDERS))


def shown(kind: str, token: str) -> dict[str, str]:
    sender = signer.SENDERS[kind]
    return {sender.header: sender.scheme + token, "Content-Type": "application/json", "X-Other": token}


@given(KINDS, TOKENS, TOKENS, st.binary(max_size=200))
def test_a_body_goes_on_signed_by_the_secret_that_its_token_is(kind: str, token: str, other: str, body: bytes) -> None:
    headers = signer.signed(signer.SENDERS[kind], shown(kind, token), body, [other.encode(), token.encode()])
    wanted = hmac.new(token.encode(), body, hashlib.sha256).hexdigest()
    assert headers == {"Content-Type": "application/json", signer.SIGNATURE: f"sha256={wanted}"}


@given(KINDS, TOKENS, st.lists(TOKENS, max_size=3))
def test_any_other_token_is_refused(kind: str, token: str, held: list[str]) -> None:
    secrets = [one.encode() for one in held if one != token]
    with pytest.raises(signer.Unauthorised):
        signer.signed(signer.SENDERS[kind], shown(kind, token), b"{}", secrets)


@pytest.mark.parametrize("given_as", ["", "Bearer", "Bearer ", "Basic abc", "abc", "bearer abc"])
def test_only_a_bearer_token_counts(given_as: str) -> None:
    with pytest.raises(signer.Unauthorised):
        signer.signed(signer.SENDERS["alerts"], {"Authorization": given_as}, b"{}", [b"abc"])


@pytest.mark.parametrize("stored", [b"abc", b"abc\n", b"Bearer abc"])
def test_a_secret_signs_by_its_bytes_as_triggers_reads_them(stored: bytes) -> None:
    headers = signer.signed(signer.SENDERS["alerts"], {"Authorization": "Bearer abc"}, b"{}", [stored])
    assert headers[signer.SIGNATURE] == signer.signature(stored, b"{}")


@dataclass
class Listener:
    """A real HTTP server in a listener's place."""

    url: str
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    class Handler(Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.seen.append((self.path, dict(self.headers), body))
            self.send_response(202)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with served(Handler) as url:
        found = Listener(f"{url}/{{}}")
        yield found


def asked(folder: Path, url: str, kind: str, headers: dict[str, str], body: bytes = b"{}") -> int:
    """Status of one request to the signer."""

    async def ask() -> int:
        async with httpx.AsyncClient(trust_env=False) as out:
            transport = httpx.ASGITransport(signer.create_app(folder, out, url))
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return (await client.post(f"/{kind}", content=body, headers=headers)).status_code

    return anyio.run(ask)


def test_the_listener_gets_body_and_signature_and_no_token(listener: Listener, tmp_path: Path) -> None:
    for number, (kind, sender) in enumerate(signer.SENDERS.items()):
        folder = tmp_path / sender.secret
        folder.mkdir(exist_ok=True)
        token = f"token-{number}"
        (folder / "previous").write_text(token)
        body = b'{"number": %d}' % number
        assert asked(tmp_path, listener.url, kind, shown(kind, token), body) == httpx.codes.ACCEPTED
        path, headers, got = listener.seen[-1]
        assert (path, got) == (f"/{sender.listener}", body)
        assert headers[signer.SIGNATURE] == signer.signature(token.encode(), body)
        assert token not in str(headers)


def test_a_secret_that_is_replaced_counts_from_the_next_event(listener: Listener, tmp_path: Path) -> None:
    folder = tmp_path / "webhook-alerts"
    assert asked(tmp_path, listener.url, "alerts", shown("alerts", "new")) == httpx.codes.UNAUTHORIZED
    folder.mkdir()
    (folder / "current").write_text("new")
    assert asked(tmp_path, listener.url, "alerts", shown("alerts", "new")) == httpx.codes.ACCEPTED
    (folder / "current").write_text("newer")
    assert asked(tmp_path, listener.url, "alerts", shown("alerts", "new")) == httpx.codes.UNAUTHORIZED
    assert len(listener.seen) == 1


def test_a_listener_that_is_away_is_a_503_so_that_alertmanager_sends_again(tmp_path: Path) -> None:
    (tmp_path / "webhook-alerts").mkdir()
    (tmp_path / "webhook-alerts/current").write_text("abc")
    got = asked(tmp_path, "http://127.0.0.1:9/{}", "alerts", shown("alerts", "abc"))
    assert got == httpx.codes.SERVICE_UNAVAILABLE


def test_an_unknown_event_is_not_found(tmp_path: Path) -> None:
    assert asked(tmp_path, "http://127.0.0.1:9/{}", "other", {}) == httpx.codes.NOT_FOUND
