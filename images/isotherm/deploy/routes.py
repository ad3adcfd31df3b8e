"""A Route's weights and Isotherm's notes on it, read as one model and changed in one compare-and-set write.

Reads   Route (route.openshift.io/v1): spec.to, spec.alternateBackends, annotations, admission by the router
Writes  weights and annotations together, by merge-patch with the resourceVersion that was read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, Field, ValidationError

from isotherm import contract, kube, tekton
from isotherm.deploy import behind
from isotherm.deploy.behind import Colour

Weights = Mapping[str, int]  # colour -> weight
Services = Mapping[str, str]  # colour -> Service
API_DEFAULT_WEIGHT = 100


class _Backend(BaseModel):
    kind: str = "Service"
    name: str
    weight: int | None = Field(default=None, ge=0, le=256)


class _Spec(BaseModel):
    to: _Backend
    alternateBackends: list[_Backend] | None = None
    host: str = ""
    tls: dict[str, Any] | None = None


@dataclass(frozen=True)
class Route:
    """What Isotherm needs to know of a Route, at one resourceVersion."""

    kind: ClassVar[kube.Kind] = kube.ROUTE  # of the object that holds weights and notes
    name: str
    resource_version: str
    weights: Weights
    annotations: Mapping[str, str]
    host: str
    admitted: bool
    not_admitted_because: str
    tls: bool

    def __str__(self) -> str:
        """Kind and name, as messages have them."""
        return f"{self.kind.name} {self.name}"

    def refuse_unserved(self) -> None:
        """Raise `tekton.Refused` where no router carries it."""
        if not self.admitted:
            raise tekton.Refused(
                f"no router carries {self}: {self.not_admitted_because}",
                remedy="check the router and the Route's host; nothing was changed",
            )

    def refuse_no_way_back(self, colour: str) -> None:
        """Raise `tekton.Refused` where a rollback cannot lead to this colour."""

    @property
    def live(self) -> str | None:
        """The colour that has all traffic; None where both or neither have some."""
        serving = [colour for colour, weight in self.weights.items() if weight > 0]
        return serving[0] if len(serving) == 1 else None

    @property
    def split(self) -> bool:
        """Whether both colours have traffic: a shift is in progress."""
        return all(weight > 0 for weight in self.weights.values())

    @property
    def foreign(self) -> bool:
        """Whether the weights are not those that Isotherm wrote last: a person or another program set them."""
        noted = self.annotations.get(contract.ANNOTATION_SHIFT_WEIGHTS, "")
        return bool(noted) and noted != describe(self.weights)

    @property
    def expires(self) -> datetime | None:
        """When a pending shift is taken back; None where none is pending. Weights set by hand end what was pending."""
        noted = self.annotations.get(contract.ANNOTATION_SHIFT_EXPIRES, "")
        return None if self.foreign or not noted else _time(noted)

    @property
    def shifting(self) -> bool:
        """Whether a shift is under way: both colours have traffic, or the last write is not confirmed."""
        return self.split or self.expires is not None

    @property
    def stable(self) -> str | None:
        """The colour to fall back to: the one that was live when a shift that is under way began, else the live one."""
        noted = self.annotations.get(contract.ANNOTATION_PREVIOUS)
        if self.shifting and noted in self.weights:
            return noted
        return self.live

    @property
    def holder(self) -> str:
        """Uid of the PipelineRun that wrote the weights last."""
        return self.annotations.get(contract.ANNOTATION_SHIFT_HOLDER, "")

    @property
    def token(self) -> int:
        """How often Isotherm has written the weights; it only ever rises."""
        text = self.annotations.get(contract.ANNOTATION_SHIFT_TOKEN, "0")
        return int(text) if text.isdigit() else 0


def _time(text: str) -> datetime:
    """An expiry; one that cannot be read has passed."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def other(colour: str) -> str:
    """Return the colour that is not this one."""
    return contract.COLOURS[1 - contract.COLOURS.index(colour)]


def pair(blue: str, green: str) -> Services:
    """Map the colours to their Services. Raises `tekton.BadInput` where both are one."""
    if blue == green:
        raise tekton.BadInput(f"params service-blue and service-green both name {blue!r}", remedy="give two Services")
    return dict(zip(contract.COLOURS, (blue, green), strict=True))


def describe(weights: Weights) -> str:
    """`blue=100 green=0`, as results and messages show weights."""
    return " ".join(f"{colour}={weights[colour]}" for colour in contract.COLOURS)


def parse(stored: kube.Object, services: Services) -> Route:
    """Read a Route of the API.

    Raises `tekton.Refused` on a backend that is not one of the two Services, on an owner that would put weights back,
    and where clients are kept on a backend by a cookie (they would stay on a backend of weight 0).
    """
    metadata, name = stored["metadata"], stored["metadata"]["name"]
    kube.refuse_foreign(kube.ROUTE, stored)
    try:
        spec = _Spec.model_validate(stored["spec"])
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise tekton.Refused(
            f"Route {name} has an unusable spec.{where}: {problem['msg']}", remedy="correct it"
        ) from error
    annotations = metadata.get("annotations") or {}
    if annotations.get(contract.ANNOTATION_DISABLE_COOKIES, "").lower() != "true":
        raise tekton.Refused(
            f"Route {name} keeps clients on a backend by cookie, whatever the weights say",
            remedy=f"run: oc annotate route {name} {contract.ANNOTATION_DISABLE_COOKIES}=true",
        )
    admitted, reason, host = admission(stored)
    return Route(
        name=name,
        resource_version=metadata["resourceVersion"],
        weights=_weights(name, spec, services),
        annotations=annotations,
        host=spec.host or host,
        admitted=admitted,
        not_admitted_because=reason,
        tls=spec.tls is not None,
    )


