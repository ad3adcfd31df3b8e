"""The summary and the page of a run: right from any subset of reports, safe with any text, red when a Task failed."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm import contract, tekton
from isotherm.deploy import report

DIGEST, HASH = "ab" * 32, "cd" * 16
TASKS = ("fetch-data", "train", "evaluate", "register", "deploy", "shift", "promote")
ALL_DONE = dict.fromkeys(TASKS, "Succeeded")


def png(width: int = 3, height: int = 2) -> bytes:
    """A small valid picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(b"".join(b"\0" + b"\x40\x80\xc0" * width for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def times(start: int, seconds: float) -> dict[str, Any]:
    end = start + round(seconds)
    stamp = "2026-11-23T14:02:{:02d}Z"
    return {"started_at": stamp.format(start), "finished_at": stamp.format(end), "seconds": seconds}


def check(name: str, value: float, low: float | None, high: float) -> dict[str, Any]:
    limit = f"< {high:g}" if low is None else f"{low:g} to {high:g}"
    passed = (low is None or value > low) and value < high
    return {
        "name": name,
        "value": value,
        "low": low,
        "high": high,
        "limit": limit,
        "passed": passed,
        "source": "problem",
    }


def plausible(verdict: str = "pass") -> dict[str, dict[str, Any]]:
    """What the Tasks of one good run report (or of a run that the gate stopped)."""
    misfit = 1.01 if verdict == "pass" else 1.62
    metrics = {"pde_loss": 2.5e-4, "val_residual": 4.2e-3, "val_misfit": misfit, "a_rel_l2": 0.0171}
    registered = {"model_name": "inverse-heat-pinn", "model_version": "2", "semver": "1.2.0", "model_digest": DIGEST}
    restart = {"seed": 0, "objective": 1.02, "pde_loss": 2.5e-4, "val_misfit": 1.01, "seconds": 6.2, "chosen": True}
    picture = {"title": "Diffusivity a(x, y)", "file": "pictures/a.png", "caption": "Inferred, true, difference."}
    return {
        contract.REPORT_FETCH: times(0, 3.2)
        | {"dataset_hash": HASH, "data_version": "dvc-cdcdcd", "data_path": "datasets/heatinv", "rows": 2500},
        contract.REPORT_TRAIN: times(4, 19.4)
        | {"run_id": "8e1b", "model_uri": "models:/m-1", "model_digest": DIGEST, "problem": "heatinv:u_t = 0"}
        | {"restarts": [restart], "metrics": {"a_spread": 0.009}, "train_seconds": 18.6, "pictures": [picture]}
        | {"hardware": {"CPU": "Model name: test"}},
        contract.REPORT_EVALUATION: times(25, 4.4)
        | {"verdict": verdict, "reason": "no-champion" if verdict == "pass" else "failed-val-misfit"}
        | {"checks": [check("pde_loss", 2.5e-4, None, 1e-3), check("val_misfit", misfit, 0.7, 1.3)]}
        | {"champion": None, "improvement": None, "metrics": metrics, "pictures": []},
        contract.REPORT_REGISTRATION: times(30, 3.0)
        | {**registered, "alias": "challenger", "outcome": "created", "previous_champion": "1"},
        contract.REPORT_DEPLOYMENT: times(34, 9.8)
        | {"colour": "green", "inference_service": "inverse-heat-pinn-green", "ready_seconds": 4.4, "dry_run": False}
        | {"plan": [{"action": "create", "kind": "InferenceService", "name": "inverse-heat-pinn-green"}]},
        contract.REPORT_SHIFT: times(45, 2.9)
        | {"route": "inverse-heat-pinn", "host": "plate.local", "before": {"blue": 100, "green": 0}}
        | {"after": {"blue": 0, "green": 100}, "observed": {"green": 1.0, "n": 200}, "outcome": "shifted"},
        contract.REPORT_PROMOTION: times(49, 2.8) | {**registered, "alias": "champion", "outcome": "moved"},
    }


def write(folder: Path, reports: dict[str, dict[str, Any]]) -> Path:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "pictures" / "a.png").write_bytes(png())
    for name, content in reports.items():
        tekton.write_report(folder / name, content)
    return folder


def build(folder: Path, statuses: dict[str, str], aggregate: str = "Succeeded") -> tuple[dict[str, Any], str]:
    report.run(folder, "run-1", statuses, aggregate, "http://mlflow:5000")
    summary = json.loads((folder / contract.REPORT_SUMMARY).read_text())
    return summary, (folder / contract.REPORT_PAGE).read_text()


class Page(HTMLParser):
    """Checks that tags nest, and gathers what the page would load and what it shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "poster")]
        self.resources += [value or "" for name, value in attrs if name == "href" and tag != "a"]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def test_a_good_run_is_summed_up(tmp_path) -> None:
    summary, html = build(write(tmp_path, plausible()), ALL_DONE)
    expected = {
        "schema_version": 1, "pipeline_run": "run-1", "dataset": "heatinv", "data_version": "dvc-cdcdcd",
        "dataset_hash": HASH, "problem": "heatinv:u_t = 0", "pde_loss": 2.5e-4, "val_residual": 4.2e-3,
        "a_rel_l2": 0.0171, "verdict": "pass", "reason": "no-champion", "model_version": "2", "champion": "2",
        "route_before": {"blue": 100, "green": 0}, "route_after": {"blue": 0, "green": 100},
        "observed_share": {"green": 1.0, "n": 200}, "seconds_total": 52.0, "failed": [], "statuses": ALL_DONE,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert summary["seconds_by_task"] == dict(zip(TASKS, (3.2, 19.4, 4.4, 3.0, 9.8, 2.9, 2.8), strict=True))
    text = Page(html).text
    for shown in ("Version 1.2.0 has the traffic", "1.71 %", "2.50 × 10⁻⁴", "green 100 %", "200 answers", "Model name"):
        assert shown in text


def test_the_page_needs_nothing_else(tmp_path) -> None:
    _, html = build(write(tmp_path, plausible()), ALL_DONE)
    page = Page(html)
    assert all(resource.startswith("data:image/png;base64,") for resource in page.resources)
    assert len(page.resources) == 1
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import", html)
    assert 'href="http://mlflow:5000/#/runs/8e1b"' in html


def test_a_gate_that_says_no_is_no_failure(tmp_path) -> None:
    reports = plausible("fail")
    kept = (contract.REPORT_FETCH, contract.REPORT_TRAIN, contract.REPORT_EVALUATION)
    statuses = ALL_DONE | dict.fromkeys(TASKS[3:], "None")
    summary, html = build(write(tmp_path, {name: reports[name] for name in kept}), statuses, "Completed")
    assert (summary["verdict"], summary["failed"], summary["route_after"]) == ("fail", [], None)
    text = Page(html).text
    assert "The gate said no" in text
    assert "misfit to unseen measurements" in text
    assert text.count("not run: the gate said fail") == 4


@pytest.mark.parametrize("failed", TASKS)
def test_a_failed_task_is_named(tmp_path, failed) -> None:
    after = TASKS[TASKS.index(failed) + 1 :]
    summary, html = build(write(tmp_path, {}), ALL_DONE | {failed: "Failed"} | dict.fromkeys(after, "None"), "Failed")
    assert summary["failed"] == [failed]
    assert f"The run failed in {failed}" in Page(html).text


def test_the_cause_is_shown_where_the_task_could_still_say_it(tmp_path) -> None:
    cause = {contract.REPORT_REGISTRATION: {"error": "MLflow at http://m did not answer; start the server"}}
    statuses = ALL_DONE | {"register": "Failed"}
    _, html = build(write(tmp_path, plausible() | cause), statuses, "Failed")
    assert "MLflow at http://m did not answer; start the server" in Page(html).text


def test_a_report_of_an_earlier_run_of_the_same_name_is_left_out(tmp_path) -> None:
    statuses = ALL_DONE | {"evaluate": "Failed"} | dict.fromkeys(TASKS[3:], "None")
    summary, _ = build(write(tmp_path, plausible()), statuses, "Failed")
    assert (summary["verdict"], summary["route_after"], summary["model_version"]) == ("none", None, None)


def test_nothing_at_all_still_makes_a_page(tmp_path) -> None:
    summary, html = build(tmp_path, {}, "None")
    assert summary["verdict"] == "none"
    assert "Nothing was reported" in Page(html).text


def test_a_rollback_is_told_as_one(tmp_path) -> None:
    reports = plausible()
    kept = {name: reports[name] for name in (contract.REPORT_SHIFT, contract.REPORT_PROMOTION)}
    kept[contract.REPORT_SHIFT] |= {"observed": {"blue": 1.0, "n": 50}, "after": {"blue": 100, "green": 0}}
    kept[contract.REPORT_SHIFT] |= {"rollback": True}
    summary, html = build(write(tmp_path, kept), {"shift": "Succeeded", "demote": "Succeeded"})
    assert summary["observed_share"] == {"green": 0.0, "n": 50}
    assert "Traffic is back on version 1.2.0" in Page(html).text


@pytest.mark.parametrize(
    ("created", "told"), [(False, "ready on green and traffic stayed"), (True, "has the traffic already")]
)
def test_with_manual_promotion_the_report_says_what_a_person_starts(tmp_path, created: bool, told: str) -> None:
    reports = plausible()
    for name in (contract.REPORT_SHIFT, contract.REPORT_PROMOTION):
        del reports[name]
    deployed = {"model_version": "2", "model_digest": "f" * 64, "route_created": created}
    reports[contract.REPORT_DEPLOYMENT] |= deployed
    statuses = dict.fromkeys(("fetch-data", "train", "evaluate", "register", "deploy"), "Succeeded")
    _, html = build(write(tmp_path, reports), statuses | {"shift": "None", "promote": "None"}, "Completed")
    text = Page(html).text
    assert told in text
    assert f"Pipeline blue-green with model-version 2 and model-digest {'f' * 64}" in text
    assert text.count("promotion is manual") == 2


def canary(verdict: str, weight: int, began: float) -> dict[str, Any]:
    looks = [[0.0, 0.0, 0.0], [5.0, 0.1, 0.5], [10.0, 1.0, 0.1]]
    return {
        "weight": weight, "share": weight / 100, "observed": weight / 100 + 0.01, "began": began, "seconds": 10.0,
        "verdict": verdict, "reason": "errors is worse", "looks": looks, "counts": {},
    }  # fmt: skip


def test_a_canary_that_was_taken_back_is_drawn_and_says_why(tmp_path) -> None:
    reports = plausible()
    taken_back = {
        "outcome": "failed", "restored": True, "after": {"blue": 100, "green": 0}, "error": "rolled back",
        "problem": "the canary is rolled back at 25 %: errors is worse",
        "steps": [canary("PROMOTE", 10, 2.0), canary("ROLLBACK", 25, 14.0)],
    }  # fmt: skip
    reports[contract.REPORT_SHIFT] |= taken_back
    _, html = build(write(tmp_path, reports), ALL_DONE | {"shift": "Failed", "promote": "None"}, "Failed")
    page = Page(html)
    assert page.tags.count("svg") == 1
    # Two steps: the share as asked and as given, and two lines of evidence a step.
    assert page.tags.count("polyline") == 2 + 2 * 2
    assert page.tags.count("circle") == 2
    assert "rolled back at 25 %" in page.text
    assert "svg" not in Page(build(write(tmp_path, plausible()), ALL_DONE)[1]).tags


@pytest.mark.parametrize(("outcome", "told"), [("pass", "passed its replay"), ("fail", "did not pass its replay")])
def test_a_shadow_is_told_with_its_counts(tmp_path, outcome: str, told: str) -> None:
    reports = {name: plausible()[name] for name in (contract.REPORT_DEPLOYMENT,)}
    reports[contract.REPORT_SHADOW] = times(45, 9.0) | {
        "colour": "green", "requests": 400, "source": "the prediction log", "outcome": outcome,
        "reason": "errors is worse: canary 100/400, stable 0/400", "disagreement": 0.02,
        "counts": {"errors": [[100, 400], [0, 400]]},
    }  # fmt: skip
    _, html = build(write(tmp_path, reports), {"deploy": "Succeeded", "replay": "Succeeded"})
    text = Page(html).text
    assert told in text
    assert "100 of 400" in text
    assert "Traffic stayed where it was" in text


HOSTILE = "</style><script>alert(1)</script>\"'><img src=http://x/y onerror=alert(1)>{{ 7777*7 }}"


def test_text_from_reports_never_becomes_markup(tmp_path) -> None:
    kept = ("started_at", "finished_at", "file", "verdict")

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inner if key in kept else poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return HOSTILE if isinstance(value, str) else value

    write(tmp_path, {name: poison(content) for name, content in plausible().items()})
    report.run(tmp_path, HOSTILE, {**ALL_DONE, HOSTILE: HOSTILE}, "Succeeded", f"javascript:{HOSTILE}")
    html = (tmp_path / contract.REPORT_PAGE).read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert all(resource.startswith("data:") for resource in page.resources)
    assert "54439" not in re.sub(r"base64,[^\"]*", "", html.replace("{{ 7777*7 }}", ""))
    assert 'href="javascript' not in html


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "pictures/missing.png", "notes.png", "link.png", ""])
def test_only_png_files_of_the_reports_are_embedded(tmp_path, name) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = tmp_path / "reports"
    reports = plausible()
    reports[contract.REPORT_TRAIN]["pictures"] = [{"title": "t", "file": name, "caption": ""}]
    write(folder, reports)
    (folder / "notes.png").write_text("not a picture, but longer than a header")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    summary, html = build(folder, ALL_DONE)
    assert Page(html).resources == []
    assert len(summary["notes"]) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"checks": 3}', '{"metrics": {"pde_loss": "NaN"}}', '"text"'])
def test_an_unreadable_report_is_noted_and_the_rest_is_shown(tmp_path, content) -> None:
    write(tmp_path, plausible())
    (tmp_path / contract.REPORT_EVALUATION).write_text(content)
    summary, html = build(tmp_path, ALL_DONE)
    assert summary["verdict"] == "none"
    assert summary["data_version"] == "dvc-cdcdcd"
    assert contract.REPORT_EVALUATION in summary["notes"][0]
    assert contract.REPORT_EVALUATION in Page(html).text


@settings(max_examples=40, deadline=None)
@given(
    present=st.sets(st.sampled_from(sorted(plausible()))),
    statuses=st.dictionaries(st.sampled_from(TASKS), st.sampled_from(["Succeeded", "Failed", "None"])),
    aggregate=st.sampled_from(["Succeeded", "Completed", "Failed", "None"]),
)
def test_any_subset_of_reports_and_statuses_makes_a_page(tmp_path_factory, present, statuses, aggregate) -> None:
    reports = plausible()
    folder = write(tmp_path_factory.mktemp("any"), {name: reports[name] for name in present})
    summary, html = build(folder, statuses, aggregate)
    Page(html)
    assert bool(summary["failed"]) == ("Failed" in statuses.values() or aggregate == "Failed")


@pytest.mark.parametrize(
    ("arguments", "aggregate", "code", "verdict", "last"),
    [
        (["train=Succeeded", "evaluate=Succeeded"], "Succeeded", 0, "pass", ""),
        (["train=Failed", "evaluate=None"], "Failed", 1, "none", "error: failed in this run: train; "),
        (["train"], "Succeeded", 2, "none", "error: param task-statuses holds 'train'; "),
    ],
)
def test_the_program_is_red_when_a_task_failed(tmp_path, arguments, aggregate, code, verdict, last) -> None:
    write(tmp_path, plausible())
    environment = {**os.environ, "PIPELINE_RUN": "run-1", "TASKS_STATUS": aggregate, "MLFLOW_URI": "http://mlflow"}
    environment |= {
        "REPORTS_DIR": str(tmp_path),
        "RESULT_VERDICT": str(tmp_path / "verdict"),
        "MLFLOW_CREDENTIALS_DIR": "",
    }
    command = [sys.executable, "-m", "isotherm.deploy.report", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stderr.splitlines() or [""])[-1].startswith(last)
    assert (tmp_path / "verdict").read_text() == verdict
