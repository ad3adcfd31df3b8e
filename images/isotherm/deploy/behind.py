"""What stands behind a colour: the model that its pods were made for, and where they are.

Reads   a colour's Service and the InferenceService that it selects
Writes  nothing
"""

from __future__ import annotations

from dataclasses import dataclass

from isotherm import contract, kube
from isotherm.deploy import render

LABEL_INFERENCE_SERVICE = "serving.kserve.io/inferenceservice"


@dataclass(frozen=True)
class Colour:
    """A colour's model, whose run claimed it, and its pods; empty values where there is none."""

    digest: str = ""
    semver: str = ""
    claimed_by: str = ""
    endpoints: int = 0
    inference_service: str = ""
    deployment: str = ""


def of_notes(notes: kube.Object, inference_service: str, deployment: str) -> Colour:
    """Read the notes that kserve-deploy leaves with a model."""
    keys = (contract.ANNOTATION_MODEL_DIGEST, contract.ANNOTATION_MODEL_VERSION, contract.ANNOTATION_CLAIMED_BY)
    digest, semver, claimed_by = (str(notes.get(key, "")) for key in keys)
    return Colour(digest, semver, claimed_by, 0, inference_service, deployment)


def of_service(cluster: kube.Cluster, service: str) -> Colour:
    """Follow a Service's selector to its InferenceService."""
    stored = cluster.get(kube.SERVICE, service)
    selector = ((stored or {}).get("spec") or {}).get("selector") or {}
    name = selector.get(LABEL_INFERENCE_SERVICE, "")
    found = cluster.get(kube.INFERENCE_SERVICE, name) if name else None
    if found is None:
        return Colour()
    return of_notes(found["metadata"].get("annotations") or {}, name, render.predictor_name(name))
