"""The parts of the lab in the order in which they can start."""

from __future__ import annotations

from lab import (
    admission,
    catalog_images,
    control_plane,
    dns,
    forge,
    git,
    images,
    kserve,
    mlflow,
    node,
    policies,
    rollouts,
    routes,
    storage,
    tekton,
    volumes,
    watching,
)
from lab.part import LabError, Part

_ALL = (
    node.CONTAINERD,
    images.PART,
    catalog_images.PART,
    control_plane.PART,
    admission.PART,
    node.KUBELET,
    volumes.PART,
    dns.PART,
    tekton.PIPELINES,
    kserve.PART,
    tekton.TRIGGERS,
    storage.S3,
    storage.POSTGRES,
    mlflow.PART,
    git.PART,
    routes.PART,
    watching.PROMETHEUS,
    watching.ALERTMANAGER,
    forge.PART,
    policies.PART,
    rollouts.PART,
)
TABLE: dict[str, Part] = {part.name: part for part in _ALL}


def chosen(names: list[str]) -> list[Part]:
    """The named parts (none: the core) and all that they need, in starting order. Raises `LabError` on a wrong name."""
    unknown = [name for name in names if name not in TABLE]
    if unknown:
        raise LabError(f"there is no part {', '.join(unknown)}; parts are {', '.join(TABLE)}")
    wanted = set(names or [name for name, part in TABLE.items() if part.core])
    for part in reversed(_ALL):
        if part.name in wanted:
            wanted.update(part.needs)
    return [part for part in _ALL if part.name in wanted]
