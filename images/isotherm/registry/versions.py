"""The registry seam: `register`, `promote` and `resolve` a model by the digest of its content.

Input   an MLflow client (`registry.client.connect`), a registered model's name, a model digest
Output  registry versions, each digest at most once; aliases `challenger` and `champion`; stage names as tags
Errors  `tekton.Refused` where a rule says no; outages pass through as MLflow's own error (see `client.answers`)

`check` raises where the right to write was lost (`turn.Turn.check`); it is called before each write that decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from isotherm import contract, tekton
from isotherm.registry.client import no_answer, no_repeats

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Check = Callable[[], None]
ANY_CHAMPION = "any"  # `expected` of a rollback: whoever is champion now gives way
STAGING, PRODUCTION, ARCHIVED = "Staging", "Production", "Archived"
CREATED, REUSED, MOVED, UNCHANGED = "created", "reused", "moved", "unchanged"
CREATE_ATTEMPTS = 4
READY_SECONDS = 60
_GONE = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Registered:
    """A version, what was done to get there, who was champion before (empty: nobody), and the version's tags."""

    version: str
    outcome: str
    previous_champion: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)


def resolve(client: MlflowClient, model_name: str, model_digest: str) -> ModelVersion | None:
    """Return the lowest version of `model_name` whose tag is `model_digest`, or None."""
    found = _versions_of(client, model_name, model_digest)
    return found[0] if found else None


def alias_version(client: MlflowClient, model_name: str, alias: str) -> str:
    """Return the version that carries `alias`; empty where the model or the alias does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(model_name, alias).version)
    except MlflowException as error:
        # MLflow answers INVALID_PARAMETER_VALUE for an alias that an existing model does not have.
        if error.error_code in (_GONE, "INVALID_PARAMETER_VALUE"):
            return ""
        raise


def register(
    client: MlflowClient,
    model_name: str,
    model_id: str,
    *,
    tags: Mapping[str, str],
    description: str,
    check: Check,
    sleep: Callable[[float], None] = time.sleep,
) -> Registered:
    """Version the logged model `model_id` once per digest (in `tags`) and point alias `challenger` at it, last.

    Safe to repeat and to race: searched before create, after an answer that was lost, and once more after create. Of
    two versions with one digest the lower stays; the other is deleted where nothing points at it.
    """
    digest = tags[contract.TAG_MODEL_DIGEST]
    _ensure_model(client, model_name)
    outcome = REUSED if resolve(client, model_name, digest) else CREATED
    if outcome == CREATED:
        _create(client, model_name, model_id, tags, description, check, sleep)
    found = _keep_lowest(client, model_name, digest)
    version = str(found.version)
    champion = alias_version(client, model_name, contract.ALIAS_CHAMPION)
    stage = PRODUCTION if version == champion else STAGING
    # A run that was killed after create left the tags of this line out; those of the content are written by create.
    wanted = {contract.TAG_SEMVER: contract.semver(version), contract.TAG_STAGE: stage}
    _set_tags(client, found, wanted)
    check()
    _point(client, model_name, contract.ALIAS_CHALLENGER, version)
    return Registered(version, outcome, champion, found.tags)


def promote(client: MlflowClient, model_name: str, model_digest: str, expected: str, check: Check) -> Registered:
    """Move alias `champion` to the version of `model_digest` if `expected` (empty: nobody) still carries it.

    `expected=ANY_CHAMPION` skips the comparison: a rollback. MLflow has no compare-and-set: of the catalog's writers
    one at a time gets here, and as others may write too, the alias is read before and after the write; such a writer
    inside that moment is reported, not prevented.
    Raises `tekton.Refused` when the digest is not registered or somebody else was promoted meanwhile.
    """
    target = resolve(client, model_name, model_digest)
    if target is None:
        raise tekton.Refused(
            f"no version of {model_name} has model digest {model_digest[:12]}",
            remedy="register it first (mlflow-register with alias challenger)",
        )
    version, current = str(target.version), alias_version(client, model_name, contract.ALIAS_CHAMPION)
    if current != version:
        if expected not in (ANY_CHAMPION, current):
            raise _promoted_meanwhile(model_name, current, expected)
        check()
        _point(client, model_name, contract.ALIAS_CHAMPION, version)
        now = alias_version(client, model_name, contract.ALIAS_CHAMPION)
        if now != version:
            raise _promoted_meanwhile(model_name, now, version)
    _set_tags(client, target, {contract.TAG_STAGE: PRODUCTION})
    _archive_others(client, model_name, version)
    return Registered(version, UNCHANGED if current == version else MOVED, current, target.tags)


def annotate(client: MlflowClient, model_name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version; repeating it changes nothing."""
    _set_tags(client, client.get_model_version(model_name, version), tags)


