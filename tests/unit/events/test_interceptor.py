"""The interceptor: MLflow's own signatures pass, nothing else does, and the listener can trust its certificate."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from events_api import EventsApi, events_api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.webhooks.delivery import _generate_hmac_signature
from mlflow_server import free_port

from isotherm import kube, tekton
from isotherm.events import certificate, mlflow_webhook
from isotherm.events.mlflow_webhook import Request, Webhook

__all__ = ["events_api"]
NOW = 1_780_000_000
PARAMS = {"models": ["plate"], "aliases": ["champion"]}


def event(**data: Any) -> str:
    fields = {"name": "plate", "alias": "champion", "version": "7", **data}
    # As MLflow writes it: json.dumps of the whole payload, spaces and all.
    return json.dumps(
        {"entity": "model_version_alias", "action": "created", "timestamp": "2026-05-28T20:26:40Z", "data": fields}
    )


def signed(
    secret: str, body: str, *, delivery: str = "d-1", stamp: str = str(NOW), signature: str | None = None
) -> dict[str, Any]:
    """An InterceptorRequest with the header keys as Go spells them."""
    header = {
        "X-Mlflow-Signature": [signature or _generate_hmac_signature(secret, delivery, stamp, body)],
        "X-Mlflow-Delivery-Id": [delivery], "X-Mlflow-Timestamp": [stamp], "Content-Type": ["application/json"],
    }  # fmt: skip
    context = {"event_url": "/", "event_id": "e", "trigger_id": "namespaces/plates/triggers/mlflow"}
    return {"body": body, "header": header, "interceptor_params": PARAMS, "context": context}


@pytest.fixture
def secret(tmp_path: Path) -> str:
    made = secrets.token_hex(16)
    (tmp_path / "current").write_text(made + "\n")
    return made


@pytest.fixture
def webhook(tmp_path: Path, secret: str) -> Webhook:
    return Webhook(tmp_path, clock=lambda: NOW)


def ask(webhook: Webhook, request: dict[str, Any]) -> dict[str, Any]:
    return webhook.answer(Request.model_validate_json(json.dumps(request)))


def test_mlflows_own_signature_passes_and_names_the_run(webhook: Webhook, secret: str) -> None:
    assert ask(webhook, signed(secret, event())) == {
        "continue": True, "status": {"code": 0, "message": ""},
        "extensions": {"isotherm": {"model": "plate", "version": "7", "alias": "champion", "name": "deploy-plate-v7"}},
    }  # fmt: skip


def test_old_and_new_secret_are_valid_together(webhook: Webhook, secret: str, tmp_path: Path) -> None:
    new = secrets.token_hex(16)
    (tmp_path / "previous").write_text(secret)
    (tmp_path / "current").write_text(new)
    assert ask(webhook, signed(secret, event()))["continue"]
    assert ask(webhook, signed(new, event(), delivery="d-2"))["continue"]
    (tmp_path / "previous").unlink()
    assert not ask(webhook, signed(secret, event(), delivery="d-3"))["continue"]


def test_without_any_secret_nothing_passes(webhook: Webhook, secret: str, tmp_path: Path) -> None:
    (tmp_path / "current").write_text("\n")
    answer = ask(webhook, signed("", event()))
    assert (answer["continue"], answer["status"]["code"]) == (False, 13)


def test_a_delivery_passes_once_per_trigger(webhook: Webhook, secret: str) -> None:
    request = signed(secret, event())
    assert ask(webhook, request)["continue"]
    again = ask(webhook, request)
    assert (again["continue"], again["status"]) == (False, {"code": 9, "message": "delivery d-1 was here before"})
    assert ask(webhook, {**request, "context": {"trigger_id": "namespaces/plates/triggers/other"}})["continue"]


def test_a_replay_cannot_outlive_the_memory(webhook: Webhook, secret: str) -> None:
    """Whenever a delivery's age would pass, its id is remembered, even when its clock was ahead."""
    request = signed(secret, event(), stamp=str(NOW + 300))
    passed = 0
    for second in range(0, 1300, 50):
        webhook.clock = lambda s=second: NOW + s
        passed += ask(webhook, request)["continue"]
    assert passed == 1


