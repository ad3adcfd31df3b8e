"""Where a model comes from: data, code, image. Read from the dataset's folder and from the step's environment."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotherm import __version__, contract
from isotherm.pinn.recipe import Recipe

UNKNOWN = "unknown"  # later Tasks refuse a model with it: by-hand trainings stay by hand


@dataclass(frozen=True)
class Lineage:
    """Identity of the data, the code and the image; `pipeline_run` is empty by hand."""

    dataset_hash: str
    data_git_sha: str
    git_sha: str
    image_digest: str
    pipeline_run: str

    @property
    def data_version(self) -> str:
        """`dvc-` and six digits."""
        return contract.data_version(self.dataset_hash)


def read(folder: Path, data_git_sha: str, pipeline_run: str) -> Lineage:
    """Collect the lineage of a training on the dataset in `folder`."""
    try:
        fetched: dict[str, Any] = json.loads((folder / contract.DATASET_FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        fetched = {}
    return Lineage(
        dataset_hash=fetched.get("dataset_hash") or dvc_md5(folder),
        data_git_sha=data_git_sha or fetched.get("data_git_sha") or UNKNOWN,
        git_sha=_git_sha(),
        image_digest=os.environ.get("IMAGE_REF") or UNKNOWN,
        pipeline_run=pipeline_run,
    )


def _git_sha() -> str:
    """Commit of the code: what the image was told when it was built, or what OpenShift's own builds write into it."""
    told = os.environ.get("ISOTHERM_GIT_SHA", "")
    return told if told not in ("", UNKNOWN) else os.environ.get("OPENSHIFT_BUILD_COMMIT") or UNKNOWN


def dvc_md5(folder: Path) -> str:
    """md5 that DVC gives to this folder: of the sorted list of its files' md5s."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != contract.DATASET_FILE)
    entries = [
        {
            "md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
            "relpath": path.relative_to(folder).as_posix(),
        }
        for path in files
    ]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()


def content_key(lineage: Lineage, recipe: Recipe, problem_digest: str) -> str:
    """sha256 of everything that fixes a training's result: data, problem, recipe, code. Equal keys, equal models."""
    content = {
        "dataset_hash": lineage.dataset_hash,
        "problem": problem_digest,
        "recipe": recipe.as_dict(),
        "code": [__version__, lineage.git_sha, lineage.image_digest],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
