"""`spec.canary` of an InferenceService: KServe's rules for it, its predictors, and the Route of a platform that splits.

Pure functions on objects as JSON. Sources: kserve v0.20.0, `validateCanarySpecs` (pkg/apis/serving/v1beta1) and
`buildCanaryPredictor`, `reconcileRawDeployment` (pkg/controller/v1beta1/inferenceservice/components/predictor.go);
opendatahub-io/odh-model-controller, `kserve_raw_route_reconciler.go`, as of 2026-08.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from isotherm import contract
from isotherm_local.kinds import Cause, Object

_FIXED = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec")
STANDARD = "Standard"


def deployment_name(service: Object) -> str:
    """Name of the Deployment and Service of this predictor."""
    name, own = service["metadata"]["name"], service["spec"]["predictor"].get("name")
    return f"{name}-{own}-predictor" if own else f"{name}-predictor"


def causes(service: Object) -> list[Cause]:
    """What KServe's webhook refuses of `spec.canary`."""
    spec, entries = service["spec"], service["spec"].get("canary")
    predictor = spec.get("predictor")
    if isinstance(predictor, dict) and isinstance(predictor.get("model"), dict) and predictor["model"].get("name"):
        return [("spec.predictor.model.name", "the 'name' field is not allowed in standard predictor")]
    if not entries:
        return []
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and isinstance(one.get("predictor"), dict) for one in entries
    ):
        return [("spec.canary", "must be a list of predictor and trafficPercent")]
    notes = service["metadata"].get("annotations") or {}
    if notes.get("serving.kserve.io/deploymentMode") != STANDARD:
        return [("spec.canary", f"canary is only supported in {STANDARD} deployment mode")]
    stable, names, total = spec.get("predictor") or {}, [stable_name(spec)], 0
    found: list[Cause] = []
    for index, entry in enumerate(entries):
        found += _entry(f"spec.canary[{index}]", entry, stable, names)
        names.append(entry["predictor"].get("name", ""))
        share = entry.get("trafficPercent")
        total += share if isinstance(share, int) else 0
    if total > 100:
        found.append(("spec.canary", f"sum of canary trafficPercent values ({total}) must be <= 100"))
    return found


def stable_name(spec: Mapping[str, Any]) -> str:
    """Name of the stable predictor, most often empty."""
    return str((spec.get("predictor") or {}).get("name", ""))


def _entry(where: str, entry: Object, stable: Object, names: Collection[str]) -> list[Cause]:
    predictor, share, found = entry["predictor"], entry.get("trafficPercent"), list[Cause]()
    name = predictor.get("name")
    if not name:
        found.append((f"{where}.predictor.name", "Required value"))
    elif name in names:
        found.append((f"{where}.predictor.name", f"Duplicate value: {name!r}"))
    if not isinstance(share, int) or isinstance(share, bool) or not 0 <= share <= 100:
        found.append((f"{where}.trafficPercent", f"Invalid value: {share!r}: must be between 0 and 100"))
    if not isinstance(predictor.get("model"), dict):
        found.append((f"{where}.predictor.model", "Required value: the local target serves the `model` form only"))
    elif not predictor["model"].get("name"):
        found.append((f"{where}.predictor.model.name", "Required value"))  # by the CRD, of a canary only
    found += [
        (f"{where}.predictor.{field}", "must not be set (canary uses fixed replicas)")
        for field in _FIXED
        if predictor.get(field)
    ]
    if predictor.get("minReplicas", 0) > stable.get("minReplicas", 1):
        found.append((f"{where}.predictor.minReplicas", "must not exceed stable predictor minReplicas"))
    return found


def variants(service: Object) -> dict[str, Object]:
    """The InferenceService as KServe sees it for each of its Deployments, the stable predictor first."""
    spec = service["spec"]
    found, lent = {deployment_name(service): copy.deepcopy(service)}, 0
    stable = spec["predictor"].get("minReplicas", 1)
    for entry in spec.get("canary") or []:
        own = _with(service, merged(spec["predictor"], entry["predictor"]))
        replicas = entry["predictor"].get("minReplicas", -(-stable * entry["trafficPercent"] // 100))
        own["spec"]["predictor"]["minReplicas"] = replicas
        found[deployment_name(own)], lent = own, lent + replicas
    if lent and "minReplicas" in spec["predictor"]:
        found[deployment_name(service)]["spec"]["predictor"]["minReplicas"] = max(1, stable - lent)
    return found


def _with(service: Object, predictor: Object) -> Object:
    return {**copy.deepcopy(service), "spec": {**copy.deepcopy(service["spec"]), "predictor": predictor}}


def merged(stable: Any, canary: Any) -> Any:
    """Lay a canary's predictor over the stable one as Go's mergo does: maps deeply, what is empty not at all."""
    if isinstance(stable, dict) and isinstance(canary, dict):
        return {
            **copy.deepcopy(stable),
            **{key: merged(stable.get(key), value) for key, value in canary.items() if value not in (None, "", [], {})},
        }
    return copy.deepcopy(canary)


def exposed_route(service: Object, port: str | int) -> Object | None:
    """Content of the Route that Open Data Hub's controller makes; None for an InferenceService that it does not expose.

    Its stable backend is `<isvc>-predictor`; with a canary the port is a number, as the Services' port names differ.
    """
    metadata = service["metadata"]
    if (metadata.get("labels") or {}).get(contract.LABEL_VISIBILITY) != contract.VISIBILITY_EXPOSED:
        return None
    name, entries = metadata["name"], service["spec"].get("canary") or []
    backends = [
        {"kind": "Service", "name": f"{name}-{one['predictor']['name']}-predictor", "weight": one["trafficPercent"]}
        for one in entries
    ]
    stable = 100 - sum(one["trafficPercent"] for one in entries)
    spec: Object = {
        "to": {"kind": "Service", "name": deployment_name(service), "weight": stable},
        "port": {"targetPort": port},
        "tls": {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
        "wildcardPolicy": "None",
    }
    if backends:
        spec["alternateBackends"] = backends
    owner = {
        "apiVersion": service["apiVersion"], "kind": service["kind"], "name": name, "uid": metadata["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    return {"metadata": {"labels": {"inferenceservice-name": name}, "ownerReferences": [owner]}, "spec": spec}


def statuses(service: Object, ready: Mapping[str, bool]) -> list[Object]:
    """`status.canaryStatuses`: `ready` says it by the name of the Deployment."""
    name = service["metadata"]["name"]
    return [
        {
            "name": one["predictor"]["name"],
            "ready": ready.get(f"{name}-{one['predictor']['name']}-predictor", False),
            "trafficPercent": one["trafficPercent"],
            "modelStatus": {"transitionStatus": ""},
        }
        for one in service["spec"].get("canary") or []
    ]
