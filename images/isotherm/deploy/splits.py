"""An InferenceService with `spec.canary` as the pair of colours that a shift knows: driver `isvc` of route-shift.

Reads   InferenceService (serving.kserve.io/v1beta1, KServe 0.20): both predictors, trafficPercent, the notes; the Route
        that its platform made for it; both Deployments
Writes  spec.canary, and the notes of the same write, by merge-patch with the resourceVersion that was read

Blue is `spec.predictor`, green the entry of `spec.canary`; green's weight is its trafficPercent. KServe itself makes a
Deployment and a Service of each and splits nothing: a platform's controller does, by a Route that this InferenceService
controls. KServe hands an InferenceService's annotations down to the pods, so all notes are one annotation, which its
`serviceAnnotationDisallowedList` must name: else every write would restart both models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationError

from isotherm import contract, kube, tekton
from isotherm.deploy import behind, render, routes
from isotherm.deploy.behind import Colour

BLUE, GREEN = contract.COLOURS
_FOLLOWED = (
    "use driver route, or a platform whose controller gives the InferenceService a Route that follows spec.canary "
    "(Open Data Hub, OpenShift AI)"
)


class _Predictor(BaseModel):
    name: str = ""
    annotations: dict[str, str] = {}
    minReplicas: int = Field(default=1, ge=0)
    model: dict[str, Any]


class _Canary(BaseModel):
    predictor: _Predictor
    trafficPercent: int = Field(ge=0, le=100)


class _Spec(BaseModel):
    predictor: _Predictor
    canary: list[_Canary] = []
    transformer: dict[str, Any] | None = None
    explainer: dict[str, Any] | None = None


@dataclass(frozen=True)
class Split(routes.Route):
    """What Isotherm needs to know of such an InferenceService, at one resourceVersion."""

    kind: ClassVar[kube.Kind] = kube.INFERENCE_SERVICE
    stored: kube.Object = field(default_factory=dict)
    spec: _Spec = field(default_factory=lambda: _Spec(predictor=_Predictor(model={})))

    def refuse_unserved(self) -> None:
        """Raise `tekton.Refused` where nothing would make traffic of what is written."""
        if not self.admitted:
            raise tekton.Refused(
                f"nothing splits the traffic of {self}: {self.not_admitted_because}; nothing was changed",
                remedy=_FOLLOWED,
            )

    def refuse_no_way_back(self, colour: str) -> None:
        """Raise `tekton.Refused` on a rollback to the canary: once a shift is settled, the model before is gone."""
        if colour == GREEN:
            raise tekton.Refused(
                f"{self} keeps no model from before a shift that has ended",
                remedy="deploy and shift the registered version that you want back",
            )

    @property
    def colours(self) -> Mapping[str, Colour]:
        """Both colours' models; an empty green where there is no canary."""
        canary = self.spec.canary[0].predictor if self.spec.canary else None
        return {BLUE: self._colour(BLUE, self.spec.predictor), GREEN: self._colour(GREEN, canary)}

    def _colour(self, colour: str, predictor: _Predictor | None) -> Colour:
        if predictor is None:
            return Colour()
        return behind.of_notes(predictor.annotations, self.name, services(self.name)[colour])

    @property
    def canary(self) -> kube.Object | None:
        """The entry of `spec.canary` as it is stored."""
        entries: list[kube.Object] = self.stored["spec"].get("canary") or []
        return entries[0] if entries else None

    @property
    def settled(self) -> bool:
        """Whether the predictor has all traffic, and no canary is left that it took the model over from."""
        held = self.colours
        return self.live == BLUE and held[BLUE].digest != held[GREEN].digest


def services(name: str) -> routes.Services:
    """The colours' Services, which are named as the Deployments are. Raises `tekton.BadInput` on too long a name."""
    green = render.predictor_name(f"{name}-{contract.CANARY_NAME}")
    if len(green) > render.LONGEST_NAME:
        raise tekton.BadInput(
            f"InferenceService {name} has too long a name: its canary would be Service {green}",
            remedy=f"use at most {render.LONGEST_NAME - len(green) + len(name)} characters",
        )
    return {BLUE: render.predictor_name(name), GREEN: green}


def encode(notes: Mapping[str, str | None]) -> str:
    """Notes as the one annotation that holds them; those that are None are left out."""
    prefix = f"{contract.PREFIX}/"
    return json.dumps({key.removeprefix(prefix): value for key, value in sorted(notes.items()) if value is not None})


