"""Register a trained model once per content digest, or name a registered one champion.

Reads   ALIAS (challenger: register; champion: promote), MODEL_NAME, MODEL_DIGEST, MLFLOW_URI, PIPELINE_RUN,
        MLFLOW_CREDENTIALS_DIR (may be empty); to register: MODEL_URI (models:/m-...), RUN_ID and, where it is there,
        evaluation.json in REPORTS_DIR; to promote: EXPECTED_CHAMPION, the version that the model was judged against
        (empty: none; `any`: no comparison, for a rollback)
Writes  the version with lineage tags, stage, model card and alias, while it holds the Lease of the model's registry
        (`turn`); registration.json or promotion.json
Results model-version, semver, model-digest, outcome (created, reused, moved, unchanged); empty on failure
"""

from __future__ import annotations

import argparse
import re
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from isotherm import contract, kube, tekton
from isotherm.registry import versions
from isotherm.registry.card import Metadata, model_card
from isotherm.registry.client import answers, connect, download, no_answer
from isotherm.registry.turn import held

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL_URI = re.compile(r"models:/(m-[A-Za-z0-9]+)")
_RETRAIN = "train again with this catalog's pinn-train, which writes it"


@dataclass(frozen=True)
class Candidate:
    """A logged model that may be registered: its lineage tags are complete and its digest is the one asked for."""

    model_id: str
    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]
    model: Metadata


def candidate(client: MlflowClient, model_uri: str, model_digest: str, run_id: str) -> Candidate:
    """Read the logged model and its run, and check what they say about themselves against what was asked for.

    Raises `tekton.Refused` on a model that is absent or unfinished, of another run, of another digest (in a tag or in
    its own model.json), or whose run lacks a lineage tag.
    """
    from mlflow.exceptions import MlflowException

    matched = _MODEL_URI.fullmatch(model_uri)
    if not matched:
        raise tekton.BadInput(f"param model-uri is {model_uri[:80]!r}", remedy="give result model-uri of pinn-train")
    try:
        logged, run = client.get_logged_model(matched[1]), client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise tekton.Refused(
            f"MLflow does not know {model_uri} or run {run_id[:40]!r}", remedy="train again"
        ) from error
    if str(logged.status) != "READY":
        raise tekton.Refused(f"logged model {model_uri} is {logged.status}, not READY", remedy="train again")
    if logged.source_run_id not in (None, "", run_id):
        raise tekton.Refused(f"{model_uri} belongs to run {logged.source_run_id}, not {run_id}", remedy="pass that run")
    missing = [tag for tag in contract.LINEAGE_TAGS if not run.data.tags.get(tag)]
    if missing:
        raise tekton.Refused(f"run {run_id} lacks lineage tag {', '.join(missing)}", remedy=_RETRAIN)
    model = _metadata(client, model_uri)
    for where, digest in (
        ("its run's tag", run.data.tags[contract.TAG_MODEL_DIGEST]),
        ("its own tag", logged.tags.get(contract.TAG_MODEL_DIGEST, model_digest)),
        (contract.MODEL_METADATA, model.model_digest),
    ):
        if digest != model_digest:
            raise tekton.Refused(
                f"{model_uri} is another model: {where} says digest {str(digest)[:12]}, not {model_digest[:12]}",
                remedy="pass model-uri and model-digest of one training",
            )
    tags = {tag: run.data.tags[tag] for tag in contract.LINEAGE_TAGS}
    return Candidate(matched[1], run_id, tags, dict(run.data.metrics), model)


def _metadata(client: MlflowClient, model_uri: str) -> Metadata:
    """Read model.json from the logged model's extra files; needs the artifact store, not only the database."""
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as folder:
            file = download(client, model_uri, f"extra_files/{contract.MODEL_METADATA}", Path(folder))
            return Metadata.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        what = f"{contract.MODEL_METADATA} of {model_uri} is not as it should be: {where}: {first['msg']}"
        raise tekton.Refused(what, remedy=_RETRAIN) from error
    except (MlflowException, OSError) as error:
        if no_answer(error):
            raise
        what = f"{model_uri} carries no readable {contract.MODEL_METADATA} ({error})"
        raise tekton.Refused(what, remedy=_RETRAIN) from error


