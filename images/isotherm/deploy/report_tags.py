"""A rollout as tags of the registry version that it brought, so that a model tells its own story in MLflow.

Input   `Reports`
Output  the version and its tags; written by `tell`, which never fails a run: MLflow may be what is broken
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from isotherm import contract, tekton
from isotherm.deploy.report_inputs import Reports

TELL_SECONDS = 10
CANARY, AT_ONCE, ROLLBACK = "canary", "at-once", "rollback"
TAKEN_BACK = "taken-back"


@dataclass(frozen=True)
class Rollout:
    """Which version's traffic was moved, and what is to be said about it."""

    model_name: str
    model_version: str
    tags: dict[str, str]


def rollout(reports: Reports, pipeline_run: str) -> Rollout | None:
    """Describe the shift of a run; None where none was tried, or where nobody knows of which version."""
    shift, deployment, promotion = reports.shift, reports.deployment, reports.promotion
    if shift is None or shift.outcome is None:
        return None
    # A rollback deploys nothing: it goes back to the version that is live afterwards.
    name = deployment.model_name if deployment else (promotion.model_name if promotion else None)
    version = deployment.model_version if deployment else shift.live_version
    if not name or version in (None, ""):
        return None
    strategy = ROLLBACK if shift.rollback else (CANARY if shift.steps else AT_ONCE)
    tags = {
        contract.TAG_ROLLOUT_STRATEGY: strategy,
        contract.TAG_ROLLOUT_OUTCOME: TAKEN_BACK if shift.restored else shift.outcome,
        contract.TAG_ROLLOUT_STEPS: " ".join(f"{step.weight}={step.verdict}" for step in shift.steps),
        contract.TAG_ROLLOUT_RUN: pipeline_run,
    }
    if shift.finished_at:
        tags[contract.TAG_ROLLOUT_AT] = tekton.rfc3339(shift.finished_at)
    return Rollout(name, str(version), tags)


def tell(found: Rollout, mlflow_uri: str, credentials: Path | None) -> str:
    """Write the tags; returns why that was not possible, or an empty string."""
    from mlflow.exceptions import MlflowException

    from isotherm.registry import versions
    from isotherm.registry.client import DEADLINE_VARIABLE, answers, connect

    os.environ.setdefault(DEADLINE_VARIABLE, str(TELL_SECONDS))
    try:
        client = connect(mlflow_uri, credentials)
        with answers(mlflow_uri):
            versions.annotate(client, found.model_name, found.model_version, found.tags)
    except (tekton.TaskError, MlflowException) as error:
        why = error.what if isinstance(error, tekton.TaskError) else str(error).splitlines()[0]
        return f"MLflow was not told of the rollout of {found.model_name} version {found.model_version}: {why}"
    return ""
