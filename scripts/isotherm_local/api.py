"""The embedded Kubernetes-style API: get, list, create and merge-patch of a few kinds, over HTTP on loopback.

The URL starts with a secret path (`http://127.0.0.1:PORT/<token>`), which only the kubeconfig (mode 0600) tells: an
InferenceService starts processes, so no other user of the machine and no web page may create one. (A bearer token would
not do: kubectl sends none over plain HTTP.)
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from isotherm_local.kinds import KINDS, Kind, Object, find, served
from isotherm_local.metadata import is_label_key
from isotherm_local.store import ApiError, Store, not_found

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY_BYTES = 1 << 20
MERGE_PATCH = "application/merge-patch+json"
_TERM = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<key0>[\w./-]+)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)|\s(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


def label_matcher(selector: str) -> Callable[[Object], bool]:
    """Parse a label selector (`a=b,c!=d,e in (f,g),h,!i`) into a predicate on labels."""
    tests: list[Callable[[Object], bool]] = []
    at = 0
    while at < len(selector):
        term = _TERM.match(selector, at)
        if term is None or term.end() == at:
            raise ApiError(400, "BadRequest", f"unable to parse labelSelector {selector!r} at {selector[at:]!r}")
        tests.append(_label_test(term))
        at = term.end()
        if not is_label_key(term["key"] or term["key0"]) or (at == len(selector) and selector.rstrip().endswith(",")):
            raise ApiError(400, "BadRequest", f"unable to parse labelSelector {selector!r}")
    return lambda labels: all(test(labels) for test in tests)


def _label_test(term: re.Match[str]) -> Callable[[Object], bool]:
    key = term["key"] or term["key0"]
    if term["absent"]:
        return lambda labels: key not in labels
    if term["op"]:
        value, equal = term["value"], term["op"] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    if term["set"]:
        values, member = {v.strip() for v in term["values"].split(",")}, term["set"] == "in"
        return lambda labels: (labels.get(key) in values) is member
    return lambda labels: key in labels


def field_matcher(kind: Kind, selector: str) -> Callable[[Object], bool]:
    """Parse a field selector (`metadata.name=x,involvedObject.kind!=Route`) on the fields that a kind has for it."""
    wanted = []
    for term in filter(None, selector.split(",")):
        path, operator, value = re.fullmatch(r"([^!=]*)(!=|==|=)?(.*)", term).groups()  # type: ignore[union-attr]
        if not operator or path not in ("metadata.name", "metadata.namespace", *kind.selectable):
            raise ApiError(400, "BadRequest", f"field label not supported: {term!r}")
        wanted.append((path.split("."), value, operator != "!="))

    def matches(item: Object) -> bool:
        for path, value, equal in wanted:
            found: Any = item
            for part in path:
                found = found.get(part) if isinstance(found, dict) else None
            if ((found or "") == value) is not equal:
                return False
        return True

    return matches


async def _body(request: Request) -> Object:
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        async for _ in request.stream():  # a client that still sends would see a broken pipe, not the answer
            pass
        raise ApiError(413, "RequestEntityTooLarge", "the body is over 1 MiB or does not declare its length")
    content = await request.body()
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise ApiError(400, "BadRequest", f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ApiError(400, "BadRequest", "the body is not a JSON object")
    return parsed


def _media_type(request: Request, expected: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    if given != expected and (given or request.method == "PATCH"):  # the Python client names none when it creates
        message = f"the body has media type {given or 'none'}; the local target accepts {expected} for {request.method}"
        raise ApiError(415, "UnsupportedMediaType", message)


def _unsupported(verb: str, what: str) -> ApiError:
    message = f"{verb} of {what} is not supported by the local target: it has get, list, create and merge-patch"
    return ApiError(405, "MethodNotAllowed", message)


class NotServed(Exception):
    """The path names no kind that is served.

    A cluster answers with text here, not with a `Status`: so a missing kind is told from a missing object.
    """


class Api:
    """Request handling over a `Store`; `create_app` wraps it for the server."""

    def __init__(self, store: Store, token: str, ready: Callable[[], Object]) -> None:
        self.store, self.token, self.ready = store, token, ready

    async def handle(self, request: Request) -> Response:
        """Answer one request; every refusal is a `Status` object."""
        from starlette.responses import JSONResponse, PlainTextResponse

        try:
            code, content = await self._dispatch(request)
        except NotServed as error:
            return PlainTextResponse(f"{error}\n", status_code=404)
        except ApiError as error:
            code, content = error.code, error.status()
        except OSError as error:
            problem = ApiError(
                500,
                "InternalError",
                f"the object could not be stored: {error.strerror} ({error.filename}); free or fix the disk",
            )
            code, content = 500, problem.status()
        return JSONResponse(content, status_code=code)

    async def _dispatch(self, request: Request) -> tuple[int, Object]:
        parts = [part for part in request.url.path.split("/") if part]
        if parts == ["readyz"]:
            state = self.ready()
            return (200 if all(state.values()) else 503), state
        if not parts or not hmac.compare_digest(parts[0].encode(), self.token.encode()):
            raise ApiError(401, "Unauthorized", "Unauthorized: use the server address of the kubeconfig")
        parts = parts[1:]
        discovered = discovery(parts)
        if discovered is not None:
            return 200, discovered
        kind, namespace, name = self._target(parts)
        if request.method == "GET":
            return 200, self._read(request, kind, namespace, name)
        return await self._write(request, kind, namespace, name)

    @staticmethod
    def _target(parts: list[str]) -> tuple[Kind, str | None, str | None]:
        """Read kind, namespace and name from `api/v1/...` or `apis/GROUP/VERSION/...`."""
        path = "/" + "/".join(parts)
        if parts[:1] == ["api"]:
            group, version, rest = "", (parts[1:2] or [""])[0], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise NotServed(f"404 page not found: the local target has no {path}; it serves {served()}")
        namespace = None
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = find(group, version, rest[0]) if rest else None
        if kind is None or len(rest) > 3 or (len(rest) == 3 and rest[2] != "status"):
            raise NotServed(f"404 page not found: the local target has no {path}; it serves {served()}")
        if len(rest) == 3 and not kind.has_status:
            raise ApiError(404, "NotFound", f"{kind.resource} have no status")
        if namespace is None and len(rest) > 1:
            raise ApiError(404, "NotFound", f"{kind.resource} live in a namespace; none is in {path}")
        return kind, namespace, "/".join(rest[1:]) if len(rest) > 1 else None

    def _read(self, request: Request, kind: Kind, namespace: str | None, name: str | None) -> Object:
        query = request.query_params
        if query.get("watch", "false") not in ("false", "0"):
            raise ApiError(405, "MethodNotAllowed", "watch is not supported by the local target; poll with get or list")
        if name is not None:
            return self.store.get(kind, namespace or "", name.removesuffix("/status"))
        by_label, by_field = (
            label_matcher(query.get("labelSelector", "")),
            field_matcher(kind, query.get("fieldSelector", "")),
        )
        items = [
            o for o in self.store.list(kind, namespace) if by_label(o["metadata"].get("labels") or {}) and by_field(o)
        ]
        if not kind.custom:  # as in a cluster: only the list itself says what its items are
            items = [{key: part for key, part in o.items() if key not in ("apiVersion", "kind")} for o in items]
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": str(self.store.resource_version)},
            "items": items,
        }

    async def _write(self, request: Request, kind: Kind, namespace: str | None, name: str | None) -> tuple[int, Object]:
        if not kind.writable:
            raise ApiError(
                405,
                "MethodNotAllowed",
                f"{kind.resource} are written by the local target's own controller; clients may read them",
            )
        if name and name.endswith("/status"):
            raise _unsupported(request.method, f"the status of {kind.resource}")
        asked = request.query_params.get("dryRun", "")
        if asked not in ("", "All"):
            raise ApiError(422, "Invalid", f'dryRun: Unsupported value: {asked!r}: supported values: "All"')
        dry_run = asked == "All"
        if request.method == "POST" and namespace and not name:
            _media_type(request, "application/json")
            body = await _body(request)
            if kind.custom and not (body.get("apiVersion") and body.get("kind")):
                raise ApiError(
                    400, "BadRequest", f"Object 'Kind' or 'apiVersion' is missing: {kind.qualified} is a CRD's"
                )
            return 201, self.store.create(kind, namespace, body, dry_run=dry_run)
        if request.method == "PATCH" and namespace and name:
            if self.store.find(kind, namespace, name) is None:
                raise not_found(kind, name)
            _media_type(request, MERGE_PATCH)
            return 200, self.store.patch(kind, namespace, name, await _body(request), dry_run=dry_run)
        raise _unsupported(request.method, kind.resource)


def discovery(parts: list[str]) -> Object | None:
    """Answer the discovery paths that kubectl and the client libraries ask; None for any other path."""
    groups = sorted({kind.group for kind in KINDS if kind.group})
    if parts == ["version"]:
        return {"major": "1", "minor": "31", "gitVersion": "v1.31.0+isotherm-local", "platform": "linux/amd64"}
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in groups]}
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1])}
    group_version = "/".join(parts[1:]) if parts[:1] in (["api"], ["apis"]) else ""
    kinds = [kind for kind in KINDS if kind.api_version == group_version and bool(kind.group) is (parts[0] == "apis")]
    if not kinds:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": [
            {
                "name": kind.plural,
                "singularName": kind.kind.lower(),
                "namespaced": True,
                "kind": kind.kind,
                "verbs": ["get", "list", "create", "patch"] if kind.writable else ["get", "list"],
                "shortNames": list(kind.short_names),
            }
            for kind in kinds
        ],
    }


def _group(group: str) -> Object:
    versions = [
        {"groupVersion": v, "version": v.split("/")[1]}
        for v in sorted({k.api_version for k in KINDS if k.group == group}, reverse=True)
    ]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def create_app(store: Store, token: str, ready: Callable[[], Object]) -> Starlette:
    """Build the ASGI application. `ready` tells for each part of the local target whether it answers (GET /readyz)."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    handle: Callable[[Request], Awaitable[Response]] = Api(store, token, ready).handle
    return Starlette(routes=[Route("/{path:path}", handle, methods=["GET", "POST", "PATCH", "PUT", "DELETE"])])
