"""Lost deployments: the version that an alias names is the one that is live on its Route, or gets a run.

Reads   MLflow (alias -> version -> tag model_digest), the Route's notes (live-digest, live-since), the model's Lease
        (which keys were claimed when), the runs of the version
Writes  a run for the version, `deploy-MODEL-vN`. Where that version was live before, and something else after it, the
        name is taken: the next is `deploy-MODEL-vN-2`, an event of its own.
What leaves the live digest as it was is not tried for ever: a version gets another run only after another digest went
live, and what changed a moment ago is left alone, as the pipeline that shifts traffic also moves the alias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from isotherm import contract, kube, tekton
from isotherm.events import claims, keys
from isotherm.events.config import Deployed, Registry
from isotherm.events.runs import Runs, Wanted, finished

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_DEPLOYMENTS = 99
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Named:
    """The version that an alias names, and the digest of its model."""

    version: str
    digest: str


def reconcile(runs: Runs, source: Registry, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
    """Create what the models lack; a model that cannot be used is told and keeps none of the others."""
    from isotherm.registry.client import answers, connect

    credentials = Path(source.credentials_dir) if source.credentials_dir else None
    client, problems = connect(source.mlflow_uri, credentials), []
    with answers(source.mlflow_uri):
        for model in source.models:
            try:
                _one(runs, model, named(client, model), now(), timedelta(minutes=source.settle_minutes))
            except (tekton.BadInput, tekton.Refused) as error:
                problems.append(error.what)
    if problems:
        raise tekton.Refused("; ".join(problems), remedy="repair that; the next pass looks again")


def named(client: MlflowClient, model: Deployed) -> Named | None:
    """Resolve an alias; None where the model or the alias is not there (yet)."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(model.name, model.alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    digest = found.tags.get(contract.TAG_MODEL_DIGEST, "")
    if not digest:
        raise tekton.Refused(
            f"version {found.version} of model {model.name} has no tag {contract.TAG_MODEL_DIGEST}",
            remedy="register it by mlflow-register",
        )
    return Named(str(found.version), digest)


def _one(runs: Runs, model: Deployed, wanted: Named | None, now: datetime, settle: timedelta) -> None:
    if wanted is None:
        return
    route = runs.cluster.get(kube.ROUTE, model.route)
    notes = ((route or {}).get("metadata") or {}).get("annotations") or {}
    if notes.get(contract.ANNOTATION_LIVE_DIGEST, "") == wanted.digest:
        return
    since = _since(notes.get(contract.ANNOTATION_LIVE_SINCE, ""))
    if since + settle > now:
        return
    base = keys.deploy(model.name, wanted.version)
    name = _next(runs, base, claims.read(runs.cluster.get(kube.LEASE, contract.model_lease(model.name))), since)
    if name is None:
        return
    values = {"model": model.name, "version": wanted.version, "alias": model.alias}
    runs.create(Wanted(name, contract.EVENT_REGISTRY, model.template, values))


def _since(text: str) -> datetime:
    return keys.moment(text) if text else _NEVER


def _next(runs: Runs, base: str, ledger: claims.Ledger, live_since: datetime) -> str | None:
    """The name for the version's next run; None while one is at work, or where the last one changed nothing."""
    last = _NEVER
    for number in range(1, MAX_DEPLOYMENTS + 1):
        name = keys.nth(base, number)
        run, claim = runs.get(name), ledger.of(name)
        if run is None and claim is None:
            break
        if run is not None and not finished(run):
            return None
        last = max(last, _acted(run, claim))
    else:
        runs.say(f"registry: {base} had {MAX_DEPLOYMENTS} runs; remove old ones")
        return None
    if last >= live_since and last != _NEVER:
        runs.say(f"registry: {base} is not live although it had a run since the last change; look at that run")
        return None
    return name


def _acted(run: kube.Object | None, claim: claims.Claim | None) -> datetime:
    """When a run was at work on its version: never where it was a second run of a done key, as it did nothing."""
    if claim is not None:
        return keys.moment(claim.at)
    if run is not None and finished(run) == "False":
        return keys.moment(str(run["metadata"]["creationTimestamp"]))
    return _NEVER
