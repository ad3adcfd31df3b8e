"""A door before a server: all that is asked of it passes, and at one chosen write the writer is killed, or held up.

Before the write is done, or right after it. Nobody is there any more to hear the answer to a writer that was killed;
one that was held up goes on with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, Self

from serving import Quiet, Server

# What belongs to one connection and not to the request.
OF_THE_CONNECTION = ("host", "connection", "content-length", "transfer-encoding", "keep-alive")


class Answer(Protocol):
    """What a server said: urllib3's response."""

    status: int
    data: bytes
    headers: Any


class Door:
    """Writes are numbered from 1 as they come; `at` is the number or the name of the one at which `strike` is called,
    which kills the writer where the door is `deadly`.
    """

    def __init__(self, at: str | int = 0, *, after: bool = False, deadly: bool = True) -> None:
        self.at, self.after, self.deadly = at, after, deadly
        self.strike: Callable[[], None] = lambda: None
        self.struck = False
        self.writes: list[str] = []
        self._turn = threading.Lock()

    def named(self, verb: str, path: str, body: bytes) -> str:
        """Name of a write; empty for what only reads."""
        raise NotImplementedError

    def forward(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Ask the server."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where to ask instead of the server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._server = Server(("127.0.0.1", 0), _Passing)
        self._server.door = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def passed(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """The server's answer; None where the writer is dead and nobody is there to hear it."""
        name = self.named(verb, path, body)
        with self._turn:
            self.writes += [name] if name else []
            mine = bool(name) and self.at in (name, len(self.writes)) and not self.struck
            self.struck = self.struck or mine
        if mine and not self.after:
            self.strike()
            if self.deadly:
                return None
        answer = self.forward(verb, path, headers, body)
        if mine and self.after:
            self.strike()
            if self.deadly:
                return None
        return answer


class _Passing(Quiet):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in OF_THE_CONNECTION}
        answer = self.server.door.passed(self.command, self.path, headers, self._body())  # type: ignore[attr-defined]
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in OF_THE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def _body(self) -> bytes:
        """The request's body, also one that is sent in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
