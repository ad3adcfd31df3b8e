"""An API under test, embedded or a cluster's: a namespace of its own, plain requests, and answers that may get lost."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from kubernetes import client

from isotherm_local import kinds
from isotherm_local.kinds import Kind, Object

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
EMBEDDED, CLUSTER = "embedded", "cluster"


@dataclass(frozen=True)
class Answer:
    """HTTP code and body: an object, or whatever text came instead."""

    code: int
    body: Any

    @property
    def status(self) -> Object:
        """The body where it is a `Status`, as every refusal should be; else nothing."""
        return self.body if isinstance(self.body, dict) and self.body.get("kind") == "Status" else {}

    @property
    def fields(self) -> set[str]:
        """The fields that a refusal names."""
        return {cause["field"] for cause in (self.status.get("details") or {}).get("causes", [])}

    def __str__(self) -> str:
        """Code and reason, never the text: `409 Conflict`."""
        if self.code < 300:
            return str(self.code)
        return f"{self.code} {self.status.get('reason', '')}".strip() if self.status else f"{self.code} without Status"


class Wire:
    """In urllib3's place: `before` answers instead of the API, `after` lets it act and then loses its answer."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self.pool = pool
        self.before: list[int] = []
        self.after: list[int] = []
        self.methods: list[str] = []
        self.written: set[str] = set()  # collections that were posted to

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send a request, unless a fault is due."""
        self.methods.append(method)
        if method == "POST":
            self.written.add(url.partition("?")[0])
        elif method == "PATCH":  # server-side apply may create
            self.written.add(url.partition("?")[0].rpartition("/")[0])
        if self.before:
            return _fault(self.before.pop(0))
        answer = self.pool.request(method, url, **options)
        if self.after and method in ("POST", "PATCH"):
            answer.read()
            return _fault(self.after.pop(0))
        return answer


def _fault(code: int) -> urllib3.HTTPResponse:
    text = 'routes "plate" is forbidden: cannot patch' if code == 403 else "injected"
    body = {"kind": "Status", "status": "Failure", "message": text, "reason": "Injected", "code": code}
    content = b"404 page not found" if code == 404 else json.dumps(body).encode()
    return urllib3.HTTPResponse(body=content, status=code, headers={"Content-Type": JSON}, preload_content=False)


@dataclass
class Api:
    """One namespace of one API; `client` is what the generated clients take."""

    name: str
    client: client.ApiClient
    namespace: str
    wire: Wire = field(init=False)

    def __post_init__(self) -> None:
        rest = self.client.rest_client
        if not isinstance(rest.pool_manager, Wire):
            rest.pool_manager = Wire(rest.pool_manager)
        self.wire = rest.pool_manager
        self.wire.before, self.wire.after, self.wire.methods = [], [], []

    def ask(
        self, method: str, path: str, body: Any = None, *, media: str = JSON, headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:  # fmt: skip
        """Send one request as it stands; `body` may be text that is no JSON."""
        content = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        names = {"Accept": JSON, **({} if content is None else {"Content-Type": media}), **(headers or {})}
        url = self.client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        found = self.wire.request(
            method, url, body=content, headers=names, timeout=30, retries=False, preload_content=True
        )
        text = found.data.decode()
        try:
            return Answer(found.status, json.loads(text))
        except ValueError:
            return Answer(found.status, text)

    def path(self, kind: Kind, name: str = "", *, namespace: str | None = None) -> str:
        """Where the objects of a kind are, or one of them."""
        root = f"/apis/{kind.api_version}" if kind.group else "/api/v1"
        collection = f"{root}/namespaces/{namespace or self.namespace}/{kind.plural}"
        return f"{collection}/{name}" if name else collection

    def post(self, kind: Kind, body: Object, **query: Any) -> Answer:
        """Create; the body gets its kind."""
        return self.ask("POST", self.path(kind), {"apiVersion": kind.api_version, "kind": kind.kind, **body}, **query)

    def create(self, kind: Kind, name: str, **content: Any) -> Object:
        """Create an object that must be accepted."""
        return _expect(201, self.post(kind, {**content, "metadata": {"name": name, **content.get("metadata", {})}}))

    def read(self, kind: Kind, name: str) -> Answer:
        """Get one object."""
        return self.ask("GET", self.path(kind, name))

    def get(self, kind: Kind, name: str) -> Object:
        """Get an object that must be there."""
        return _expect(200, self.read(kind, name))

    def merge(self, kind: Kind, name: str, change: Any, **query: Any) -> Answer:
        """Merge-patch."""
        return self.ask("PATCH", self.path(kind, name), change, media=MERGE_PATCH, **query)

    def patch(self, kind: Kind, name: str, change: Object) -> Object:
        """Merge-patch that must be accepted."""
        return _expect(200, self.merge(kind, name, change))

    def names(self, kind: Kind, **selectors: str) -> list[str]:
        """Names of the objects that a list gives."""
        items = _expect(200, self.ask("GET", self.path(kind), **selectors))["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def clean(self, seconds: float = 20.0) -> None:
        """Delete what was created, as the next test has the same namespace (a cluster's; the embedded API cannot)."""
        host, self.wire.before, self.wire.after = self.client.configuration.host, [], []
        mine = {url.removeprefix(host) for url in self.wire.written if f"/namespaces/{self.namespace}/" in url}
        self.wire.written.clear()
        deadline = time.monotonic() + seconds
        for path in mine:
            # What a cluster itself puts into a namespace would be made again at once.
            query = {"fieldSelector": "metadata.name!=kube-root-ca.crt"} if path.endswith("/configmaps") else {}
            self.ask("DELETE", path, **query)
            while self.ask("GET", path, **query).body.get("items"):
                assert time.monotonic() < deadline, f"{urlsplit(path).path} is not empty"
                time.sleep(0.1)


def _expect(code: int, answer: Answer) -> Object:
    assert answer.code == code, answer
    return dict(answer.body)


KINDS = {kind.kind: kind for kind in kinds.KINDS}