def decode(name: str, text: str) -> dict[str, str]:
    """Notes of the annotation. Raises `tekton.Refused` on what is no such object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise tekton.Refused(
            f"InferenceService {name} has an unreadable annotation {contract.ANNOTATION_SHIFT}",
            remedy='correct it; {"shift-token": "0"} says that no shift is known',
        )
    return {f"{contract.PREFIX}/{key}": value for key, value in found.items()}


def parse(stored: kube.Object, route: kube.Object | None) -> Split:
    """Read an InferenceService and the Route in front of it.

    Raises `tekton.Refused` on one that is not ours alone: owned by a controller, not made by kserve-deploy, another
    canary than ours, or a form that KServe or its platform would not split.
    """
    name, metadata = stored["metadata"]["name"], stored["metadata"]
    kube.refuse_foreign(kube.INFERENCE_SERVICE, stored)
    notes = metadata.get("annotations") or {}
    if contract.ANNOTATION_SHIFT not in notes:
        raise tekton.Refused(
            f"InferenceService {name} was not made for driver isvc: it has no annotation {contract.ANNOTATION_SHIFT}",
            remedy="let kserve-deploy make it with param driver: isvc, under a name of its own",
        )
    spec = _spec(name, stored, notes)
    share = spec.canary[0].trafficPercent if spec.canary else 0
    host, tls, missing = front(stored, route)
    return Split(
        name=name, resource_version=metadata["resourceVersion"], weights={BLUE: 100 - share, GREEN: share},
        annotations=decode(name, notes[contract.ANNOTATION_SHIFT]), host=host, admitted=not missing,
        not_admitted_because=missing, tls=tls, stored=stored, spec=spec,
    )  # fmt: skip


def _spec(name: str, stored: kube.Object, notes: Mapping[str, str]) -> _Spec:
    try:
        spec = _Spec.model_validate({key: value for key, value in stored["spec"].items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise tekton.Refused(
            f"InferenceService {name} has an unusable spec.{where}: {problem['msg']}", remedy="correct it"
        ) from error
    strangers = [one.predictor.name for one in spec.canary if one.predictor.name != contract.CANARY_NAME]
    wrong = ""
    if strangers or len(spec.canary) > 1:
        wrong = f"has canaries that are not ours ({', '.join(one.predictor.name for one in spec.canary)})"
    elif spec.transformer or spec.explainer:
        wrong = "has a transformer or an explainer, which a canary would be asked without"
    elif spec.predictor.name:
        wrong = f"has a predictor with name {spec.predictor.name}, so its platform cannot tell it from the canary"
    elif notes.get(contract.ANNOTATION_DEPLOYMENT_MODE) != contract.MODE_STANDARD:
        wrong = f"is not in deployment mode {contract.MODE_STANDARD}, in which alone there is a canary"
    if wrong:
        raise tekton.Refused(f"InferenceService {name} {wrong}", remedy="remove that, or use driver route")
    return spec


def front(stored: kube.Object, route: kube.Object | None) -> tuple[str, bool, str]:
    """Host of the Route in front, whether it has TLS, and why it is none that splits this traffic (empty: it does)."""
    name = stored["metadata"]["name"]
    if route is None:
        return "", False, f"there is no Route {name}, and KServe alone makes a canary's pods and no split"
    owners = route["metadata"].get("ownerReferences") or []
    if not any(one.get("controller") and one.get("uid") == stored["metadata"].get("uid") for one in owners):
        return "", False, f"Route {name} is not made from it by its platform"
    spec = route["spec"]
    admitted, reason, host = routes.admission(route)
    if not admitted:
        return spec.get("host") or host, "tls" in spec, f"no router carries Route {name}: {reason}"
    own = services(name)
    strangers = set(backends(route)) - set(own.values())
    if strangers or spec["to"].get("name") != own[BLUE]:
        seen = ", ".join(backends(route))
        return host, "tls" in spec, f"Route {name} leads to {seen}, not to {own[BLUE]} and its canary"
    return spec.get("host") or host, "tls" in spec, ""


def backends(route: kube.Object) -> dict[str, int]:
    """A Route's weights by Service."""
    entries = [route["spec"]["to"], *(route["spec"].get("alternateBackends") or [])]
    return {
        one.get("name", ""): routes.API_DEFAULT_WEIGHT if one.get("weight") is None else one["weight"]
        for one in entries
    }