@pytest.mark.parametrize(("age", "passes"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_the_timestamp_may_be_five_minutes_off(webhook: Webhook, secret: str, age: int, passes: bool) -> None:
    assert ask(webhook, signed(secret, event(), stamp=str(NOW - age)))["continue"] is passes


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"entity": "model_version"}, 9), ({"action": "deleted"}, 9), ({"data": {"alias": "challenger"}}, 9),
        ({"data": {"name": "other"}}, 9), ({"data": {"version": "7a"}}, 3), ({"data": {"version": "0"}}, 3),
        ({"data": {"version": "$(uid)"}}, 3), ({"data": {"version": 7}}, 3), ({"data": {"version": None}}, 3),
        ({"data": []}, 3), ({"entity": None}, 3),
    ],
    ids=str,
)  # fmt: skip
def test_only_the_events_of_the_trigger_pass(webhook: Webhook, secret: str, change: dict[str, Any], code: int) -> None:
    body = json.loads(event())
    data = change.pop("data", {})
    body |= change
    body["data"] = {**body["data"], **data} if isinstance(data, dict) else data
    answer = ask(webhook, signed(secret, json.dumps(body)))
    assert (answer["continue"], answer["status"]["code"]) == (False, code)


def test_a_model_that_cannot_name_a_run_is_refused_even_when_the_trigger_lists_it(
    webhook: Webhook, secret: str
) -> None:
    for name in ("My Model", "a" * 51, "x\n", '"'):
        request = {**signed(secret, event(name=name)), "interceptor_params": {"models": [name]}}
        assert ask(webhook, request)["status"]["code"] == 3


@pytest.mark.parametrize("header", ["X-Mlflow-Signature", "X-Mlflow-Delivery-Id", "X-Mlflow-Timestamp"])
@pytest.mark.parametrize("values", [[], ["a", "b"], [""], ["١"], ["\n"]], ids=ascii)
def test_a_header_that_is_not_as_mlflow_sends_it_is_refused(
    webhook: Webhook, secret: str, header: str, values: list[str]
) -> None:
    request = signed(secret, event())
    request["header"][header] = values
    assert ask(webhook, request)["status"]["code"] == 9


@pytest.mark.parametrize(
    "params", [{}, {"models": []}, {"models": "plate"}, {"models": ["plate"], "alias": "x"}], ids=str
)
def test_a_trigger_with_wrong_params_is_told(webhook: Webhook, secret: str, params: dict[str, Any]) -> None:
    assert ask(webhook, {**signed(secret, event()), "interceptor_params": params})["status"]["code"] == 3


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["body", "delivery", "stamp", "signature"]), at=st.integers(0, 300), by=st.integers(1, 9))
def test_one_changed_character_anywhere_is_refused(webhook: Webhook, secret: str, part: str, at: int, by: int) -> None:
    request = signed(secret, event())
    names = {"delivery": "X-Mlflow-Delivery-Id", "stamp": "X-Mlflow-Timestamp", "signature": "X-Mlflow-Signature"}
    text = request["body"] if part == "body" else request["header"][names[part]][0]
    at %= len(text)
    text = text[:at] + chr((ord(text[at]) - 33 + by) % 94 + 33) + text[at + 1 :]
    if part == "body":
        request["body"] = text
    else:
        request["header"][names[part]] = [text]
    answer = ask(webhook, request)
    assert answer["continue"] is False
    assert secret not in json.dumps(answer)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_signed_body_is_answered(webhook: Webhook, secret: str, body: str) -> None:
    request = {**signed(secret, ""), "body": body}
    request["header"]["X-Mlflow-Signature"] = [
        mlflow_webhook.signature(secret.encode(), f"d-1.{NOW}.{body}".encode("utf-8", "surrogatepass")).decode()
    ]
    assert ask(webhook, request)["status"]["code"] == 3


def test_the_memory_of_deliveries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_webhook, "KEPT_DELIVERIES", 10)
    deliveries = mlflow_webhook.Deliveries()
    assert all(deliveries.first("t", str(n), NOW) for n in range(100))
    assert len(deliveries.seen) == 10
    assert not deliveries.first("t", "99", NOW)
    assert deliveries.first("t", "new", NOW + 601)
    assert list(deliveries.seen) == [("t", "new")]


