"""Write a run's summary and its report page from whatever its Tasks left, and fail the run when a Task failed.

Reads   PIPELINE_RUN, TASKS_STATUS (aggregate), MLFLOW_URI, MLFLOW_CREDENTIALS_DIR (may be empty), REPORTS_DIR, and the
        Tasks' statuses as arguments (`train=Succeeded deploy=Failed shift=None`)
Writes  summary.json and report.html in REPORTS_DIR; where traffic was to move, tags `rollout_*` of its version
Results verdict (pass, fail, none), summary (path inside the reports)
Exit    1 after writing both, naming the Tasks that failed; a gate that said `fail` is no failure
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isotherm import contract, tekton


def parse_statuses(items: Sequence[str]) -> dict[str, str]:
    """Turn `["train=Succeeded", ...]` into a dict; raises `tekton.BadInput` naming the item that is malformed."""
    statuses = {}
    for item in items:
        name, equals, status = item.partition("=")
        if not (name and equals and status):
            raise tekton.BadInput(f"param task-statuses holds {item[:60]!r}", remedy="write NAME=STATUS")
        statuses[name] = status
    return statuses


def run(
    folder: Path,
    pipeline_run: str,
    statuses: Mapping[str, str],
    tasks_status: str,
    mlflow_uri: str,
    credentials: Path | None = None,
) -> dict[str, Any]:
    """Write summary.json and report.html into `folder` and return the summary; MLflow is told of a rollout."""
    from isotherm.deploy import report_inputs, report_page, report_summary, report_tags

    reports = report_inputs.read(folder, statuses)
    told = report_tags.rollout(reports, pipeline_run)
    if told and (untold := report_tags.tell(told, mlflow_uri, credentials)):
        reports.notes.append(untold)
    summary = report_summary.summarise(reports, pipeline_run, statuses, tasks_status, contract.REPORT_PAGE)
    page = report_page.render(reports, summary, folder, mlflow_uri)
    tekton.write_atomic(folder / contract.REPORT_PAGE, page)
    tekton.write_report(folder / contract.REPORT_SUMMARY, summary)
    return summary


def main() -> int:
    """Run as the Task's step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statuses", nargs="*", metavar="NAME=STATUS", help="status of one Task of the run")
    arguments = parser.parse_args()

    def step() -> None:
        with tekton.results(verdict="none", summary="") as results:
            env = tekton.environment(
                pipeline_run=str, tasks_status=str, mlflow_uri=str, reports_dir=Path,
                mlflow_credentials_dir=Path | None,
            )  # fmt: skip
            statuses = parse_statuses(arguments.statuses)
            summary = run(
                env.reports_dir, env.pipeline_run, statuses, env.tasks_status, env.mlflow_uri,
                env.mlflow_credentials_dir,
            )  # fmt: skip
            results.verdict, results.summary = summary["verdict"], contract.REPORT_SUMMARY
        print(f"verdict {summary['verdict']}; traffic {summary['route_after'] or 'not moved'}; {contract.REPORT_PAGE}")
        if summary["failed"]:
            raise tekton.TaskError(
                f"failed in this run: {', '.join(summary['failed'])}",
                remedy="read the last line of that task's log, then start the same run again",
            )

    return tekton.step_main(step)


if __name__ == "__main__":
    raise SystemExit(main())