class Splits:
    """The InferenceService of a namespace that holds both colours."""

    def __init__(self, cluster: kube.Cluster, name: str) -> None:
        self.cluster = cluster
        self.services = services(name)

    def get(self, name: str) -> Split | None:
        """Read it; None where there is none. Raises `tekton.Refused` as `parse` does."""
        stored = self.cluster.get(kube.INFERENCE_SERVICE, name)
        return None if stored is None else parse(stored, self.cluster.get(kube.ROUTE, name))

    def require(self, name: str) -> Split:
        """Read one that must exist. Raises `tekton.Refused` as `parse` does, and where there is none."""
        split = self.get(name)
        if split is None:
            raise tekton.Refused(
                f"there is no InferenceService {name} in namespace {self.cluster.namespace}",
                remedy="run kserve-deploy with param driver: isvc first, or correct param route",
            )
        return split

    def look(self, name: str) -> tuple[Split, Mapping[str, Colour]]:
        """Read it once, for weights, notes and models. Raises `tekton.Refused`, also where notes reach the pods."""
        split = self.require(name)
        for colour in split.colours.values():
            self.refuse_handed_down(colour.deployment)
        return split, split.colours

    def refuse_handed_down(self, deployment: str) -> None:
        """Refuse pods that carry the notes: each write would restart them. Raises `tekton.Refused`."""
        stored = self.cluster.get(kube.DEPLOYMENT, deployment) if deployment else None
        template = (((stored or {}).get("spec") or {}).get("template") or {}).get("metadata") or {}
        if contract.ANNOTATION_SHIFT in (template.get("annotations") or {}):
            raise tekton.Refused(
                f"KServe hands annotation {contract.ANNOTATION_SHIFT} down to Deployment {deployment}, so every step "
                "would restart its pods",
                remedy="add it to serviceAnnotationDisallowedList (ConfigMap inferenceservice-config, key "
                "inferenceService), then deploy again",
            )

    def write(
        self,
        route: routes.Route,
        weights: routes.Weights,
        annotations: Mapping[str, str | None],
        *,
        alone: bool = False,  # noqa: ARG002 (see below)
    ) -> Split:
        """Set trafficPercent and notes in one write, if it still is as it was read. Raises `kube.Conflict`.

        The canary stays, also with `alone`: `drop` takes it out once nobody is sent there any more, as KServe ends its
        pods at once.
        """
        split = _known(route)
        if set(weights) != set(contract.COLOURS) or sum(weights.values()) != 100 or min(weights.values()) < 0:
            raise ValueError(f"weights {dict(weights)} do not share 100 between {contract.COLOURS}")
        if split.canary is None:
            if weights[GREEN]:
                raise tekton.Refused(f"{split} has no canary to give traffic to", remedy="run kserve-deploy again")
            return self._write(split, {}, annotations)
        return self._write(split, {"canary": [split.canary | {"trafficPercent": weights[GREEN]}]}, annotations)

    def drop(self, split: Split, notes: Mapping[str, str | None] | None = None) -> Split:
        """Take the canary out, and with it the replicas that the predictor lent to it. Raises `kube.Conflict`."""
        if split.canary is None or split.live != BLUE:
            raise ValueError(f"{split} has no canary without traffic")
        own = render.own_replicas(split.stored["spec"])
        return self._write(split, {"canary": None, "predictor": {"minReplicas": own}}, notes or {})

    def adopt(self, split: Split) -> Split:
        """Give the predictor the canary's model, while the canary has all traffic. Raises `kube.Conflict`."""
        if split.canary is None or split.live != GREEN:
            raise ValueError(f"the predictor of {split} has traffic")
        return self._write(split, {"predictor": render.promoted(split.canary["predictor"])}, {})

    def follows(self, split: Split) -> bool:
        """Whether the Route in front says what `spec.canary` says."""
        route = self.cluster.get(kube.ROUTE, split.name)
        seen = {} if route is None else backends(route)
        return all(seen.get(self.services[colour], 0) == weight for colour, weight in split.weights.items())

    def droppable(self, split: Split) -> bool:
        """Whether ending the canary's pods leaves clients with answers: the Route in front leads to the predictor."""
        route = self.cluster.get(kube.ROUTE, split.name)
        return route is None or backends(route).get(self.services[BLUE], 0) > 0

    def _write(self, split: Split, spec: kube.Object, annotations: Mapping[str, str | None]) -> Split:
        notes = {contract.ANNOTATION_SHIFT: encode({**split.annotations, **annotations})}
        change = {"metadata": {"annotations": notes}} | ({"spec": spec} if spec else {})
        stored = self.cluster.patch(kube.INFERENCE_SERVICE, split.name, change, split.resource_version)
        # The Route in front was looked at before; a write that has happened must not fail by reading it again.
        seen = {key: getattr(split, key) for key in ("host", "tls", "admitted", "not_admitted_because")}
        return replace(parse(stored, None), **seen)


def _known(route: routes.Route) -> Split:
    if not isinstance(route, Split):
        raise TypeError(f"{route} is no InferenceService")
    return route