def _promoted_meanwhile(model_name: str, current: str, expected: str) -> tekton.Refused:
    found = f"version {current}" if current else "nobody"
    wanted = f"version {expected}" if expected else "nobody"
    return tekton.Refused(
        f"champion of {model_name} is {found}, not {wanted} as when this model was judged: it changed meanwhile",
        remedy="run the pipeline again, so that the model is compared with the present champion",
    )


def _versions_of(client: MlflowClient, model_name: str, digest: str) -> list[ModelVersion]:
    query = f"name = '{model_name}' AND tags.{contract.TAG_MODEL_DIGEST} = '{digest}'"
    return sorted(client.search_model_versions(query), key=lambda version: int(version.version))


def _ensure_model(client: MlflowClient, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != _GONE:
            raise
        try:
            client.create_registered_model(model_name, tags={"domain": contract.DOMAIN, "equation": contract.EQUATION})
        except MlflowException as late:
            if late.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _create(
    client: MlflowClient,
    model_name: str,
    model_id: str,
    tags: Mapping[str, str],
    description: str,
    check: Check,
    sleep: Callable[[float], None],
) -> None:
    """Create the version; an answer that got lost is settled by a search, never by a blind second create."""
    from mlflow.exceptions import MlflowException

    for attempt in range(CREATE_ATTEMPTS):
        check()
        try:
            with no_repeats():
                client.create_model_version(
                    model_name,
                    f"models:/{model_id}",
                    tags=dict(tags),
                    description=description,
                    model_id=model_id,
                    await_creation_for=READY_SECONDS,
                )
        except MlflowException as error:
            if not no_answer(error) or attempt == CREATE_ATTEMPTS - 1:
                raise
            print(f"create of a version of {model_name} got no answer; looking whether it exists", flush=True)
            sleep(2.0**attempt)
            if resolve(client, model_name, tags[contract.TAG_MODEL_DIGEST]) is None:
                continue
        return


def _keep_lowest(client: MlflowClient, model_name: str, digest: str) -> ModelVersion:
    """Settle a race between two creates: every writer keeps the lowest version and removes what nothing points at."""
    from mlflow.exceptions import MlflowException

    lowest, *others = _versions_of(client, model_name, digest)
    for other in others:
        print(f"{model_name} versions {lowest.version} and {other.version} are one model; keeping {lowest.version}")
        try:
            if not client.get_model_version(model_name, other.version).aliases:
                client.delete_model_version(model_name, other.version)
        except MlflowException as error:
            # Deleted by the other writer, or this account may not delete: the lowest version stands either way.
            print(f"version {other.version} stays: {str(error)[:200]}")
    return lowest


def _set_tags(client: MlflowClient, version: ModelVersion, wanted: Mapping[str, str]) -> None:
    from mlflow.exceptions import MlflowException

    for key, value in wanted.items():
        if version.tags.get(key) == value:
            continue
        try:
            client.set_model_version_tag(version.name, version.version, key, value)
        except MlflowException:
            # Of two writers of a new tag at one moment the server refuses the later; both mean the same.
            if client.get_model_version(version.name, version.version).tags.get(key) != value:
                raise


def _point(client: MlflowClient, model_name: str, alias: str, version: str) -> None:
    """Set `alias`; of two writers of a new alias at one moment the server refuses the later, whose wish still holds."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_registered_model_alias(model_name, alias, version)
    except MlflowException:
        now = alias_version(client, model_name, alias)
        if not now:
            raise
        if now != version:
            client.set_registered_model_alias(model_name, alias, version)


def _archive_others(client: MlflowClient, model_name: str, champion: str) -> None:
    query = f"name = '{model_name}' AND tags.{contract.TAG_STAGE} = '{PRODUCTION}'"
    for other in client.search_model_versions(query):
        if str(other.version) != champion:
            client.set_model_version_tag(model_name, other.version, contract.TAG_STAGE, ARCHIVED)