def run(
    env: SimpleNamespace,
    credentials: Path | None,
    evaluation: Mapping[str, Any] | None,
    turn: Callable[[], AbstractContextManager[versions.Check]],
) -> versions.Registered:
    """Register or promote; `env` holds the params by name, `turn` waits for the right to write.

    What only reads comes first: nobody waits for a model that is refused.
    """
    _check_params(env)
    client = connect(env.mlflow_uri, credentials)
    with answers(env.mlflow_uri):
        if env.alias == contract.ALIAS_CHAMPION:
            with turn() as check:
                return versions.promote(client, env.model_name, env.model_digest, env.expected_champion, check)
        found = candidate(client, env.model_uri, env.model_digest, env.run_id)
        tags = {**found.tags, contract.TAG_PIPELINE_RUN: env.pipeline_run}
        card = model_card(env.model_name, env.run_id, found.tags, found.metrics, found.model, evaluation)
        with turn() as check:
            return versions.register(client, env.model_name, found.model_id, tags=tags, description=card, check=check)


def _turn(env: SimpleNamespace) -> AbstractContextManager[versions.Check]:
    holder = f"{env.pipeline_run or 'by-hand'}/{socket.gethostname()}/{secrets.token_hex(4)}"
    return held(kube.Cluster.from_config(), env.model_name, holder)


def _check_params(env: SimpleNamespace) -> None:
    if env.alias not in (contract.ALIAS_CHALLENGER, contract.ALIAS_CHAMPION):
        raise tekton.BadInput(f"param alias is {env.alias[:40]!r}", remedy="give challenger or champion")
    if not _NAME.fullmatch(env.model_name):
        raise tekton.BadInput(f"param model-name is {env.model_name[:60]!r}", remedy="use letters, digits, . _ and -")
    if not _DIGEST.fullmatch(env.model_digest):
        raise tekton.BadInput(f"param model-digest is {env.model_digest[:70]!r}", remedy="give 64 hexadecimal digits")


def _described(done: versions.Registered) -> dict[str, Any]:
    return {
        "model_version": done.version,
        "semver": contract.semver(done.version),
        "outcome": done.outcome,
        "previous_champion": done.previous_champion,
        "lineage": {tag: done.tags.get(tag, "") for tag in contract.LINEAGE_TAGS},
    }


def step() -> None:
    """Read the inputs, register or promote, write the report (also of a failure) and the results."""
    with tekton.results(model_version="", semver="", model_digest="", outcome="") as results:
        place = tekton.environment(alias=str, reports_dir=Path)
        promoting = place.alias == contract.ALIAS_CHAMPION
        name = contract.REPORT_PROMOTION if promoting else contract.REPORT_REGISTRATION
        with tekton.report(place.reports_dir / name, "mlflow-register") as report:
            env = tekton.environment(
                alias=str, model_name=str, model_uri=str, model_digest=str, run_id=str, expected_champion=str,
                mlflow_uri=str, pipeline_run=str, mlflow_credentials_dir=Path | None,
            )  # fmt: skip
            report.update(alias=env.alias, model_name=env.model_name, model_digest=env.model_digest)
            evaluation = None if promoting else tekton.read_report(place.reports_dir / contract.REPORT_EVALUATION)
            done = run(env, env.mlflow_credentials_dir, evaluation, lambda: _turn(env))
            report.update(_described(done))
        results.model_version, results.semver = done.version, contract.semver(done.version)
        results.model_digest, results.outcome = env.model_digest, done.outcome
        print(f"{env.model_name} version {done.version}: {env.alias} ({done.outcome})")


def main() -> int:
    """Run as the Task's step."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(step)


if __name__ == "__main__":
    raise SystemExit(main())
