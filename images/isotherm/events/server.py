"""How the events' small HTTP servers run: nothing of a header or a body gets into their logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.routing import Route


def healthz() -> Route:
    """The route that probes ask."""
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    return Route("/healthz", answer, methods=["GET"])


def serve(app: Starlette, **options: Any) -> None:
    """Serve until the process is ended; `options` are uvicorn's."""
    import uvicorn

    # No access log: uvicorn's would repeat each line, and its debug log holds headers.
    uvicorn.run(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, date_header=False, **options
    )
