"""The catalog's own images, and the lab's: built by `make images`, imported into containerd.

Each is imported under its tag and under NAME@DIGEST, the form that overlays/prod pins. The Debian base image also
stands in for other projects' images (alpine, ubuntu, ...) of Tekton's example runs: same names, Debian's tools.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab import images
from lab.part import CHECKOUT, Lab, LabError, Part

VERSION = "0.1.0"
BASE = f"docker.io/isotherm/base:{VERSION}"
STORAGE_INITIALIZER = f"docker.io/isotherm/storage-initializer:{VERSION}"
FOREIGN = (
    "alpine", "alpine/git:latest", "bash", "bash:latest", "bash:3.2", "busybox", "debian", "python", "python:alpine3.6",
    "ubuntu", "mirror.gcr.io/alpine", "mirror.gcr.io/alpine/git", "mirror.gcr.io/bash", "mirror.gcr.io/bash:3.2",
    "mirror.gcr.io/busybox", "mirror.gcr.io/debian", "mirror.gcr.io/python", "mirror.gcr.io/ubuntu",
    "registry.access.redhat.com/ubi8/ubi-minimal:latest",
)  # fmt: skip


def full(name: str) -> str:
    """A reference as containerd keeps it: `alpine` is docker.io/library/alpine:latest."""
    head, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in head:
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _figures(lab: Lab) -> Path:
    return lab.folder("archives") / "images.json"


def start(lab: Lab) -> None:
    """Build what changed (minutes when everything did), import what containerd lacks."""
    folder = lab.cache / "archives"
    command = [sys.executable, "-m", "isotherm_local.images", "--lab", "--archives", str(folder)]
    command += ["--json", str(_figures(lab))]
    with lab.log("images").open("ab") as log:
        if subprocess.run(command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            raise LabError("the images could not be built")
    have = images.present()
    for image in json.loads(_figures(lab).read_text()):
        name, digest = image["reference"], image["digest"]
        pinned = f"{name.rpartition(':')[0]}@{digest}"
        if pinned not in have:
            images.load(folder / f"{image['name']}.tar")
            images.tag(name, pinned)
    for name in FOREIGN:
        images.tag(BASE, full(name))


def ready(_: Lab) -> str:
    """containerd has the stand-in, which is tagged last."""
    return "" if full(FOREIGN[-1]) in images.present() else "the images are not imported"


def pinned(lab: Lab) -> dict[str, str]:
    """Digest of each image of the catalog by name, such as `isotherm/ops`."""
    found = json.loads(_figures(lab).read_text())
    return {image["reference"].removeprefix("docker.io/").rpartition(":")[0]: image["digest"] for image in found}


PART = Part(
    "catalog-images", start, ready, needs=("containerd",), log="images", seconds=1800,
    packages={"buildah": "buildah", "skopeo": "skopeo", "debootstrap": "debootstrap"},
)  # fmt: skip
