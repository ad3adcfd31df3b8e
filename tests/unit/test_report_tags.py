"""What MLflow is told of a rollout: on the version that it brought, whatever became of it; no run fails by it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from mlflow_server import free_port, log_model

from isotherm import contract, tekton
from isotherm.deploy import report, report_inputs, report_tags
from isotherm.registry import register
from isotherm.registry.client import connect

DIGEST = "5" * 64
STATUSES = {"deploy": "Succeeded", "shift": "Succeeded", "promote": "Succeeded"}
WEIGHTS = {"before": {"blue": 100, "green": 0}, "after": {"blue": 0, "green": 100}}


def step(weight: int, verdict: str) -> dict[str, Any]:
    return {"weight": weight, "share": weight / 100, "observed": weight / 100, "began": 1.0, "seconds": 5.0,
            "verdict": verdict, "reason": ""}  # fmt: skip


def reports(folder: Path, name: str, **shift: Any) -> Path:
    """What the Tasks of Pipeline canary leave."""
    deployed = {"model_name": name, "model_version": "1", "model_digest": DIGEST, "colour": "green"}
    tekton.write_report(folder / contract.REPORT_DEPLOYMENT, deployed)
    moved = {"route": name, "outcome": "shifted", "finished_at": "2026-11-29T08:00:00Z", **WEIGHTS}
    tekton.write_report(folder / contract.REPORT_SHIFT, moved | shift)
    return folder


@pytest.fixture
def name(mlflow_url: str, tmp_path: Path) -> str:
    """A registered model with one version."""
    made = f"model-{uuid4().hex[:8]}"
    uri, run_id = log_model(mlflow_url, tmp_path, DIGEST)
    env = SimpleNamespace(
        alias=contract.ALIAS_CHALLENGER, model_name=made, model_uri=uri, model_digest=DIGEST, run_id=run_id,
        expected_champion="", mlflow_uri=mlflow_url, pipeline_run="run-1",
    )  # fmt: skip
    register.run(env, None, None, lambda: nullcontext(lambda: None))
    return made


@pytest.mark.parametrize(
    ("shift", "tags"),
    [
        ({}, ("at-once", "shifted", "")),
        ({"steps": [step(10, "PROMOTE"), step(50, "PROMOTE")]}, ("canary", "shifted", "10=PROMOTE 50=PROMOTE")),
        (
            {"steps": [step(10, "PROMOTE"), step(25, "ROLLBACK")], "outcome": "failed", "restored": True, "error": "x"},
            ("canary", "taken-back", "10=PROMOTE 25=ROLLBACK"),
        ),
    ],
    ids=["at once", "canary", "taken back"],
)
def test_the_version_says_how_its_rollout_went(
    mlflow_url: str, tmp_path: Path, name: str, shift: dict[str, Any], tags: tuple[str, str, str]
) -> None:
    statuses = STATUSES | ({"shift": "Failed", "promote": "None"} if "error" in shift else {})
    summary = report.run(reports(tmp_path, name, **shift), "run-7", statuses, "Succeeded", mlflow_url)
    assert summary["notes"] == []
    found = connect(mlflow_url).get_model_version(name, "1").tags
    keys = (contract.TAG_ROLLOUT_STRATEGY, contract.TAG_ROLLOUT_OUTCOME, contract.TAG_ROLLOUT_STEPS)
    assert tuple(found[key] for key in keys) == tags
    assert found[contract.TAG_ROLLOUT_RUN] == "run-7"
    assert found[contract.TAG_ROLLOUT_AT] == "2026-11-29T08:00:00Z"


def test_a_rollback_is_told_of_the_version_that_is_live_again(tmp_path: Path) -> None:
    folder = reports(tmp_path, "heat", rollback=True, live_version="3")
    (folder / contract.REPORT_DEPLOYMENT).unlink()
    tekton.write_report(folder / contract.REPORT_PROMOTION, {"model_name": "heat", "model_version": "3"})
    read = report_inputs.read(folder, {"shift": "Succeeded", "demote": "Succeeded"})
    found = report_tags.rollout(read, "back")
    assert found is not None
    assert (found.model_name, found.model_version) == ("heat", "3")
    assert found.tags[contract.TAG_ROLLOUT_STRATEGY] == report_tags.ROLLBACK


@pytest.mark.parametrize("missing", [contract.REPORT_SHIFT, contract.REPORT_DEPLOYMENT])
def test_where_nothing_was_shifted_or_nobody_knows_what_mlflow_is_not_called(tmp_path: Path, missing: str) -> None:
    folder = reports(tmp_path, "heat")
    (folder / missing).unlink()
    assert report_tags.rollout(report_inputs.read(folder, STATUSES), "run-1") is None


@pytest.mark.parametrize("broken", ["away", "no such version"])
def test_what_cannot_be_told_is_a_note_and_not_a_failure(
    mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setenv("MLFLOW_DEADLINE_SECONDS", "1")
    url = f"http://127.0.0.1:{free_port()}" if broken == "away" else mlflow_url
    summary = report.run(reports(tmp_path, "nobody-knows"), "run-1", STATUSES, "Succeeded", url)
    [note] = summary["notes"]
    assert note.startswith("MLflow was not told of the rollout of nobody-knows version 1: ")
    assert "\n" not in note
    assert note in (tmp_path / contract.REPORT_PAGE).read_text()
    assert summary["failed"] == []
