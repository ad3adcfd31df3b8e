"""The catalog's own images, and the lab's: built by `make images`, imported into containerd.

Each is imported under its tag and under NAME@DIGEST, the form that overlays/prod pins. The Debian base image also
stands in for other projects' images (alpine, ubuntu, ...) of Tekton's example runs: same names, Debian's tools.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tekton_examples

from isotherm_local.images import families
from lab import images
from lab.part import CHECKOUT, Lab, LabError, Part

VERSION = families.version(CHECKOUT)
BASE = f"docker.io/isotherm/base:{VERSION}"
STORAGE_INITIALIZER = f"docker.io/isotherm/storage-initializer:{VERSION}"


def foreign() -> list[str]:
    """The images that Tekton's example runs use, those that the local runner runs too."""
    module = tekton_examples.module()
    found: set[str] = set()
    for example in tekton_examples.examples():
        if not example.refused:
            for document in example.documents(module):
                found.update(_images(document))
    return sorted(name for name in found if "$(" not in name and not name.startswith("isotherm/"))


def _images(item: Any) -> Iterator[str]:
    if isinstance(item, dict):
        if item.get("name") == "image" and isinstance(item.get("value"), str):  # a param of that name
            yield item["value"]
        for key, value in item.items():
            if key == "image" and isinstance(value, str):
                yield value
            else:
                yield from _images(value)
    elif isinstance(item, list):
        for value in item:
            yield from _images(value)


def full(name: str) -> str:
    """A reference as containerd keeps it: `alpine` is docker.io/library/alpine:latest."""
    head, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in head:
        name = f"docker.io/{name}"
    return name if re.search(r"[:@]", name.rpartition("/")[2]) else f"{name}:latest"


def _archives(lab: Lab) -> Path:
    return lab.cache / "archives"


def _figures(lab: Lab) -> Path:
    return lab.folder("archives") / "images.json"


def build(lab: Lab) -> None:
    """Build what changed (minutes when everything did)."""
    command = [sys.executable, "-m", "isotherm_local.images", "--lab", "--archives", str(_archives(lab))]
    command += ["--json", str(_figures(lab))]
    with lab.log("images").open("ab") as log:
        if subprocess.run(command, cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
            raise LabError("the images could not be built")


def start(lab: Lab) -> None:
    """Import what containerd lacks of the images that are built."""
    folder, have = _archives(lab), images.present()
    for image in json.loads(_figures(lab).read_text()):
        name, digest = image["reference"], image["digest"]
        pinned = f"{name.rpartition(':')[0]}@{digest}"
        if pinned not in have:
            images.load(folder / f"{image['name']}.tar")
            images.tag(name, pinned)
            if name == BASE:
                have -= {full(one) for one in foreign()}  # they name the base of before
    for name in foreign():
        if full(name) not in have:
            images.tag(BASE, full(name))
    (lab.folder("archives") / "imported").touch()


def ready(lab: Lab) -> str:
    """All are imported and tagged."""
    return "" if (lab.folder("archives") / "imported").exists() else "the images are not imported"


def pinned(lab: Lab) -> dict[str, str]:
    """Digest of each image of the catalog by name, such as `isotherm/ops`."""
    found = json.loads(_figures(lab).read_text())
    return {image["reference"].removeprefix("docker.io/").rpartition(":")[0]: image["digest"] for image in found}


PART = Part(
    "catalog-images", start, ready, early=build, needs=("containerd",), log="images",
    packages={"buildah": "buildah", "skopeo": "skopeo", "debootstrap": "debootstrap"},
)  # fmt: skip
