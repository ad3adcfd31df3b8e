"""The champion of the same problem: found by its alias, fetched from the registry, checked against its digests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import contract
from isotherm.tekton import Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Champion:
    """A registered version that carries alias `champion`."""

    version: str
    model_digest: str
    problem: str
    uri: str


def find(client: MlflowClient, model_name: str) -> Champion | None:
    """Return the model's champion, or None where the model or the alias does not exist yet."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(model_name, contract.ALIAS_CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    tags = version.tags
    missing = [tag for tag in (contract.TAG_MODEL_DIGEST, contract.TAG_PROBLEM) if tag not in tags]
    if missing:
        raise Refused(
            f"champion {model_name} version {version.version} has no tag {missing[0]}",
            remedy="move alias champion to a version that this catalog registered, or delete the alias",
        )
    return Champion(str(version.version), tags[contract.TAG_MODEL_DIGEST], tags[contract.TAG_PROBLEM], version.source)


def fetch(client: MlflowClient, champion: Champion, folder: Path) -> Path:
    """Download the champion's bundle into `folder`; return the folder that holds its files."""
    from isotherm.registry.client import download

    return download(client, champion.uri, "extra_files", folder)
