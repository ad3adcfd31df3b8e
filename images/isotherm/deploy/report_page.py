"""The report page of one run: a single HTML file that needs nothing else, for a screen, a phone or paper.

Input   `Reports`, the summary, the folder that pictures lie in, the MLflow URL for links
Output  HTML text; every value is escaped, pictures are embedded as data URIs
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import isotherm
from isotherm import contract, tekton
from isotherm.deploy import report_rollout
from isotherm.deploy import report_words as words
from isotherm.deploy.report_inputs import ALIASES, FAILED, NOT_RUN, SUCCEEDED, Check, Picture, Reports
from isotherm.deploy.report_summary import metric, skipped_because

TEMPLATES = Path(__file__).parent / "templates"
PICTURE_LIMIT_BYTES = 3 * 1024 * 1024
PICTURES_LIMIT_BYTES = 12 * 1024 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
WIDE = 1.75  # width / height above which a picture takes the whole row


@dataclass(frozen=True)
class Embedded:
    """A picture inside the page; width and height are in pixels, so that the page does not jump while it loads."""

    title: str
    caption: str
    source: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width of the page."""
        return self.width > WIDE * self.height


def render(
    reports: Reports, summary: Mapping[str, Any], folder: Path, mlflow_uri: str, now: datetime | None = None
) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": words.number, "percent": words.percent, "duration": words.duration}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        reports=reports,
        headline=words.headline(reports, summary),
        reason=words.reason_text(reports),
        tiles=tiles(reports, summary),
        pictures=pictures(reports, folder),
        checks=[_check(check) for check in reports.evaluation.checks] if reports.evaluation else [],
        traffic=traffic(summary),
        rollout=report_rollout.draw(reports.shift),
        lineage=lineage(reports, summary, mlflow_uri),
        tasks=tasks(reports, summary),
        hardware=hardware(reports),
        version=isotherm.__version__,
        written=tekton.rfc3339(now or tekton.utcnow()),
    )


