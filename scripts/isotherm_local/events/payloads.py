"""Requests as the senders of events make them: a recorded payload, changed where asked, and signed as that sender does.

Reads  triggers/payloads/KIND.json (or a file of the caller's)
Gives  a `Request`: headers and the exact bytes of the body
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotherm import contract, tekton
from isotherm.events import signer

ROOT = Path(__file__).resolve().parents[3]
RECORDED = ROOT / "triggers" / "payloads"
_SHA_DIGITS = 12
_STARTED_DIGITS = 14
_BEARER = "Bearer "


@dataclass(frozen=True)
class Delivery:
    """What a sender makes anew for each request: an id, and the time in whole seconds since 1970."""

    identifier: str
    seconds: int

    @classmethod
    def now(cls) -> Delivery:
        """Make the next one."""
        return cls(str(uuid.uuid4()), int(time.time()))


@dataclass(frozen=True)
class Request:
    """One HTTP request of an event, signed."""

    kind: str
    headers: Mapping[str, str]
    body: bytes

    def raw(self) -> bytes:
        """Write it as it goes over the wire."""
        lines = ["POST / HTTP/1.1", "Host: listener", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def _sha256(secret: bytes, message: bytes) -> bytes:
    return hmac.new(secret, message, hashlib.sha256).digest()


def _github(body: bytes, secret: bytes, delivery: Delivery) -> dict[str, str]:
    return {
        "User-Agent": "GitHub-Hookshot/a1b2c3d",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": delivery.identifier,
        "X-GitHub-Hook-ID": "512004188",
        "X-GitHub-Hook-Installation-Target-ID": "730114201",
        "X-GitHub-Hook-Installation-Target-Type": "repository",
        "X-Hub-Signature": "sha1=" + hmac.new(secret, body, "sha1").hexdigest(),
        signer.SIGNATURE: signer.signature(secret, body),
    }


def _gitea(body: bytes, secret: bytes, delivery: Delivery) -> dict[str, str]:
    signature = _sha256(secret, body).hex()
    headers = {"User-Agent": "Go-http-client/1.1"}
    for sender in ("Gitea", "Gogs", "GitHub"):
        headers |= {
            f"X-{sender}-Delivery": delivery.identifier,
            f"X-{sender}-Event": "push",
            f"X-{sender}-Event-Type": "push",
        }
    return headers | {
        "X-Gitea-Signature": signature,
        "X-Gogs-Signature": signature,
        "X-Hub-Signature": "sha1=" + hmac.new(secret, body, "sha1").hexdigest(),
        signer.SIGNATURE: signer.signature(secret, body),
    }


def _gitlab(_: bytes, secret: bytes, delivery: Delivery) -> dict[str, str]:
    return {
        "User-Agent": "GitLab/17.11.1",
        "X-Gitlab-Event": "Push Hook",
        "X-Gitlab-Event-UUID": delivery.identifier,
        "X-Gitlab-Instance": "https://gitlab.example.com",
        "X-Gitlab-Token": secret.decode("latin-1"),
        "X-Gitlab-Webhook-UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, "https://gitlab.example.com/hooks/17")),
        "Idempotency-Key": delivery.identifier,
    }


def _mlflow(body: bytes, secret: bytes, delivery: Delivery) -> dict[str, str]:
    signed = f"{delivery.identifier}.{delivery.seconds}.".encode() + body
    return {
        "X-MLflow-Delivery-Id": delivery.identifier,
        "X-MLflow-Timestamp": str(delivery.seconds),
        "X-MLflow-Signature": "v1," + base64.b64encode(_sha256(secret, signed)).decode(),
    }


def _bearer(agent: str) -> Callable[[bytes, bytes, Delivery], dict[str, str]]:
    def sign(_: bytes, secret: bytes, __: Delivery) -> dict[str, str]:
        return {"User-Agent": agent, "Authorization": authorization(secret)}

    return sign


def authorization(secret: bytes) -> str:
    """Give the header of a bearer token, which may be given with or without `Bearer ` before it."""
    text = secret.decode("latin-1")
    return text if text.startswith(_BEARER) else _BEARER + text


def _push_name(body: Any) -> str:
    return f"(data|build)-.+-{re.escape(body['after'][:_SHA_DIGITS])}"


def _alert_name(body: Any) -> str:
    alert = next(one for one in body["alerts"] if one["status"] == "firing")
    started = re.sub(r"[^0-9]", "", alert["startsAt"])[:_STARTED_DIGITS]
    return re.escape(f"retrain-{alert['fingerprint']}-{started}")


def _registry_name(body: Any) -> str:
    return re.escape(f"deploy-{body['data']['name']}-v{body['data']['version']}")


def _lakefs_name(body: Any) -> str:
    return re.escape(f"lakefs-{body['repository_id']}-{body['commit_id'][:_SHA_DIGITS]}")


def _schedule_name(body: Any) -> str:
    return re.escape(f"schedule-{body['model']}-{body['scheduled']}")


@dataclass(frozen=True)
class Sender:
    """How a kind of event is sent: `label` is its runs' isotherm.dev/event, `layout` how its JSON is written."""

    words: str
    label: str
    sign: Callable[[bytes, bytes, Delivery], dict[str, str]]
    name: Callable[[Any], str]
    layout: Mapping[str, Any]
    door: str = ""  # where it shows a token: the front door's signer knows the event by this name


