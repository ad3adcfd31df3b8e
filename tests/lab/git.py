"""A git server over HTTP: git's own `http-backend`, anonymous reads of bare repositories in `state/git`.

The part `gitea` is a forge with webhooks; fetching measurements needs no forge. Run as `python -m lab.git FOLDER`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab import daemons, storage
from lab.dns import external
from lab.part import NODE_IP, Lab, Part

PORT = 3000
URL = f"http://{NODE_IP}:{PORT}"


class Handler(BaseHTTPRequestHandler):
    """Hands each request to `git http-backend` as a CGI program."""

    root = Path()

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/health":
            self.send_response(200)
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length") or 0)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(length),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        command = ["git", "-c", "safe.directory=*", "http-backend"]
        done = subprocess.run(command, env=environment, input=self.rfile.read(length), capture_output=True, check=False)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer


def start(lab: Lab) -> None:
    """The server, and its Service `git`."""
    daemons.start_module(lab, "git", "lab.git", str(lab.folder("git")))
    lab.apply(external("git", PORT))


def ready(lab: Lab) -> str:
    """Its health page answers."""
    daemons.require(lab, "git")
    return storage.http_answers(f"{URL}/health")


PART = Part(
    "git", start, ready, lambda lab: daemons.stop(lab, "git"), needs=("dns",), packages={"git": "git"}, log="git"
)

if __name__ == "__main__":
    Handler.root = Path(sys.argv[1])
    ThreadingHTTPServer((NODE_IP, PORT), Handler).serve_forever()
