"""The front door's second half: takes events that show a token, checks it, and passes them on signed instead.

A listener of Triggers prints each header at log level debug. So no token gets there: what an event is entitled by from
here on is the HMAC-SHA256 of its body under the same secret, as GitHub signs, which Triggers' own interceptor checks.

Reads   SECRETS_DIR (a folder for each Secret, with files `current` and `previous`, read anew for each event)
Serves  POST /alerts /grafana /lakefs /schedule /gitlab and GET /healthz, HTTP on loopback: nginx stands before it
Sends   the same body to the listener `el-NAME`, and gives its answer back; 401 where the token is none of the secrets
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import tekton
from isotherm.events import server, webhook_secrets

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PORT = 8082
SIGNATURE = "X-Hub-Signature-256"
# What a listener's triggers look at; nothing else is passed on.
PASSED_ON = ("Content-Type", "X-Gitlab-Event")
LISTENER_SECONDS = 15.0  # less than nginx waits for this program
_BEARER = "Bearer "


@dataclass(frozen=True)
class Sender:
    """How a kind of event shows its token, which Secret that is, and which listener it is for."""

    header: str
    secret: str
    listener: str
    scheme: str = ""


SENDERS: Mapping[str, Sender] = {
    "alerts": Sender("Authorization", "webhook-alerts", "alerts", _BEARER),
    "grafana": Sender("Authorization", "webhook-grafana", "alerts", _BEARER),
    "lakefs": Sender("Authorization", "webhook-lakefs", "lakefs", _BEARER),
    "schedule": Sender("Authorization", "webhook-schedule", "schedule", _BEARER),
    "gitlab": Sender("X-Gitlab-Token", "webhook-git", "git"),
}


class Unauthorised(Exception):
    """The event shows no token, or one that is none of the secrets."""


def signature(secret: bytes, body: bytes) -> str:
    """Sign a body as GitHub does."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def signed(sender: Sender, headers: Mapping[str, str], body: bytes, held: Sequence[bytes]) -> dict[str, str]:
    """Headers under which an event goes on to its listener. `headers` finds a name in any case.

    A secret of `held` is a token, with or without its scheme and a line's end; its bytes as they are sign, as Triggers
    reads them. Raises `Unauthorised` where the event's token is none of them.
    """
    given = headers.get(sender.header, "")
    if sender.scheme and not given.startswith(sender.scheme):
        raise Unauthorised
    token, scheme = given.removeprefix(sender.scheme).encode("latin-1", "replace"), sender.scheme.encode()
    # Every secret is compared: the time taken does not tell which one fits.
    fits = [one for one in held if hmac.compare_digest(one.strip().removeprefix(scheme), token)]
    if not fits:
        raise Unauthorised
    passed = {name: headers[name] for name in PASSED_ON if name in headers}
    return passed | {SIGNATURE: signature(fits[0], body)}


def create_app(folder: Path, client: httpx.AsyncClient, listener_url: str = "http://el-{}:8080/") -> Starlette:
    """Build the ASGI application; `client` sends to the listeners, whose address is `listener_url` with their name."""
    import httpx
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def event(request: Request) -> Response:
        kind = request.path_params["kind"]
        sender = SENDERS.get(kind)
        if sender is None:
            return PlainTextResponse("there is no such event\n", status_code=404)
        body = await request.body()  # nginx has limited its size
        try:
            headers = signed(sender, request.headers, body, webhook_secrets.read(folder / sender.secret))
        except Unauthorised:
            tekton.say(f"{kind}: refused, its token is none of Secret {sender.secret}'s")
            return PlainTextResponse("the token is not valid here\n", status_code=401)
        try:
            answer = await client.post(listener_url.format(sender.listener), content=body, headers=headers)
        except httpx.HTTPError as error:
            tekton.say(f"{kind}: listener {sender.listener} did not take it: {type(error).__name__}")
            return PlainTextResponse("the listener does not answer\n", status_code=503)
        return PlainTextResponse(answer.content, status_code=answer.status_code)

    return Starlette(routes=[server.healthz(), Route("/{kind}", event, methods=["POST"])])


def run(port: int) -> None:
    """Serve until the process is ended."""
    import httpx

    env = tekton.environment(secrets_dir=Path)
    client = httpx.AsyncClient(timeout=LISTENER_SECONDS, limits=httpx.Limits(max_connections=32), trust_env=False)
    server.serve(create_app(env.secrets_dir, client), host="127.0.0.1", port=port)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=PORT, help="port on loopback (default: %(default)s)")
    arguments = parser.parse_args()
    return tekton.main(lambda: run(arguments.port))


if __name__ == "__main__":
    raise SystemExit(main())
