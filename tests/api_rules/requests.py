"""How a row of the table of answers asks: small functions that make one request, or an object and then a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from api_rules.target import JSON, MERGE_PATCH, Answer, Api
from isotherm_local.kinds import CONFIG_MAP, ROUTE, Kind, Object

Ask = Callable[[Api], Any]

MODEL = {"modelFormat": {"name": "isotherm-pinn"}, "runtime": "none"}  # no such runtime: KServe starts no pod
ISVC = {"predictor": {"model": MODEL}}
RUNTIME = {"containers": [{"name": "kserve-container", "image": "isotherm/pinn-api:0.1.0"}]}
PORTS = {"ports": [{"port": 80}]}
TO = {"to": {"kind": "Service", "name": "blue"}}


def make(kind: Kind, metadata: Object | None = None, **content: Any) -> Ask:
    """Create object `a`."""
    return lambda api: api.post(kind, {"metadata": {"name": "a", **(metadata or {})}, **content})


def spec(kind: Kind, **content: Any) -> Ask:
    """Create an object with this spec."""
    return make(kind, spec=content)


def route(**content: Any) -> Ask:
    """Create a Route whose spec has these fields too."""
    return spec(ROUTE, **{**TO, **content})


def to(**content: Any) -> Ask:
    """Create a Route to this backend."""
    return route(to={"kind": "Service", "name": "blue", **content})


def post(kind: Kind, body: Any, **options: Any) -> Ask:
    """POST a body as it stands."""
    return lambda api: api.ask("POST", api.path(kind), body, **options)


def get(kind: Kind, name: str = "", **query: str) -> Ask:
    """GET an object or a list."""
    return lambda api: api.ask("GET", api.path(kind, name), **query)


def then(kind: Kind, content: Object, *steps: Ask) -> Ask:
    """Create object `a`, take the steps, answer with the last one's answer."""

    def ask(api: Api) -> Any:
        api.create(kind, "a", **content)
        answers = [step(api) for step in steps]
        return answers[-1]

    return ask


def send(method: str, kind: Kind, body: Any = None, *, name: str = "a", media: str = JSON, **query: str) -> Ask:
    """Any request on an object."""
    return lambda api: api.ask(method, api.path(kind, name), body, media=media, **query)


def merge(change: Any, kind: Kind = CONFIG_MAP, content: Object | None = None) -> Ask:
    """Merge-patch an object that is there."""
    return then(kind, content or {}, send("PATCH", kind, change, media=MERGE_PATCH))


def merge_route(change: Any) -> Ask:
    """Merge-patch a Route that is there."""
    return merge(change, ROUTE, {"spec": TO})


def fact(ask: Ask, look: Callable[[Any], Any]) -> Ask:
    """What matters of the body of an answer."""

    def asked(api: Api) -> Any:
        answer = ask(api)
        return look(answer.body) if isinstance(answer, Answer) and answer.code < 300 else answer

    return asked
