"""What Triggers asks an interceptor about an MLflow webhook, and the answer: pure but for the clock and two files.

Reads   an InterceptorRequest (body as it came, header, interceptor_params), the secrets in a folder
Gives   an InterceptorResponse: `continue` with extensions `isotherm: {model, version, alias, name}`, or a status

MLflow signs `<delivery id>.<timestamp>.<body>` with HMAC-SHA256: `X-MLflow-Signature: v1,<base64>`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from isotherm import contract, tekton
from isotherm.events import keys, webhook_secrets

MAX_AGE_SECONDS = 300
KEPT_DELIVERIES = 10_000
SIGNATURE, DELIVERY, TIMESTAMP = "X-MLflow-Signature", "X-MLflow-Delivery-Id", "X-MLflow-Timestamp"
_DELIVERY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SECONDS = re.compile(r"[0-9]{1,12}")


class Code(IntEnum):
    """The gRPC codes that Triggers' own interceptors answer with."""

    OK = 0
    INVALID_ARGUMENT = 3
    FAILED_PRECONDITION = 9
    INTERNAL = 13


class Rejected(Exception):
    """The event does not pass: the code and a message that holds nothing of the event but checked values."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Params(BaseModel, extra="forbid"):
    """What a Trigger gives the interceptor: which models and aliases mean a deployment."""

    models: list[str] = Field(min_length=1)
    aliases: list[str] = Field(default=[contract.ALIAS_CHAMPION], min_length=1)


class Request(BaseModel):
    """InterceptorRequest, as far as it is used."""

    body: str = ""
    header: dict[str, list[str]] = {}
    interceptor_params: dict[str, Any] | None = None
    context: dict[str, Any] | None = None

    def one(self, name: str) -> str:
        """The value of a header that must be there once. Raises `Rejected`."""
        values = [value for key, found in self.header.items() if key.lower() == name.lower() for value in found]
        if len(values) != 1:
            raise Rejected(Code.FAILED_PRECONDITION, f"header {name} is there {len(values)} times, not once")
        return values[0]


class _Alias(BaseModel):
    name: str
    alias: str
    version: str


class _Event(BaseModel):
    entity: str
    action: str
    data: dict[str, Any]


@dataclass
class Deliveries:
    """The deliveries that passed, for as long as their timestamps would pass again."""

    seen: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def first(self, trigger: str, delivery: str, now: float) -> bool:
        """Note a delivery to a trigger; False where it was there before."""
        with self.lock:
            while self.seen and (
                len(self.seen) >= KEPT_DELIVERIES or next(iter(self.seen.values())) < now - 2 * MAX_AGE_SECONDS
            ):
                self.seen.popitem(last=False)
            if (trigger, delivery) in self.seen:
                return False
            self.seen[trigger, delivery] = now
            return True


@dataclass
class Webhook:
    """The judge of one endpoint: its secrets, its memory of deliveries, its clock."""

    secrets: Path
    deliveries: Deliveries = field(default_factory=Deliveries)
    clock: Callable[[], float] = time.time

    def answer(self, request: Request) -> dict[str, Any]:
        """Judge a request. Returns an InterceptorResponse."""
        try:
            found = self._judge(request)
        except Rejected as rejected:
            return refusal(rejected.code, rejected.message)
        return {"continue": True, "extensions": {contract.PART_OF: found}, "status": {"code": Code.OK, "message": ""}}

    def _judge(self, request: Request) -> dict[str, str]:
        try:
            params = Params.model_validate(request.interceptor_params or {})
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise Rejected(Code.INVALID_ARGUMENT, f"the trigger's param {where[:60]} is unusable") from None
        delivery, stamp = request.one(DELIVERY), request.one(TIMESTAMP)
        self._authenticate(request, delivery, stamp)
        found = _deployment(request.body, params)
        trigger = str((request.context or {}).get("trigger_id", ""))
        if not self.deliveries.first(trigger, delivery, self.clock()):
            raise Rejected(Code.FAILED_PRECONDITION, f"delivery {delivery} was here before")
        return found

    def _authenticate(self, request: Request, delivery: str, stamp: str) -> None:
        """Check the signature first, so that a forger learns nothing of the rest."""
        if not _DELIVERY_ID.fullmatch(delivery) or not stamp.isascii() or not _SECONDS.fullmatch(stamp):
            raise Rejected(Code.FAILED_PRECONDITION, "the delivery's id or timestamp is not as MLflow sends it")
        secrets = [secret.strip() for secret in webhook_secrets.read(self.secrets)]
        if not secrets:
            files = " or ".join(webhook_secrets.FILES)
            raise Rejected(Code.INTERNAL, f"there is no secret to check with: mount {files}")
        signed = f"{delivery}.{stamp}.{request.body}".encode("utf-8", "surrogatepass")
        given = request.one(SIGNATURE).encode("utf-8", "surrogatepass")
        # Every secret is tried: the time taken does not tell which one fits.
        fits = [hmac.compare_digest(signature(secret, signed), given) for secret in secrets]
        if not any(fits):
            raise Rejected(Code.FAILED_PRECONDITION, f"the signature of delivery {delivery} does not match")
        age = self.clock() - int(stamp)
        if abs(age) > MAX_AGE_SECONDS:
            raise Rejected(
                Code.FAILED_PRECONDITION,
                f"delivery {delivery} was signed {abs(age):.0f} s {'ago' if age > 0 else 'ahead'}, "
                f"more than {MAX_AGE_SECONDS} s",
            )


def signature(secret: bytes, signed: bytes) -> bytes:
    """Sign as MLflow does."""
    return b"v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest())


def refusal(code: Code, message: str) -> dict[str, Any]:
    """An InterceptorResponse that stops the trigger."""
    return {"continue": False, "status": {"code": int(code), "message": message}}


def _deployment(body: str, params: Params) -> dict[str, str]:
    """Read the event of an alias. Raises `Rejected` on any other, and on values that may not reach a template."""
    try:
        event = _Event.model_validate_json(body)
    except (ValidationError, ValueError):
        raise Rejected(Code.INVALID_ARGUMENT, "the body is no MLflow event") from None
    if (event.entity, event.action) != ("model_version_alias", "created"):
        raise Rejected(Code.FAILED_PRECONDITION, "the event is not the creation of an alias")
    alias = _alias(event.data)
    if alias.name not in params.models or alias.alias not in params.aliases:
        raise Rejected(Code.FAILED_PRECONDITION, "the event's model and alias are not those of this trigger")
    try:
        name = keys.deploy(alias.name, alias.version)
    except tekton.BadInput:
        raise Rejected(Code.INVALID_ARGUMENT, "the event's model or version cannot name a run") from None
    return {"model": alias.name, "version": alias.version, "alias": alias.alias, "name": name}


def _alias(data: Mapping[str, Any]) -> _Alias:
    try:
        return _Alias.model_validate(data)
    except ValidationError:
        raise Rejected(Code.INVALID_ARGUMENT, "the event lacks name, alias or version as texts") from None
