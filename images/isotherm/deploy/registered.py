"""A registered model and its bundle, checked before anything is deployed.

Reads   a registered model version in MLflow: tags of its lineage, the files beside the logged model (`extra_files`)
Writes  those files into a folder of this process
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import bundle, contract, tekton

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXTRA_FILES = "extra_files"
SOURCE_IMAGE = "source-sha256:"  # stands for the image digest where the trainer ran from a checkout


@dataclass(frozen=True)
class RegisteredModel:
    """A model version whose lineage is complete."""

    name: str
    version: str
    digest: str
    data_version: str

    @property
    def semver(self) -> str:
        """What the server shows as its version."""
        return contract.semver(self.version)


def resolve(client: MlflowClient, name: str, version: str, digest: str, *, allow_source_image: bool) -> RegisteredModel:
    """Look a model version up in the registry; an empty `digest` stands for the version's own.

    Raises `tekton.BadInput` where it does not exist; `tekton.Refused` where a lineage tag is missing, its digest is
    another one, or it was trained from a checkout and that is not allowed here.
    """
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(r"[1-9][0-9]*", version):
        raise tekton.BadInput(
            f"param model-version is {version[:40]!r}", remedy="give a registry version, a whole number from 1"
        )
    try:
        found = client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise tekton.BadInput(
                f"MLflow has no version {version} of model {name}",
                remedy="run mlflow-register first, or correct the params",
            ) from error
        raise
    tags = found.tags
    missing = [tag for tag in contract.LINEAGE_TAGS if not tags.get(tag)]
    if missing:
        raise tekton.Refused(
            f"model {name} version {version} lacks the lineage tags {', '.join(missing)}",
            remedy="register a model that this catalog's pinn-train logged",
        )
    if digest not in ("", tags[contract.TAG_MODEL_DIGEST]):
        raise tekton.Refused(
            f"model {name} version {version} has digest {tags[contract.TAG_MODEL_DIGEST][:12]}, not {digest[:12]}",
            remedy="give the model-digest that mlflow-register returned for this version",
        )
    if tags[contract.TAG_IMAGE_DIGEST].startswith(SOURCE_IMAGE) and not allow_source_image:
        raise tekton.Refused(
            f"model {name} version {version} was trained from a checkout "
            f"({tags[contract.TAG_IMAGE_DIGEST][:24]}), not by an image",
            remedy="train it with the catalog's image, or set param allow-source-image to true (development only)",
        )
    data_version = contract.data_version(tags[contract.TAG_DATASET_HASH])
    return RegisteredModel(name, version, tags[contract.TAG_MODEL_DIGEST], data_version)


def download(model: RegisteredModel, folder: Path) -> bundle.Bundle:
    """Fetch the files beside the logged model into `folder` and check them as the server will."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    try:
        repository = ModelsArtifactRepository(f"models:/{model.name}/{model.version}")
        repository.download_artifacts(EXTRA_FILES, str(folder))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise tekton.Unavailable(
            f"the files of model {model.name} version {model.version} cannot be fetched: {reason}",
            remedy="check MLflow's artifact store and that the model was logged by pinn-train",
        ) from error
    return bundle.load(folder / EXTRA_FILES, model.digest, exact=False)
