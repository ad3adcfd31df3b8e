"""A small Kubernetes API server for the lab's router: list, watch, merge-patch and status of what the router reads.

It behaves as the real one where the router depends on it: versions, 410 Gone, bookmarks, a status subresource.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from isotherm import tekton
from isotherm_local.ports import free_port
from isotherm_local.store import merge_patch

Object = dict[str, Any]
PATHS = {
    "/api/v1/services": "services",
    "/apis/discovery.k8s.io/v1/endpointslices": "endpointslices",
    "/apis/route.openshift.io/v1/routes": "routes",
}
ROUTE_PATH = re.compile(r"/apis/route\.openshift\.io/v1/namespaces/([^/]+)/routes/([^/]+)(/status)?")


class ListWatchServer:
    """Objects with versions and a history of events; `start` and `stop` are the life of the process, not the data's."""

    def __init__(self) -> None:
        self.port, self.version, self.compacted = free_port(), 0, 0
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.change = threading.Condition(threading.RLock())
        self.requests: list[tuple[str, str]] = []  # verb, plural
        self.before_patch: list[Any] = []  # each is called once, before a patch is looked at
        self.server: ThreadingHTTPServer | None = None

    def kubeconfig(self, path: Path) -> Path:
        cluster = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [cluster], "contexts": [context], "users": [{"name": "x", "user": {}}],
        }  # fmt: skip
        path.write_text(json.dumps(content))
        return path

    def put(self, plural: str, content: Object, namespace: str = "n") -> Object:
        """Create or replace an object."""
        with self.change:
            key = (plural, namespace, content["metadata"]["name"])
            old = self.objects.get(key)
            made = copy.deepcopy(content)
            kept = old["metadata"] if old else {"creationTimestamp": tekton.rfc3339(tekton.utcnow())}
            given = {"uid": kept.get("uid") or str(uuid.uuid4()), "creationTimestamp": kept["creationTimestamp"]}
            made["metadata"] = given | {"namespace": namespace} | made["metadata"]
            return self._record(key, "MODIFIED" if old else "ADDED", made)

    def patch(self, name: str, patch: Object, namespace: str = "n") -> Object:
        """Merge into a Route."""
        with self.change:
            key = ("routes", namespace, name)
            return self._record(key, "MODIFIED", merge_patch(self.objects[key], patch))

    def delete(self, plural: str, name: str, namespace: str = "n") -> None:
        with self.change:
            self._record((plural, namespace, name), "DELETED", self.objects[plural, namespace, name])

    def list(self, plural: str) -> list[Object]:
        with self.change:
            return [copy.deepcopy(o) for (p, *_), o in sorted(self.objects.items()) if p == plural]

    def compact(self) -> None:
        """Forget the history: who watches gets an error event, who comes back with an old version 410."""
        with self.change:
            self.version += 1
            self.compacted, self.history = self.version, []
            self.change.notify_all()

    def _record(self, key: tuple[str, str, str], event: str, made: Object) -> Object:
        self.version += 1
        made = copy.deepcopy(made)
        made["metadata"]["resourceVersion"] = str(self.version)
        if event == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = made
        self.history.append((self.version, key[0], event, copy.deepcopy(made)))
        self.change.notify_all()
        return made

    def start(self) -> None:
        api = self

        class Handler(_Handler):
            owner = api

        self.connections: list[socket.socket] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """End as a killed server does: every open connection breaks."""
        if self.server is None:
            return
        self.server.shutdown()
        self.server.server_close()
        self.server = None
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.change:
            self.change.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ListWatchServer

    def setup(self) -> None:
        super().setup()
        self.owner.connections.append(self.connection)

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, code: int, content: Object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        plural, query = PATHS[url.path], {k: v[0] for k, v in parse_qs(url.query).items()}
        watch = query.get("watch", "").lower() == "true"
        self.owner.requests.append(("watch" if watch else "list", plural))
        if watch:
            with contextlib.suppress(OSError):
                self._watch(plural, int(query["resourceVersion"]))
            return
        with self.owner.change:
            metadata = {"resourceVersion": str(self.owner.version)}
        self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": self.owner.list(plural)})

    def _watch(self, plural: str, version: int) -> None:
        api, server = self.owner, self.owner.server
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        if version < api.compacted:
            self._answer(410, gone)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            with api.change:
                news = [event for event in api.history if event[0] > version]
                if not news and version >= api.compacted and api.server is server:
                    api.change.wait(5)
                    news = [event for event in api.history if event[0] > version]
                expired, ended = version < api.compacted, api.server is not server
                reached = api.version
            if ended:
                return
            if expired:
                self._event({"type": "ERROR", "object": gone})
                self.wfile.write(b"0\r\n\r\n")
                return
            for number, kind, event, item in news:
                version = number
                if kind == plural:
                    self._event({"type": event, "object": item})
            if not news:
                version = reached
                self._event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}})

    def _event(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def do_PATCH(self) -> None:
        match = ROUTE_PATH.fullmatch(urlsplit(self.path).path)
        assert match is not None
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        namespace, name, status = match.groups()
        self.owner.requests.append(("patch status" if status else "patch", "routes"))
        if self.owner.before_patch:
            self.owner.before_patch.pop()()
        with self.owner.change:
            old = self.owner.objects.get(("routes", namespace, name))
            if old is None:
                self._answer(404, {"kind": "Status", "code": 404, "reason": "NotFound"})
                return
            if patch["metadata"].pop("resourceVersion") != old["metadata"]["resourceVersion"]:
                self._answer(409, {"kind": "Status", "code": 409, "reason": "Conflict"})
                return
            taken = {"status": patch["status"]} if status else {k: v for k, v in patch.items() if k != "status"}
            if merge_patch(old, taken) != old:
                old = self.owner.patch(name, taken, namespace)
        self._answer(200, old)