def _weights(name: str, spec: _Spec, services: Services) -> Weights:
    colours = {service: colour for colour, service in services.items()}
    weights = dict.fromkeys(contract.COLOURS, 0)
    seen: list[str] = []
    for backend in [spec.to, *(spec.alternateBackends or [])]:
        if backend.kind != "Service" or backend.name not in colours or backend.name in seen:
            known = " and ".join(services.values())
            raise tekton.Refused(
                f"Route {name} has backend {backend.kind} {backend.name}, which is not one of {known} once each",
                remedy="remove that backend, or give the Services by params service-blue and service-green",
            )
        seen.append(backend.name)
        weights[colours[backend.name]] = API_DEFAULT_WEIGHT if backend.weight is None else backend.weight
    return weights


def admission(stored: kube.Object) -> tuple[bool, str, str]:
    """Whether a router carries the Route, why not, and the host it gave it."""
    reason, host = "no router has taken it up yet", ""
    for ingress in (stored.get("status") or {}).get("ingress") or []:
        host = host or ingress.get("host", "")
        for condition in ingress.get("conditions") or []:
            if condition.get("type") == "Admitted":
                if condition.get("status") == "True":
                    return True, "", ingress.get("host", "") or host
                reason = f"{condition.get('reason', 'not admitted')}: {condition.get('message', '')}".strip(": ")
    return False, reason, host


class Driver(Protocol):
    """Where the weights of two colours stand, and what stands behind them."""

    services: Services

    def get(self, name: str) -> Route | None:
        """Read weights and notes; None where there are none."""

    def require(self, name: str) -> Route:
        """Read weights and notes that must exist. Raises `tekton.Refused`."""

    def look(self, name: str) -> tuple[Route, Mapping[str, Colour]]:
        """Read weights and notes, and what stands behind each colour. Raises `tekton.Refused`."""

    def write(
        self, route: Route, weights: Weights, annotations: Mapping[str, str | None], *, alone: bool = False
    ) -> Route:
        """Set weights and notes in one write, if they still are as they were read. Raises `kube.Conflict`."""


class Routes:
    """The Routes of a namespace whose backends are one pair of Services."""

    def __init__(self, cluster: kube.Cluster, services: Services) -> None:
        self.cluster = cluster
        self.services = services

    def get(self, name: str) -> Route | None:
        """Read a Route; None where there is none. Raises `tekton.Refused` as `parse` does."""
        stored = self.cluster.get(kube.ROUTE, name)
        return None if stored is None else parse(stored, self.services)

    def require(self, name: str) -> Route:
        """Read a Route that must exist. Raises `tekton.Refused` as `parse` does, and where there is none."""
        route = self.get(name)
        if route is None:
            raise tekton.Refused(
                f"there is no Route {name} in namespace {self.cluster.namespace}",
                remedy="run kserve-deploy first (it creates the Route), or correct param route",
            )
        return route

    def look(self, name: str) -> tuple[Route, Mapping[str, Colour]]:
        """Read the colours and then the Route, which must exist. Raises `tekton.Refused` as `require` does."""
        # The model name is the InferenceService's label, found through the Service: rollback gets no model param.
        colours = {colour: behind.of_service(self.cluster, service) for colour, service in self.services.items()}
        return self.require(name), colours

    def write(
        self, route: Route, weights: Weights, annotations: Mapping[str, str | None], *, alone: bool = False
    ) -> Route:
        """Set weights and annotations in one write, if the Route still is as it was read; `alone`: see `backends`.

        Raises `kube.Conflict` when another writer was faster; the caller decides whether to look again.
        """
        change = backends(weights, self.services, alone=alone) | {"metadata": {"annotations": dict(annotations)}}
        stored = self.cluster.patch(kube.ROUTE, route.name, change, route.resource_version)
        return parse(stored, self.services)


def backends(weights: Weights, services: Services, *, alone: bool = False) -> kube.Object:
    """`spec` with the whole backend list for these weights, which must sum to 100, the larger one first.

    Both stay, the second one with weight 0, so that a reader sees where a rollback would go. `alone` takes the second
    one out, as a rollback does: a backend of weight 0 still serves connections that a router keeps to it.
    """
    if set(weights) != set(contract.COLOURS) or sum(weights.values()) != 100 or min(weights.values()) < 0:
        raise ValueError(f"weights {dict(weights)} do not share 100 between {contract.COLOURS}")
    first, second = sorted(contract.COLOURS, key=lambda colour: -weights[colour])
    if alone and weights[second]:
        raise ValueError(f"{second} has {weights[second]} % of the traffic and cannot be taken out")
    entries = [{"kind": "Service", "name": services[colour], "weight": weights[colour]} for colour in (first, second)]
    return {"spec": {"to": entries[0], "alternateBackends": None if alone else entries[1:]}}