def tiles(reports: Reports, summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few figures at the top: value, name, meaning. Only those that the run knows."""
    error, misfit, residual = summary["a_rel_l2"], summary["val_misfit"], summary["pde_loss"]
    rows = [
        (words.percent(error), "error of a", "diffusivity against the known truth", error),
        (words.number(misfit), "misfit", "held-out data in units of noise; 1 is right", misfit),
        (words.number(residual), "PDE residual", "mean square at unseen points", residual),
    ]
    spread = metric(reports, contract.A_SPREAD)
    if summary["a_rel_l2"] is None:
        rows[0] = (words.percent(spread), "spread of a", "disagreement between restarts", spread)
    seconds = reports.training.train_seconds if reports.training else None
    rows.append((words.duration(seconds), "training", "all restarts together", seconds))
    return [(value, name, meaning) for value, name, meaning, known in rows if known is not None]


def pictures(reports: Reports, folder: Path) -> list[Embedded]:
    """Embed the pictures of training and gate, in the order in which they were reported, each file once."""
    listed: dict[str, Picture] = {}
    for report in (reports.training, reports.evaluation):
        for picture in report.pictures if report else []:
            listed.setdefault(picture.file, picture)
    embedded, total = [], 0
    for picture in listed.values():
        content = _read_png(folder, picture.file)
        total += len(content or b"")
        if content is None or total > PICTURES_LIMIT_BYTES:
            reports.notes.append(f"picture {picture.file} is missing, too large or no PNG inside the reports folder")
            continue
        width, height = struct.unpack(">II", content[16:24])
        source = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
        embedded.append(Embedded(picture.title or Path(picture.file).stem, picture.caption, source, width, height))
    return embedded


def _read_png(folder: Path, name: str) -> bytes | None:
    """Return a PNG of the reports folder; None for what is absent, too large, elsewhere or something else."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or path.stat().st_size > PICTURE_LIMIT_BYTES:
            return None
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    return content if content.startswith(_PNG) and len(content) > 24 else None


def _check(check: Check) -> dict[str, Any]:
    """A line of the gate table; `mark` and `band` place value and limits on a bar from 0 to 100, where known."""
    row: dict[str, Any] = {
        "name": check.name,
        "value": words.number(check.value),
        "limit": words.limit_text(check.limit),
        "passed": check.passed,
        "meaning": words.MEANINGS.get(check.name) or check.meaning or "",
        "source": check.source or "",
        "mark": None,
    }
    if check.value is None or check.high is None or check.high <= 0:
        return row
    full = 1.25 * check.high
    share = 100 / full
    return row | {
        "mark": min(max(check.value * share, 0.0), 100.0),
        "band": (max((check.low or 0.0) * share, 0.0), check.high * share),
    }


def traffic(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars of the traffic section: weights before and after, then what was seen. Empty without a shift."""
    before, after, share = summary["route_before"], summary["route_after"], summary["observed_share"]
    if not before or not after:
        return []
    bars = [{"name": "Before", "note": "weights", "parts": _parts(before)}]
    bars.append({"name": "After", "note": "weights", "parts": _parts(after)})
    if share:
        seen = {"blue": 1 - share["green"], "green": share["green"]}
        bars.append({"name": "Observed", "note": f"{share['n']} answers", "parts": _parts(seen)})
    return bars


def _parts(weights: Mapping[str, float]) -> list[dict[str, Any]]:
    total = sum(weights.values()) or 1
    shares = [(colour, weights.get(colour, 0) / total) for colour in contract.COLOURS]
    return [{"colour": colour, "share": share, "text": words.percent(share)} for colour, share in shares]


def lineage(reports: Reports, summary: Mapping[str, Any], mlflow_uri: str) -> list[dict[str, str]]:
    """Where the model comes from and where it went: name, value, link (may be empty)."""
    training, fetch, deployment = reports.training, reports.fetch, reports.deployment
    name = reports.registration.model_name if reports.registration else None
    version, run_id = summary["model_version"], summary["run_id"]
    base = mlflow_uri.rstrip("/") if urlsplit(mlflow_uri).scheme in ("http", "https") else ""
    run_link = f"{base}/#/runs/{quote(run_id, safe='')}" if base and run_id else ""
    model_link = f"{base}/#/models/{quote(name, safe='')}/versions/{version}" if base and name and version else ""
    tags = reports.registration.lineage if reports.registration else {}
    problem = training.problem if training else None
    rows = [
        ("Problem", problem, ""),
        ("Data", summary["data_version"], ""),
        ("Data hash", summary["dataset_hash"], ""),
        ("Data commit", fetch.data_git_sha if fetch else None, ""),
        ("Rows", f"{fetch.rows:,}" if fetch and fetch.rows else None, ""),
        ("Code", tags.get(contract.TAG_GIT_SHA), ""),
        ("Image", tags.get(contract.TAG_IMAGE_DIGEST), ""),
        ("Network", training.architecture if training else None, ""),
        ("Optimiser", training.optimizer if training else None, ""),
        ("Training run", run_id, run_link),
        ("Model", f"{name} version {version}" if name and version else None, model_link),
        ("Model digest", summary["model_digest"], ""),
        ("Stored at", deployment.model_location if deployment else None, ""),
        ("Champion now", f"version {summary['champion']}" if summary["champion"] else None, ""),
    ]
    return [{"name": label, "value": value, "link": link} for label, value, link in rows if value]


def tasks(reports: Reports, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One line per Task: status, time, a bar on the run's time axis, and why it did not run or what it said."""
    by_task, statuses = reports.by_task(), summary["statuses"]
    names = list(statuses) or list(by_task)
    begins = [report.started_at for report in by_task.values() if report.started_at]
    origin = min(begins) if begins else None
    rows = []
    for name in names:
        report = by_task.get(ALIASES.get(name, name))
        status = statuses.get(name, SUCCEEDED)
        row = {"name": name, "status": status, "seconds": report.seconds if report else None, "start": None, "said": ""}
        if report and report.started_at and origin:
            row["start"] = (report.started_at - origin) / timedelta(seconds=1)
        if status == NOT_RUN:
            row["said"] = skipped_because(statuses, summary["tasks_status"], reports)
        elif status != SUCCEEDED:
            error = report.error if report else None
            row["said"] = error or "the last line of its log says what failed and what to do"
        row["tone"] = {SUCCEEDED: "good", NOT_RUN: "plain"}.get(status, "failed")
        row["word"] = {SUCCEEDED: "done", NOT_RUN: "skipped", FAILED: "failed"}.get(status, status)
        rows.append(row)
    end = max((row["start"] + (row["seconds"] or 0) for row in rows if row["start"] is not None), default=0)
    for row in rows:
        if row["start"] is not None and end > 0:
            row["left"], row["width"] = 100 * row["start"] / end, max(100 * (row["seconds"] or 0) / end, 0.6)
    return rows


def hardware(reports: Reports) -> list[tuple[str, str]]:
    """Sections of the machine's report as text."""
    found = reports.training.hardware if reports.training else {}
    return [(str(section), str(text)) for section, text in found.items() if text not in (None, "")]
