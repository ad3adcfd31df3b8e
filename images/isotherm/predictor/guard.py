"""The outermost layer: bounds and parses bodies before anything else sees them, and times every prediction.

KServe's own handlers read bodies without a limit, answer some malformed ones with 5xx, let anybody unload the model and
answer 501 on routes that have no meaning here; this ASGI layer refuses all of that by name with a 4xx.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from isotherm import contract
from isotherm.predictor.metrics import PROBING, Metrics
from isotherm.predictor.payload import Refusal

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT_BYTES = 16 << 20  # 100,000 points at full precision take 6 MB
HELD_LIMIT_BYTES = 64 << 20  # of all bodies being read at one moment
PAYLOAD = "isotherm.payload"  # where the parsed body lies in the ASGI scope

_PREDICTIONS = {
    "GET": re.compile(r"/predict-temperature"),
    "POST": re.compile(r"/predict|/predict-temperature|/v1/models/[^/]+:predict|/v2/models/[^/]+/infer"),
}
_PROBE = contract.HEADER_PROBE.lower().encode()
NOT_SERVED = re.compile(r"/v1/models/[^/]+:explain|/v2/models/[^/]+/versions/.*|/v2/repository/.*")
_REFUSED_HEADERS = {
    b"content-encoding": "compressed bodies are not read: send plain JSON",
    b"inference-header-content-length": "binary tensors are not read: send the data as JSON",
    b"ce-specversion": "CloudEvents are not read: send plain JSON",
}


class Guard:
    """ASGI middleware; `app` sees predictions only as JSON objects of bounded size."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif NOT_SERVED.fullmatch(scope["path"]):
            await refuse(
                Refusal("this server has one model and one version, and neither explains nor unloads it", 404), send
            )
        elif (predictions := _PREDICTIONS.get(scope["method"])) and predictions.fullmatch(scope["path"]):
            await self._predict(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        status: int | None = 500  # None: the client left before it had asked

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = bytearray()
        started = time.perf_counter()
        probing = PROBING.set(any(name == _PROBE for name, _ in scope["headers"]))
        try:
            if scope["method"] == "POST":
                if not await self._read(scope, receive, body):
                    status = None
                    return
                started = time.perf_counter()  # a slow sender is not a slow server
                _parse(scope, body)
            await self._app(scope, _replay(bytes(body), receive), watched)
        except Refusal as refusal:
            await refuse(refusal, watched)
        finally:
            self._held -= len(body)
            if status is not None:
                self._metrics.request(status, time.perf_counter() - started)
            PROBING.reset(probing)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Read the body into `body`; False where the client went away."""
        headers = dict(scope["headers"])
        for name, reason in _REFUSED_HEADERS.items():
            if name in headers:
                raise Refusal(reason, 415)
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > BODY_LIMIT_BYTES:
            raise Refusal(f"the body has {int(declared)} bytes; at most {BODY_LIMIT_BYTES}", 413)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            self._held += len(part)
            body += part
            if len(body) > BODY_LIMIT_BYTES:
                raise Refusal(f"the body has more than {BODY_LIMIT_BYTES} bytes", 413)
            if self._held > HELD_LIMIT_BYTES:
                raise Refusal("the server is reading too many large requests: send again in a moment", 429)
            more = message.get("more_body", False)
        return True


def _parse(scope: Scope, body: bytearray) -> None:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(f"the body is not JSON (NaN and Infinity are not JSON either): {error}") from error
    if not isinstance(payload, dict):
        raise Refusal("the body must be a JSON object")
    scope[PAYLOAD] = payload
    # KServe hands a body of any other type (`; charset=utf-8`, curl's default form type) to the model as raw bytes.
    others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    scope["headers"] = [*others, (b"content-type", b"application/json")]


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def refuse(refusal: Refusal, send: Send) -> None:
    """Answer a refusal as the rest of the server does: its status and `{"error": reason}`."""
    body = orjson.dumps({"error": refusal.reason})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
