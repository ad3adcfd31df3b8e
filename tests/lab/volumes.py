"""Volumes by claim: a small provisioner of `local` PersistentVolumes, as the default StorageClass.

The controller-manager's own host-path provisioner makes folders that only root may write, and the kubelet gives a
host path no group; a `local` volume gets the pod's fsGroup, as a cluster's real drivers give it.
Run as `python -m lab.volumes KUBECONFIG FOLDER`: claims of class `local` become folders of FOLDER, which are removed
with their claim.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from lab import daemons
from lab.part import NODE_NAME, Lab, Part

CLASS = "local"
PROVISIONER = "lab.isotherm/local"


def start(lab: Lab) -> None:
    """The StorageClass and the provisioner."""
    lab.apply(
        [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": CLASS,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": PROVISIONER,
            }
        ]
    )
    daemons.start_module(lab, "volumes", "lab.volumes", str(lab.kubeconfig), str(lab.folder("volumes")))


def _volume(claim: Any, folder: Path) -> dict[str, Any]:
    metadata, spec = claim.metadata, claim.spec
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "metadata": {"name": folder.name},
        "spec": {
            "storageClassName": CLASS,
            "accessModes": spec.access_modes,
            "capacity": {"storage": spec.resources.requests["storage"]},
            "persistentVolumeReclaimPolicy": "Retain",  # the folder is removed here, where it was made
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata.namespace,
                "name": metadata.name, "uid": metadata.uid,
            },
        },
    }  # fmt: skip


def reconcile(core: Any, root: Path) -> None:
    """Make what claims lack, remove what no claim holds any more."""
    from kubernetes.client import ApiException

    for claim in core.list_persistent_volume_claim_for_all_namespaces().items:
        if claim.spec.storage_class_name != CLASS or claim.spec.volume_name or claim.metadata.deletion_timestamp:
            continue
        folder = root / f"pvc-{claim.metadata.uid}"
        folder.mkdir(mode=0o770, exist_ok=True)
        try:
            core.create_persistent_volume(_volume(claim, folder))
        except ApiException as error:
            if error.status != 409:  # made a moment ago and not bound yet
                raise
    for volume in core.list_persistent_volume().items:
        if volume.spec.storage_class_name == CLASS and volume.status.phase == "Released":
            core.delete_persistent_volume(volume.metadata.name)
            shutil.rmtree(root / volume.metadata.name, ignore_errors=True)


def serve(kubeconfig: str, root: Path) -> None:
    """Reconcile for ever; an API server that is away is waited for."""
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()
    while True:
        try:
            reconcile(core, root)
        except (client.ApiException, HTTPError) as error:
            print(f"volumes: {' '.join(str(error).split())[:300]}", flush=True)
        time.sleep(0.5)


PART = Part(
    "volumes", start, lambda lab: daemons.require(lab, "volumes"), lambda lab: daemons.stop(lab, "volumes"),
    needs=("kubelet",), log="volumes",
)  # fmt: skip

if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
