"""The Kubernetes objects of one deployment, from the templates beside this module.

Inputs: names, digests and locations. Outputs: objects as the API takes them. The templates quote every value
(`quoted`), so that none can add a field.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import isotherm
from isotherm import contract, tekton
from isotherm.kube import Object

TEMPLATES = Path(__file__).parent / "templates"
TERMINATIONS = ("edge", "none")
LONGEST_NAME = 63
_CPU = re.compile(r"[1-9][0-9]*m?|[0-9]+\.[0-9]{1,3}")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi)")


@dataclass(frozen=True)
class Size:
    """How many predictor pods a colour has at least, and what each asks for (Kubernetes quantities, a volume's claim).

    Raises `tekton.BadInput` where Kubernetes would refuse the pods, or make none.
    """

    replicas: int = 1
    cpu: str = "250m"
    memory: str = "512Mi"
    log_claim: str = ""  # PersistentVolumeClaim of their prediction logs; empty: each keeps its own until it ends

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise tekton.BadInput(f"param predictor-replicas is {self.replicas}", remedy="give a whole number from 1")
        if not _CPU.fullmatch(self.cpu):
            raise tekton.BadInput(f"param predictor-cpu is {self.cpu[:40]!r}", remedy="give cores such as 1 or 250m")
        if not _MEMORY.fullmatch(self.memory):
            raise tekton.BadInput(
                f"param predictor-memory is {self.memory[:40]!r}", remedy="give a size such as 512Mi or 2Gi"
            )
        if self.log_claim and not _CLAIM.fullmatch(self.log_claim):
            raise tekton.BadInput(
                f"param prediction-log-claim is {self.log_claim[:80]!r}",
                remedy="give the name of a PersistentVolumeClaim",
            )


def inference_service_name(model_name: str, colour: str) -> str:
    """`<model-name>-<colour>`. Raises `tekton.BadInput` where KServe's `<name>-predictor` would be too long for a
    Service.
    """
    name = f"{model_name}-{colour}"
    if len(predictor_name(name)) > LONGEST_NAME:
        longest = LONGEST_NAME - len(predictor_name("-green"))
        raise tekton.BadInput(
            f"param model-name {model_name!r} is too long for Kubernetes", remedy=f"use at most {longest} characters"
        )
    return name


def predictor_name(inference_service: str) -> str:
    """Name of the Deployment and Service that KServe makes."""
    return f"{inference_service}-predictor"


def runtime_name() -> str:
    """Name of this version's ServingRuntime: a runtime of another version is another object, so no colour rolls by
    surprise.
    """
    return f"isotherm-pinn-{isotherm.__version__.replace('.', '-')}"


def serving_runtime(image: str) -> Object:
    """ServingRuntime of this version of Isotherm with its predictor image."""
    return _render(
        "serving-runtime", name=runtime_name(), version=isotherm.__version__, image=image,
        served_name=contract.SERVED_MODEL_NAME, port=contract.PREDICTOR_PORT, model_mount=contract.MODEL_MOUNT,
    )  # fmt: skip


def inference_service(
    *, model_name: str, colour: str, digest: str, semver: str, data_version: str, claimed_by: str, storage_uri: str,
    size: Size,
) -> Object:  # fmt: skip
    """InferenceService of one colour, serving one stored model: its own annotations have the model's notes."""
    rendered = _render(
        "inference-service", name=inference_service_name(model_name, colour), model_name=model_name, colour=colour,
        digest=digest, semver=semver, data_version=data_version, claimed_by=claimed_by,
    )  # fmt: skip
    own = predictor(
        model_name=model_name, colour=colour, digest=digest, semver=semver, data_version=data_version,
        claimed_by=claimed_by, storage_uri=storage_uri, size=size,
    )  # fmt: skip
    del own["annotations"]
    return rendered | {"spec": {"predictor": own}}


def split_service(*, name: str, model_name: str, notes: str, predictor: Object) -> Object:
    """InferenceService of driver isvc: its predictor is colour blue, an entry of `spec.canary` is to become green."""
    rendered = _render("split-inference-service", name=name, model_name=model_name, notes=notes)
    return rendered | {"spec": {"predictor": predictor}}


def predictor(
    *, model_name: str, colour: str, digest: str, semver: str, data_version: str, claimed_by: str, storage_uri: str,
    size: Size,
) -> Object:  # fmt: skip
    """One predictor of an InferenceService, with its model's notes."""
    return _render(
        "predictor", colour=colour, digest=digest, semver=semver, data_version=data_version, claimed_by=claimed_by,
        storage_uri=storage_uri, runtime=runtime_name(), replicas=size.replicas, cpu=size.cpu, memory=size.memory,
        account=contract.PREDICTOR_ACCOUNT, log=_log(size.log_claim, model_name, storage_uri),
    )  # fmt: skip


def _log(claim: str, model_name: str, storage_uri: str) -> dict[str, str]:
    """The volume of a prediction log and its mounts; nothing without a claim.

    A pod that has one claim as two volumes is never started by the kubelet, so a model on the same claim is mounted
    here, as the volume that KServe would add: it leaves a mount of that name alone (decision 0017).
    """
    if not claim:
        return {}
    shared = storage_uri.startswith(f"pvc://{claim}/")
    return {
        "claim": claim, "volume": contract.KSERVE_CLAIM_VOLUME if shared else "predictions",
        "mount": contract.PREDICTION_LOG_MOUNT, "sub_path": f"{contract.PREDICTION_LOG_SUB_PATH}/{model_name}",
        "model_mount": contract.MODEL_MOUNT,
        "model_sub_path": storage_uri.removeprefix(f"pvc://{claim}/") if shared else "",
    }  # fmt: skip


def canary(predictor: Object, share: int) -> Object:
    """Entry of `spec.canary` with `share` percent.

    KServe's CRD requires a name of its container; its webhook refuses one of the predictor's.
    """
    model = {"name": contract.KSERVE_CONTAINER, **predictor["model"]}
    return {"predictor": {"name": contract.CANARY_NAME, **predictor, "model": model}, "trafficPercent": share}


def own_replicas(spec: Object) -> int:
    """Least number of the predictor's own pods by an InferenceService's `spec`: without what it lends to its canary."""
    lent = sum(entry["predictor"].get("minReplicas", 1) for entry in spec.get("canary") or [])
    return int(max(1, spec["predictor"].get("minReplicas", 1) - lent))


def promoted(canary: Object) -> Object:
    """What `spec.predictor` takes over of a canary's predictor: its model and notes, under the track of the predictor.

    While there is a canary, KServe takes its replicas off the predictor's: they are lent to it on top.
    """
    blue = contract.COLOURS[0]
    model: Object = {key: value for key, value in canary["model"].items() if key != "name"}
    model["env"] = [
        {**one, "value": blue} if one.get("name") == contract.ENV_TRACK else one for one in model.get("env") or []
    ]
    own: Object = {key: canary[key] for key in ("annotations", "serviceAccountName", "volumes") if key in canary}
    return {**own, "model": model, "minReplicas": 2 * canary.get("minReplicas", 1)}


def service(*, name: str, model_name: str, colour: str) -> Object:
    """Service of one colour: the backend that the Route names."""
    return _render(
        "service", name=name, model_name=model_name, colour=colour, port=contract.PREDICTOR_PORT,
        inference_service=inference_service_name(model_name, colour),
    )  # fmt: skip


def route(
    *, name: str, model_name: str, live: str, services: Mapping[str, str], host: str, termination: str,
    digest: str, holder: str, live_since: str,
) -> Object:  # fmt: skip
    """Route of a first deployment: everything to colour `live`, the other one beside it with weight 0."""
    if termination not in TERMINATIONS:
        raise tekton.BadInput(f"param tls-termination is {termination[:40]!r}", remedy="give edge or none")
    other_service = next(service for colour, service in services.items() if colour != live)
    return _render(
        "route", name=name, model_name=model_name, live_service=services[live], other_service=other_service,
        host=host, termination=termination, digest=digest, holder=holder, live_since=live_since,
    )  # fmt: skip


def _quoted(value: str) -> str:
    """A YAML scalar in double quotes, which nothing inside it can end (JSON's escapes are not all YAML's)."""
    import yaml

    return str(yaml.safe_dump(value, default_style='"', width=sys.maxsize)).strip()


def _render(template: str, **values: Any) -> Object:
    import jinja2
    import yaml

    environment = jinja2.Environment(  # noqa: S701 (YAML, not HTML: every value passes through `quoted`)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quoted"] = _quoted
    rendered: Object = yaml.safe_load(environment.get_template(f"{template}.yaml.j2").render(**values))
    return rendered
