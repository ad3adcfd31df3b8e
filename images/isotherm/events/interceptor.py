"""Interceptor for Tekton Triggers: checks what none of its own does, MLflow's webhooks.

Reads   INTERCEPTOR_NAME (the Interceptor object that names this server), SERVICE_NAME (its Service), SECRETS_DIR (files
        `current` and `previous`, each a valid secret, read for each event)
Writes  its CA into that object's spec.clientConfig.caBundle, where the listener finds it; a log without secrets
Serves  POST /mlflow and GET /healthz, HTTPS on 8443; with --plain PORT HTTP on loopback, without a cluster
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from isotherm import kube, tekton
from isotherm.events import certificate, server
from isotherm.events.mlflow_webhook import Code, Request, Webhook, refusal

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as Http
    from starlette.responses import Response

PORT = 8443
MAX_BODY_BYTES = 1 << 20
REPUBLISH_SECONDS = 60.0
READ_SECONDS = 10


def create_app(webhook: Webhook) -> Starlette:
    """Build the ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    async def mlflow(http: Http) -> Response:
        body = await _body(http)
        if body is None:
            return PlainTextResponse("the request is over 1 MiB\n", status_code=413)
        try:
            request = Request.model_validate_json(body)
        except ValidationError:
            return PlainTextResponse("the body is no InterceptorRequest\n", status_code=400)
        try:
            answer = webhook.answer(request)
        except Exception as error:
            # Triggers needs an answer; the kind of error is all that surely holds nothing of the event.
            answer = refusal(Code.INTERNAL, f"unexpected {type(error).__name__}")
        tekton.say(_line(answer))
        return JSONResponse(answer)

    return Starlette(routes=[Route("/mlflow", mlflow, methods=["POST"]), server.healthz()])


async def _body(http: Http) -> bytes | None:
    """Read a request of at most 1 MiB, whatever it says of its length; None where there is more."""
    parts, size = [], 0
    async for part in http.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _line(answer: dict[str, Any]) -> str:
    """One line of the log: what passed, or why it did not."""
    if answer["continue"]:
        return f"mlflow: passed {next(iter(answer['extensions'].values()))['name']}"
    return f"mlflow: refused: {answer['status']['message']}"


def _republish(cluster: kube.Cluster, interceptor: str, ca: bytes, stop: threading.Event) -> None:
    """Put the CA back when somebody creates the Interceptor anew; a failure is told and tried again."""
    while not stop.wait(REPUBLISH_SECONDS):
        try:
            if certificate.publish(cluster, interceptor, ca):
                tekton.say(f"Interceptor {interceptor} had lost the CA: written again")
        except Exception as error:
            tekton.say(f"warning: {tekton.last_line(error)}")


def run(plain: int | None, port: int = PORT) -> None:
    """Serve until the process is ended."""
    env = tekton.environment(secrets_dir=Path)
    serve = functools.partial(
        server.serve, create_app(Webhook(env.secrets_dir)), timeout_keep_alive=READ_SECONDS, limit_concurrency=64
    )
    if plain is not None:
        serve(host="127.0.0.1", port=plain)
        return
    names = tekton.environment(interceptor_name=str, service_name=str)
    cluster = kube.Cluster.from_config()
    identity = certificate.make(names.service_name, cluster.namespace)
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        chain, key = identity.write(Path(folder))
        certificate.wait_for(cluster, names.interceptor_name)
        certificate.publish(cluster, names.interceptor_name, identity.ca)
        keeper = threading.Thread(
            target=_republish, args=(cluster, names.interceptor_name, identity.ca, stop), daemon=True
        )
        keeper.start()
        tekton.say(f"Interceptor {names.interceptor_name} holds the CA of this server")
        serve(host="0.0.0.0", port=port, ssl_certfile=str(chain), ssl_keyfile=str(key))  # noqa: S104 (a pod's server)
        stop.set()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=int, metavar="PORT", help="plain HTTP on loopback, without a cluster")
    parser.add_argument("--port", type=int, default=PORT, help="port of HTTPS (default: %(default)s)")
    arguments = parser.parse_args()
    return tekton.main(lambda: run(arguments.plain, arguments.port))


if __name__ == "__main__":
    raise SystemExit(main())