_COMPACT: Mapping[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
_INDENTED: Mapping[str, Any] = {"indent": 2, "ensure_ascii": False}
_ALERTS = _bearer("Alertmanager/0.28.1"), _alert_name, _COMPACT
SENDERS: Mapping[str, Sender] = {
    "github": Sender("a push to GitHub", contract.EVENT_GIT, _github, _push_name, _COMPACT),
    "gitlab": Sender("a push to GitLab", contract.EVENT_GIT, _gitlab, _push_name, _COMPACT, "gitlab"),
    "gitea": Sender("a push to Gitea or Forgejo", contract.EVENT_GIT, _gitea, _push_name, _INDENTED),
    "alertmanager": Sender("a firing alert of Alertmanager", contract.EVENT_ALERT, *_ALERTS, "alerts"),
    "grafana": Sender(
        "a firing alert of Grafana", contract.EVENT_ALERT, _bearer("Grafana"), _alert_name, _COMPACT, "grafana"
    ),
    "mlflow": Sender("an alias set in MLflow's registry", contract.EVENT_REGISTRY, _mlflow, _registry_name, {}),
    "lakefs-merge": Sender(
        "a merge in lakeFS", contract.EVENT_LAKEFS, _bearer("lakeFS Webhooks/0.1"), _lakefs_name, _COMPACT, "lakefs"
    ),
    "lakefs-commit": Sender(
        "a commit in lakeFS", contract.EVENT_LAKEFS, _bearer("lakeFS Webhooks/0.1"), _lakefs_name, _COMPACT, "lakefs"
    ),
    "schedule": Sender(
        "the clock's call", contract.EVENT_SCHEDULE, _bearer("isotherm-schedule"), _schedule_name, _COMPACT, "schedule"
    ),
}


def recorded(kind: str, file: Path | None = None) -> Any:
    """Read the recorded payload of a kind, or one of the caller's. Raises `BadInput`."""
    path = file or RECORDED / f"{kind}.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise tekton.BadInput(
            f"payload {path} cannot be read ({error.strerror})", remedy="name a file that is there"
        ) from error
    except ValueError as error:
        raise tekton.BadInput(
            f"payload {path} is not JSON ({error})", remedy="give a payload as it was sent"
        ) from error
    if not isinstance(body, dict):
        raise tekton.BadInput(f"payload {path} is not a JSON object", remedy="give a payload as it was sent")
    return body


def _place(body: Any, path: str) -> tuple[Any, Any]:
    """Find the container and the key that a dotted path names. Raises `BadInput`."""
    *parents, last = path.split(".")
    here, keys = body, [*parents]
    try:
        for key in keys:
            here = here[int(key)] if isinstance(here, list) else here[key]
        if isinstance(here, list):
            here[int(last)]
            return here, int(last)
        if not isinstance(here, dict):
            raise KeyError(last)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise tekton.BadInput(
            f"the payload has no place {path!r}",
            remedy="name keys and numbers of list items, such as alerts.0.startsAt",
        ) from error
    return here, last


def _value(text: str, old: object) -> Any:
    """Read a value: text stays text where there was text, anything else is read as JSON."""
    if old is None or isinstance(old, str):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise tekton.BadInput(
            f"{text[:80]!r} is not JSON, and there is no text in its place", remedy="give JSON, such as 7, true or []"
        ) from error


def _everywhere(body: Any, old: str, new: str) -> Any:
    if isinstance(body, dict):
        return {key: _everywhere(value, old, new) for key, value in body.items()}
    if isinstance(body, list):
        return [_everywhere(value, old, new) for value in body]
    return body.replace(old, new) if isinstance(body, str) else body


def changed(body: Any, sets: Sequence[tuple[str, str]]) -> Any:
    """Set values by dotted paths; a path that ends in `:` takes JSON whatever was there. Raises `BadInput`.

    A new `after` or `before` of a push also replaces the old commit elsewhere (head commit, links), as a push has it.
    """
    for path, text in sets:
        name = path.removesuffix(":")
        place, key = _place(body, name)
        old = place.get(key) if isinstance(place, dict) else place[key]
        new = _value(text, 0 if path.endswith(":") else old)
        if name in ("after", "before") and isinstance(new, str) and isinstance(old, str) and old:
            body = _everywhere(body, old, new)
        else:
            place[key] = new
    return body


def request(kind: str, payload: Any, secret: bytes, delivery: Delivery | None = None) -> Request:
    """Write a payload as its sender does, and sign it."""
    sender = SENDERS[kind]
    body = json.dumps(payload, **sender.layout).encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json", **sender.sign(body, secret, delivery or Delivery.now())}
    return Request(kind, headers, body)


def behind_the_door(request: Request, secret: bytes) -> Request:
    """The request as its listener gets it: where the sender shows a token, the front door has signed instead.

    Raises `signer.Unauthorised` where the token is another than `secret`.
    """
    door = SENDERS[request.kind].door
    if not door:
        return request
    headers = signer.signed(signer.SENDERS[door], request.headers, request.body, [secret])
    return Request(request.kind, headers, request.body)


def names(kind: str, payload: Any) -> re.Pattern[str] | None:
    """Say how the run of an event is called; None where the payload lacks what the name is made of."""
    try:
        return re.compile(SENDERS[kind].name(payload))
    except (KeyError, StopIteration, TypeError, IndexError, AttributeError):
        return None


def secret_of(file: Path) -> bytes:
    """Read a secret from a file, without the line's end. Raises `BadInput`."""
    try:
        secret = file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise tekton.BadInput(
            f"secret file {file} cannot be read ({error.strerror})", remedy="name a file with the listener's secret"
        ) from error
    if not secret or b"\n" in secret or b"\r" in secret:
        raise tekton.BadInput(
            f"secret file {file} has not exactly one line", remedy="put the listener's secret there, on one line"
        )
    return secret
