"""Recorded events: what can be set in them, and signatures as an independent verification sees them."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm import tekton
from isotherm_local.events import payloads

SIGNED = ("github", "gitea", "mlflow")
BEARERS = tuple(kind for kind, sender in payloads.SENDERS.items() if sender.door and kind != "gitlab")
SECRET = secrets.token_bytes(20).hex().encode()
SHA = "0123456789abcdef0123456789abcdef01234567"
DELIVERY = payloads.Delivery("5b7e6a52-1f0c-4c1e-9a57-d0f1b3a90c11", 1785136446)


def hmac_sha256(secret: bytes, message: bytes) -> bytes:
    """HMAC as RFC 2104 writes it, without the library that signs."""
    block = (hashlib.sha256(secret).digest() if len(secret) > 64 else secret).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def verifies(kind: str, secret: bytes, body: bytes, headers: Any) -> bool:
    """What a receiver checks of a signed request."""
    if kind == "mlflow":
        signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.".encode() + body
        return bool(headers["X-MLflow-Signature"] == "v1," + base64.b64encode(hmac_sha256(secret, signed)).decode())
    return bool(headers["X-Hub-Signature-256"] == "sha256=" + hmac_sha256(secret, body).hex())


def made(kind: str, secret: bytes = SECRET, **sets: str) -> payloads.Request:
    payload = payloads.changed(payloads.recorded(kind), list(sets.items()))
    return payloads.request(kind, payload, secret, DELIVERY)


@pytest.mark.parametrize("kind", SIGNED)
@given(data=st.data())
def test_any_change_of_a_byte_breaks_the_signature(kind: str, data: st.DataObject) -> None:
    secret = data.draw(st.binary(min_size=1, max_size=100))
    request = made(kind, secret)
    assert verifies(kind, secret, request.body, request.headers)
    at = data.draw(st.integers(0, len(request.body) - 1))
    flipped = data.draw(st.integers(1, 255))
    body = request.body[:at] + bytes([request.body[at] ^ flipped]) + request.body[at + 1 :]
    assert not verifies(kind, secret, body, request.headers)
    assert not verifies(kind, secret + b"x", request.body, request.headers)


@pytest.mark.parametrize("header", ["X-MLflow-Delivery-Id", "X-MLflow-Timestamp"])
def test_mlflow_signs_delivery_and_time_too(header: str) -> None:
    request = made("mlflow")
    changed = {**request.headers, header: request.headers[header] + "0"}
    assert not verifies("mlflow", SECRET, request.body, changed)


def test_mlflow_itself_makes_the_same_signature() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    request = made("mlflow")
    theirs = _generate_hmac_signature(
        SECRET.decode(), DELIVERY.identifier, str(DELIVERY.seconds), request.body.decode()
    )
    assert request.headers["X-MLflow-Signature"] == theirs


@pytest.mark.parametrize("kind", payloads.SENDERS)
def test_every_kind_is_a_json_object_of_which_a_run_has_a_name(kind: str) -> None:
    payload = payloads.recorded(kind)
    request = payloads.request(kind, payload, SECRET)
    assert json.loads(request.body) == payload
    assert payloads.names(kind, payload) is not None
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("github", f"data-measurements-{SHA[:12]}"),
        ("gitlab", f"data-measurements-{SHA[:12]}"),
        ("gitea", f"data-measurements-{SHA[:12]}"),
    ],
)
def test_a_push_of_another_commit_names_it_everywhere(kind: str, name: str) -> None:
    old = payloads.recorded(kind)["after"]
    payload = payloads.changed(payloads.recorded(kind), [("after", SHA)])
    assert old not in json.dumps(payload)
    assert payload["commits"][-1]["id"] == payload["after"] == SHA
    pattern = payloads.names(kind, payload)
    assert pattern is not None
    assert pattern.fullmatch(name)
    assert not pattern.fullmatch(f"data-measurements-{old[:12]}")


def test_names_of_runs_come_from_the_event() -> None:
    expected = {
        "alertmanager": "retrain-9f1c27d4ab83e605-20260727063112",
        "mlflow": "deploy-inverse-heat-pinn-v7",
        "lakefs-merge": "lakefs-measurements-3e1f6ad09b27",
        "schedule": "schedule-inverse-heat-pinn-202607270300",
    }
    for kind, name in expected.items():
        pattern = payloads.names(kind, payloads.recorded(kind))
        assert pattern is not None
        assert pattern.fullmatch(name)
        assert len(name) <= 63
    assert payloads.names("alertmanager", {"alerts": [{"status": "resolved"}]}) is None


@pytest.mark.parametrize("kind", BEARERS)
@pytest.mark.parametrize("given_as", ["abc", "Bearer abc"])
def test_bearer_tokens_are_sent_once(kind: str, given_as: str) -> None:
    assert made(kind, given_as.encode()).headers["Authorization"] == "Bearer abc"


def test_forges_send_the_headers_that_interceptors_look_at() -> None:
    github, gitea, gitlab = made("github").headers, made("gitea").headers, made("gitlab").headers
    assert github["X-GitHub-Event"] == gitea["X-GitHub-Event"] == gitea["X-Gitea-Event"] == "push"
    assert github["X-GitHub-Delivery"] == gitea["X-Gitea-Delivery"] == DELIVERY.identifier
    assert gitea["X-Hub-Signature-256"] == "sha256=" + gitea["X-Gitea-Signature"]
    assert (gitlab["X-Gitlab-Event"], gitlab["X-Gitlab-Token"]) == ("Push Hook", SECRET.decode())


@given(word=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_goes_over_the_wire_is_the_signed_body(word: str) -> None:
    request = payloads.request("github", {"word": word}, SECRET, DELIVERY)
    head, _, body = request.raw().partition(b"\r\n\r\n")
    headers = parse_headers(BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    assert len(body) == int(headers["Content-Length"])
    assert verifies("github", SECRET, body, headers)
    assert json.loads(body) == {"word": word}


def test_values_keep_their_kind_unless_json_is_given() -> None:
    body = payloads.recorded("alertmanager")
    sets = [("version", "5"), ("truncatedAlerts", "3"), ("commonLabels.team", "x"), ("status:", "[1]")]
    changed = payloads.changed(body, sets)
    assert changed["version"] == "5"
    assert changed["truncatedAlerts"] == 3
    assert changed["commonLabels"]["team"] == "x"
    assert changed["status"] == [1]


@pytest.mark.parametrize(
    ("path", "value"),
    [("alerts.7.status", "x"), ("alerts.x", "x"), ("no.such", "x"), ("version.x", "1"), ("alerts", "x")],
)
def test_a_place_or_value_that_cannot_be_is_bad_input(path: str, value: str) -> None:
    with pytest.raises(tekton.BadInput):
        payloads.changed(payloads.recorded("alertmanager"), [(path, value)])


def test_secrets_come_from_files_of_one_line(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"abc\r\n")
    assert payloads.secret_of(file) == b"abc"
    for content in (b"", b"\n", b"a\nb\n"):
        file.write_bytes(content)
        with pytest.raises(tekton.BadInput, match="not exactly one line"):
            payloads.secret_of(file)
    with pytest.raises(tekton.BadInput, match="cannot be read"):
        payloads.secret_of(tmp_path / "nowhere")


def test_payloads_of_the_callers_own_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text('{"ref": "x"}')
    assert payloads.recorded("github", file) == {"ref": "x"}
    for content in ("[]", "{", "\udcff"):
        file.write_text(content, errors="surrogateescape")
        with pytest.raises(tekton.BadInput):
            payloads.recorded("github", file)
