"""The machine-readable summary of one run.

Input   `Reports` and the statuses of the run's Tasks
Output  a JSON-ready dict; null where the run did not get far enough to know
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from isotherm import contract
from isotherm.deploy.report_inputs import FAILED, NOT_RUN, Reports

VERDICT_NONE = "none"


def failed_tasks(statuses: Mapping[str, str], tasks_status: str) -> list[str]:
    """Names of the Tasks that failed; the aggregate counts where no single status says so."""
    failed = [name for name, status in statuses.items() if status not in ("Succeeded", NOT_RUN)]
    return failed or (["(one of the tasks)"] if tasks_status == FAILED else [])


def metric(reports: Reports, name: str) -> float | None:
    """A metric as the gate measured it, else as the training did."""
    for report in (reports.evaluation, reports.training):
        if report is not None and report.metrics.get(name) is not None:
            return report.metrics[name]
    return None


def dataset_name(reports: Reports) -> str | None:
    """Last part of the dataset's path in its repository, else the id of the problem."""
    path = reports.fetch.data_path if reports.fetch else None
    problem = reports.training.problem if reports.training else None
    return PurePosixPath(path).name if path else (problem.partition(":")[0] if problem else None)


def observed_share(reports: Reports) -> dict[str, float] | None:
    """Share of the answers that came from green, and the number of answers `n`."""
    observed = reports.shift.observed if reports.shift else None
    if not observed or "n" not in observed:
        return None
    green = observed["green"] if "green" in observed else 1 - observed.get("blue", 1.0)
    return {"green": round(green, 4), "n": int(observed["n"])}


def skipped_because(statuses: Mapping[str, str], tasks_status: str, reports: Reports) -> str:
    """Why Tasks of this run did not run, in plain words."""
    if failed := failed_tasks(statuses, tasks_status):
        return f"not run: {', '.join(failed)} failed"
    if reports.evaluation and reports.evaluation.verdict == contract.VERDICT_FAIL:
        return "not run: the gate said fail"
    if reports.deployment and reports.deployment.dry_run:
        return "not run: a dry run only plans"
    if reports.deployment:
        return "not run: promotion is manual, by Pipeline blue-green"
    return "not run"


def summarise(
    reports: Reports, pipeline_run: str, statuses: Mapping[str, str], tasks_status: str, report_page: str
) -> dict[str, Any]:
    """Put the run into one flat object; `route_*` are weights by colour, times are seconds."""
    evaluation, shift = reports.evaluation, reports.shift
    registered = reports.registration or reports.promotion
    starts = [report.started_at for report in reports.by_task().values() if report.started_at]
    ends = [report.finished_at for report in reports.by_task().values() if report.finished_at]
    champion = reports.promotion.model_version if reports.promotion else None
    if champion is None and evaluation and evaluation.champion:
        champion = evaluation.champion.version
    version = registered.model_version if registered else (shift.live_version if shift else None)
    return {
        "pipeline_run": pipeline_run,
        "dataset": dataset_name(reports),
        "data_version": reports.fetch.data_version if reports.fetch else None,
        "dataset_hash": reports.fetch.dataset_hash if reports.fetch else None,
        "problem": reports.training.problem if reports.training else None,
        "pde_loss": metric(reports, contract.PDE_LOSS),
        "val_residual": metric(reports, contract.VAL_RESIDUAL),
        "val_misfit": metric(reports, contract.VAL_MISFIT),
        "a_rel_l2": metric(reports, contract.A_REL_L2),
        "verdict": (evaluation.verdict if evaluation else None) or VERDICT_NONE,
        "reason": evaluation.reason if evaluation else None,
        "model_version": str(version) if version not in (None, "") else None,
        "model_digest": reports.training.model_digest if reports.training else None,
        "run_id": reports.training.run_id if reports.training else None,
        "champion": str(champion) if champion not in (None, "") else None,
        "colour": reports.deployment.colour if reports.deployment else None,
        "route_before": shift.before if shift else None,
        "route_after": shift.after if shift else None,
        "observed_share": observed_share(reports),
        "seconds_by_task": {task: report.seconds for task, report in reports.by_task().items()},
        "seconds_total": (max(ends) - min(starts)).total_seconds() if starts and ends else None,
        "tasks_status": tasks_status,
        "statuses": dict(statuses),
        "failed": failed_tasks(statuses, tasks_status),
        "notes": reports.notes,
        "report": report_page,
    }
