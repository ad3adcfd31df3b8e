"""An image as an OCI layout on disk: the form that is measured, archived and pushed, whatever tool built it.

Its layers are compressed as a registry has them, so the manifest digest printed here is the one that containerd shows
after an import and a registry after a push.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LABEL = "io.isotherm.inputs"
_RECORD = "isotherm.json"


@dataclass(frozen=True)
class Built:
    """What is known of an image: its name, its manifest digest, and its sizes in bytes."""

    name: str
    reference: str
    digest: str
    unpacked: int
    compressed: int
    base: int
    seconds: float
    git_sha: str


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/", 1)


def _json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def digest(folder: Path) -> str:
    """Return the digest of the layout's one manifest."""
    return str(_json(folder / "index.json")["manifests"][0]["digest"])


def manifest(folder: Path) -> dict[str, Any]:
    """Return the layout's one manifest."""
    return _json(_blob(folder, digest(folder)))


def config(folder: Path) -> dict[str, Any]:
    """Return the image's configuration: user, environment, labels, entry point."""
    found: dict[str, Any] = _json(_blob(folder, manifest(folder)["config"]["digest"]))["config"]
    return found


def layers(folder: Path) -> Iterator[Path]:
    """List the layers' files, lowest first; each is a gzip-compressed tar archive."""
    for layer in manifest(folder)["layers"]:
        yield _blob(folder, layer["digest"])


def _unpacked(layer: Path) -> int:
    size = 0
    with gzip.open(layer) as stream:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
    return size


def measure(folder: Path, name: str, reference: str, seconds: float, git_sha: str) -> Built:
    """Measure a layout that was just written, and keep the figures beside it.

    The lowest layer is the base, which all images of one base share.
    """
    files = list(layers(folder))
    sizes = [_unpacked(layer) for layer in files]
    built = Built(
        name,
        reference,
        digest(folder),
        unpacked=sum(sizes),
        compressed=sum(layer.stat().st_size for layer in files),
        base=sizes[0],
        seconds=round(seconds, 1),
        git_sha=git_sha,
    )
    (folder / _RECORD).write_text(json.dumps(asdict(built), indent=2) + "\n")
    return built


def find(folder: Path, wanted: str) -> Built | None:
    """Return what is known of the layout in `folder` if it was made from inputs `wanted` and is complete."""
    try:
        if (config(folder).get("Labels") or {}).get(LABEL) != wanted or not all(
            file.exists() for file in layers(folder)
        ):
            return None
        return Built(**_json(folder / _RECORD))
    except (OSError, ValueError, KeyError, TypeError):
        return None
