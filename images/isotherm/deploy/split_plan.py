"""What a deployment changes with driver isvc: the predictor of a first model, the canary of every other one.

Reads   the InferenceService and the ServingRuntime
Writes  nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotherm import contract, kube, tekton
from isotherm.deploy import plan, render, splits
from isotherm.deploy.splits import BLUE, GREEN

if TYPE_CHECKING:
    from isotherm.deploy.deploy import Request
    from isotherm.deploy.registered import RegisteredModel

NO_SHIFT = splits.encode({contract.ANNOTATION_SHIFT_TOKEN: "0"})


@dataclass(frozen=True)
class Planned:
    """A colour, what has to change for it, what there was, and whose claim its pods are to carry."""

    choice: plan.Choice
    changes: list[plan.Change]
    split: splits.Split | None
    claimed_by: str


def prepare(request: Request, cluster: kube.Cluster, model: RegisteredModel, uri: str) -> Planned:
    """Choose the colour and decide what has to change. Reads only.

    Raises `tekton.Refused` as `plan.choose_colour` and `splits.parse` do, and where a shift is not settled.
    """
    if request.route_host:
        raise tekton.BadInput(
            "param route-host is given, but with driver isvc the platform makes the Route", remedy="leave it empty"
        )
    split = splits.Splits(cluster, request.route).get(request.route)
    if split is None:
        _refuse_taken(cluster, request.route)
    held = {name: colour.digest for name, colour in (split.colours if split else {}).items()}
    choice = plan.choose_colour(split, held or dict.fromkeys(contract.COLOURS, ""), model.digest, request.run_uid)
    if split is not None and choice.outcome == "unchanged":
        return Planned(choice, [], split, split.colours[choice.colour].claimed_by)
    if split is not None and choice.colour == BLUE:
        raise tekton.Refused(
            f"the last shift of {split} is not settled: its canary has all traffic, so there is no place for another",
            remedy="run the pipeline of that shift again: it goes on from there",
        )
    wanted = render.serving_runtime(request.predictor_image)
    runtime = plan.runtime(cluster.get(kube.SERVING_RUNTIME, render.runtime_name()), wanted)
    predictor = render.predictor(
        model_name=request.model_name, colour=choice.colour, digest=model.digest, semver=model.semver,
        data_version=model.data_version, claimed_by=request.run_uid, storage_uri=uri, size=request.size,
    )  # fmt: skip
    body = _first(request, model, predictor) if split is None else _canary(split, predictor, request.size.replicas)
    service = plan.inference_service(split.stored if split else None, body)
    return Planned(choice, [runtime, service], split, request.run_uid)


def _refuse_taken(cluster: kube.Cluster, name: str) -> None:
    """Refuse a name that a Route has: a platform writes an exposed InferenceService's Route, whoever made it."""
    if cluster.get(kube.ROUTE, name) is not None:
        raise tekton.Refused(
            f"there is a Route {name} already, which the platform of an InferenceService {name} would overwrite",
            remedy="give param route another name, or use driver route",
        )


def _first(request: Request, model: RegisteredModel, predictor: kube.Object) -> kube.Object:
    return render.split_service(name=request.route, model_name=model.name, notes=NO_SHIFT, predictor=predictor)


def _canary(split: splits.Split, predictor: kube.Object, replicas: int) -> kube.Object:
    """The entry without traffic, and the replicas lent to it: KServe takes a canary's off the predictor's."""
    own = render.own_replicas(split.stored["spec"])
    entry = render.canary(predictor, split.weights[GREEN])
    return {
        "metadata": {"name": split.name},
        "spec": {"predictor": {"minReplicas": own + replicas}, "canary": [entry]},
    }
