"""What the Tasks of a run left on the workspace, read leniently: a page about a failed run must not fail itself.

Input   the reports folder and, per report, the status of the Task that writes it
Output  `Reports`: typed views of the reports that can be trusted, and a note on each that cannot
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from isotherm import contract, tekton

SUCCEEDED, FAILED, NOT_RUN = "Succeeded", "Failed", "None"


class _Lenient(BaseModel):
    """A field of another version of a program is ignored, and a missing one is None."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=())


class _Report(_Lenient):
    """What every report has; `error` only where its Task failed and could still say why."""

    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    seconds: float | None = Field(default=None, ge=0)
    error: str | None = None


class Picture(_Lenient):
    """A picture that a Task drew; `file` is relative to the reports folder."""

    title: str = ""
    file: str
    caption: str = ""


class Fetch(_Report):
    """fetch-data.json"""

    dataset_hash: str | None = None
    data_version: str | None = None
    data_git_sha: str | None = None
    data_path: str | None = None
    remote: str | None = None
    rows: int | None = None


class Restart(_Lenient):
    """One independent training; `objective` is what the recipe minimises."""

    seed: int | None = None
    objective: float | None = None
    pde_loss: float | None = None
    val_misfit: float | None = None
    seconds: float | None = None
    chosen: bool = False


class Training(_Report):
    """train.json"""

    run_id: str | None = None
    model_uri: str | None = None
    model_digest: str | None = None
    problem: str | None = None
    recipe: str | None = None
    optimizer: str | None = None
    architecture: str | None = None
    a_model: str | None = None
    restarts: list[Restart] = []
    metrics: dict[str, float | None] = {}
    train_seconds: float | None = None
    pictures: list[Picture] = []
    hardware: dict[str, Any] = {}


class Check(_Lenient):
    """One line of the gate; `low` and `high` are its limits where the gate states them as numbers."""

    name: str
    value: float | None = None
    limit: str | float | list[float] | None = None
    low: float | None = None
    high: float | None = None
    passed: bool = False
    source: str | None = None
    meaning: str | None = None


class Champion(_Lenient):
    """The champion that the gate compared with."""

    version: str | int | None = None
    model_digest: str | None = None
    misfit: float | None = None


class Evaluation(_Report):
    """evaluation.json"""

    verdict: Literal["pass", "fail"] | None = None
    reason: str | None = None
    checks: list[Check] = []
    champion: Champion | None = None
    improvement: float | None = None
    metrics: dict[str, float | None] = {}
    pictures: list[Picture] = []


class Registration(_Report):
    """registration.json and promotion.json"""

    model_name: str | None = None
    model_version: str | int | None = None
    semver: str | None = None
    model_digest: str | None = None
    outcome: str | None = None
    previous_champion: str | int | None = None
    lineage: dict[str, str] = {}


class Deployment(_Report):
    """deployment.json"""

    colour: str | None = None
    inference_service: str | None = None
    model_location: str | None = None
    ready_seconds: float | None = None
    outcome: str | None = None
    dry_run: bool = False
    plan: list[Any] | str | None = None
    route_created: bool = False
    model_name: str | None = None
    model_version: str | int | None = None
    model_digest: str | None = None


class Step(_Lenient):
    """A step of a canary in shift.json: shares from 0 to 1, times in seconds since the shift began."""

    weight: int
    share: float
    observed: float
    began: float
    seconds: float
    verdict: str
    reason: str
    looks: list[tuple[float, float, float]] = []


class Shift(_Report):
    """shift.json"""

    route: str | None = None
    host: str | None = None
    before: dict[str, int] | None = None
    after: dict[str, int] | None = None
    observed: dict[str, float] | None = None
    outcome: str | None = None
    restored: bool = False
    rollback: bool = False
    problem: str = ""
    steps: list[Step] = []
    live_version: str | int | None = None


class Shadow(_Report):
    """shadow.json"""

    colour: str | None = None
    requests: int | None = None
    source: str | None = None
    outcome: str | None = None
    reason: str = ""
    disagreement: float | None = None
    counts: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}


@dataclass(frozen=True)
class Reports:
    """Everything a run reported; None where a Task did not get to write its report."""

    fetch: Fetch | None = None
    training: Training | None = None
    evaluation: Evaluation | None = None
    registration: Registration | None = None
    deployment: Deployment | None = None
    replay: Shadow | None = None
    shift: Shift | None = None
    promotion: Registration | None = None
    notes: list[str] = field(default_factory=list)

    def by_task(self) -> dict[str, _Report]:
        """The reports there are, by the name of the Pipeline's task that wrote each, in order."""
        found = {task: getattr(self, attribute) for task, (attribute, _, _) in _FILES.items()}
        return {task: report for task, report in found.items() if report is not None}


# Task of the Pipelines -> attribute, file, model. `demote` is what the Pipeline rollback calls its promotion.
_FILES: Mapping[str, tuple[str, str, type[_Report]]] = {
    "fetch-data": ("fetch", contract.REPORT_FETCH, Fetch),
    "train": ("training", contract.REPORT_TRAIN, Training),
    "evaluate": ("evaluation", contract.REPORT_EVALUATION, Evaluation),
    "register": ("registration", contract.REPORT_REGISTRATION, Registration),
    "deploy": ("deployment", contract.REPORT_DEPLOYMENT, Deployment),
    "replay": ("replay", contract.REPORT_SHADOW, Shadow),
    "shift": ("shift", contract.REPORT_SHIFT, Shift),
    "promote": ("promotion", contract.REPORT_PROMOTION, Registration),
}
ALIASES = {"demote": "promote"}


def read(folder: Path, statuses: Mapping[str, str]) -> Reports:
    """Read every report whose Task ran in this run; with no statuses at all, every report there is.

    A Task that did not run may have left a report when a run of the same name was started before: that one is old news
    and is left out. So is the report of a Task that failed, except where it says itself why it failed.
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    known = {ALIASES.get(name, name): status for name, status in statuses.items()}
    for task, (attribute, file, model) in _FILES.items():
        status = known.get(task, NOT_RUN) if known else SUCCEEDED
        if status == NOT_RUN:
            continue
        try:
            content = tekton.read_report(folder / file)
            report = model.model_validate(content) if content is not None else None
        except tekton.BadInput as error:
            notes.append(error.what)
            continue
        except ValidationError as error:
            first = error.errors()[0]
            notes.append(f"report {file} is not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}")
            continue
        if report is not None and (status == SUCCEEDED or report.error):
            found[attribute] = report
    return Reports(**found, notes=notes)