@contextlib.contextmanager
def program(log: Path, env: dict[str, str], *arguments: str, url: str, **options: Any) -> Iterator[httpx.Client]:
    """Run the interceptor in a process of its own until it answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "isotherm.events.interceptor", *arguments], env=env, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=url, timeout=10, **options) as client:
            deadline = time.monotonic() + 30
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/healthz").status_code == 200:
                        break
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(10)


def test_the_plain_server_answers_as_triggers_expects(tmp_path: Path, secret: str) -> None:
    port, log = free_port(), tmp_path / "log"
    root = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": str(root / "images"), "SECRETS_DIR": str(tmp_path)}
    with program(log, env, "--plain", str(port), url=f"http://127.0.0.1:{port}") as client:
        request = signed(secret, event(), stamp=str(int(time.time())))
        answer = client.post("/mlflow", json=request)
        assert (answer.status_code, answer.json()["continue"]) == (200, True)
        assert client.post("/mlflow", json=request).json()["continue"] is False
        assert client.post("/mlflow", content=b"{").status_code == 400
        assert client.post("/mlflow", json={**request, "body": "x" * (1 << 20)}).status_code == 413
        assert client.post("/other", json=request).status_code == 404
        assert client.get("/mlflow").status_code == 405
        forged = signed(secrets.token_hex(16), event(), stamp=str(int(time.time())), delivery="d-2")
        assert client.post("/mlflow", json=forged).json()["continue"] is False
    text = log.read_text()
    assert "passed deploy-plate-v7" in text
    assert "signature of delivery d-2 does not match" in text
    hidden = [secret, request["header"]["X-Mlflow-Signature"][0], forged["header"]["X-Mlflow-Signature"][0]]
    assert not [one for one in hidden if one in text]


INTERCEPTOR = {
    "apiVersion": "triggers.tekton.dev/v1alpha1", "kind": "Interceptor",
    "metadata": {"name": "isotherm", "labels": {"server/type": "https"}},
    "spec": {"clientConfig": {"service": {"name": "isotherm-interceptor", "namespace": "plates", "port": 8443}}},
}  # fmt: skip


def trusting(stored: dict[str, Any]) -> ssl.SSLContext:
    """A client that trusts what the Interceptor names, as the listener does, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=base64.b64decode(stored["spec"]["clientConfig"]["caBundle"]).decode())
    return context


def handshake(context: ssl.SSLContext, port: int, name: str) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw, server_hostname=name):
        pass


def test_the_listener_can_trust_the_server_by_its_interceptor(
    events_api: EventsApi, tmp_path: Path, secret: str
) -> None:
    cluster, port = events_api.cluster(), free_port()
    cluster.create(kube.INTERCEPTOR, INTERCEPTOR)
    env = {
        **events_api.environment(), "SECRETS_DIR": str(tmp_path), "INTERCEPTOR_NAME": "isotherm",
        "SERVICE_NAME": "isotherm-interceptor",
    }  # fmt: skip
    with program(tmp_path / "log", env, "--port", str(port), url=f"https://127.0.0.1:{port}", verify=False):
        stored = cluster.get(kube.INTERCEPTOR, "isotherm")
        assert stored is not None
        assert stored["spec"]["clientConfig"]["service"]["port"] == 8443, "a merge-patch keeps the rest"
        for name in ("isotherm-interceptor", "isotherm-interceptor.plates", "isotherm-interceptor.plates.svc"):
            handshake(trusting(stored), port, name)
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(trusting(stored), port, "other.plates.svc")
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(ssl.create_default_context(), port, "isotherm-interceptor.plates.svc")


def test_the_bundle_keeps_other_replicas_and_drops_what_expired() -> None:
    now = datetime.now(UTC)
    cas = [certificate.make("s", "n").ca for _ in range(5)]
    expired = certificate.make("s", "n", now - timedelta(days=certificate.VALID_DAYS + 1)).ca
    held = ""
    for ca in (expired, *cas):
        held = certificate.bundle(held, ca, now)
    kept = base64.b64decode(held)
    assert kept.count(b"BEGIN CERTIFICATE") == certificate.KEPT_CAS
    assert all((ca in kept) is (ca != cas[0]) for ca in cas)
    assert expired not in kept
    assert base64.b64decode(certificate.bundle("no PEM", cas[0], now)) == cas[0]


def test_an_interceptor_that_is_not_there_is_one_line(events_api: EventsApi) -> None:
    with pytest.raises(tekton.BadInput, match="no Interceptor absent"):
        certificate.publish(events_api.cluster("empty"), "absent", certificate.make("s", "n").ca)


def test_a_server_that_starts_before_its_interceptor_waits_for_it(events_api: EventsApi) -> None:
    """`oc apply -k` creates the Deployment first."""
    cluster = events_api.cluster("later")
    began = time.monotonic()
    certificate.wait_for(cluster, "isotherm", seconds=0)
    threading.Timer(1.5, cluster.create, (kube.INTERCEPTOR, INTERCEPTOR)).start()
    certificate.wait_for(cluster, "isotherm", seconds=30)
    assert 1 < time.monotonic() - began < 25
    assert certificate.publish(cluster, "isotherm", certificate.make("s", "n").ca)
