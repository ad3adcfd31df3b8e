"""What every Task program relies on: typed inputs, results on every exit path, one last line, atomic files."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm import tekton


def test_inputs_are_typed_and_an_empty_optional_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MODEL_NAME": "m", "LR": "1e-3", "EPOCHS": "", "DRY_RUN": "true", "KEYS_DIR": "", "DATA_DIR": "/data"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    env = tekton.environment(
        model_name=str, lr=float, epochs=int | None, dry_run=bool, keys_dir=Path | None, data_dir=Path | None
    )
    assert (env.model_name, env.lr, env.epochs, env.dry_run) == ("m", 1e-3, None, True)
    assert (env.keys_dir, env.data_dir) == (None, Path("/data"))


@pytest.mark.parametrize(
    ("kind", "text"), [(int, "1.5"), (float, "nan"), (float, "inf"), (float, "x"), (bool, "yes"), (int, "")]
)
def test_a_malformed_input_is_refused_by_the_params_name(
    monkeypatch: pytest.MonkeyPatch, kind: type, text: str
) -> None:
    monkeypatch.setenv("A_REG", text)
    with pytest.raises(tekton.BadInput, match="param a-reg"):
        tekton.environment(a_reg=kind)


def test_a_missing_input_names_param_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_REG", raising=False)
    with pytest.raises(tekton.BadInput, match="A_REG") as caught:
        tekton.environment(a_reg=float)
    assert "param a-reg" in caught.value.line()


def test_results_exist_after_success_and_after_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESULT_VERDICT", str(tmp_path / "verdict"))
    with pytest.raises(ValueError, match="stop"), tekton.results(verdict="fail"):  # noqa: PT012 (the body is the point)
        assert (tmp_path / "verdict").read_text() == "fail"
        raise ValueError("stop")
    with tekton.results(verdict="fail") as results:
        results.verdict = "pass"
    assert (tmp_path / "verdict").read_text() == "pass"


def test_an_undeclared_result_and_an_oversized_one_are_refused() -> None:
    with pytest.raises(RuntimeError, match="undeclared"), tekton.results(verdict="") as results:
        results.verdikt = "pass"
    with pytest.raises(RuntimeError, match="pointer"), tekton.results(verdict="x" * 3000):
        pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (tekton.BadInput("a", remedy="b"), 2),
        (tekton.Refused("a", remedy="b"), 3),
        (tekton.Unavailable("a", remedy="b"), 4),
        (RuntimeError("a\nb"), 1),
        (OSError(30, "Read-only file system", "/x"), 1),
        (ConnectionRefusedError(111, "Connection refused"), 1),
    ],
)
def test_every_failure_ends_in_one_line_and_its_own_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        raise error

    assert tekton.main(run) == code
    *before, last = capsys.readouterr().err.rstrip("\n").splitlines()
    assert last.startswith("error: ")
    assert ";" in last
    assert ("unexpected" in last) == bool(before), "a traceback is for what nobody foresaw"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/x",
        "password=hunter2",
        "token: hunter2",
        "AWS_SECRET=hunter2",
        "Authorization: hunter2",
    ],
)
def test_credentials_do_not_reach_a_log(text: str) -> None:
    assert "hunter2" not in tekton.redact(text)


@given(st.text(max_size=300))
def test_redaction_never_raises_and_keeps_text_without_secrets(text: str) -> None:
    assert isinstance(tekton.redact(text), str)
    plain = "".join(c for c in text if c not in ":=")
    assert tekton.redact(plain) == plain


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    tekton.write_atomic(path, "old")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        tekton.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_report_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        tekton.write_report(tmp_path / "r.json", {"x": math.nan})
    assert tekton.read_report(tmp_path / "r.json") is None


def test_a_report_carries_times_and_what_the_work_found(tmp_path: Path) -> None:
    with tekton.report(tmp_path / "reports" / "shift.json", "route-shift") as report:
        report["outcome"] = "shifted"
    found = tekton.read_report(tmp_path / "reports" / "shift.json")
    assert found is not None
    assert (found["schema_version"], found["task"], found["outcome"]) == (1, "route-shift", "shifted")
    assert found["seconds"] >= 0
    assert found["started_at"] <= found["finished_at"]
    assert "error" not in found


@pytest.mark.parametrize("error", [tekton.Refused("it differs", remedy="train again"), KeyError("x")])
def test_a_failures_report_carries_the_last_line_of_the_log(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evaluation.json"

    def run() -> None:
        with tekton.report(path, "evaluate-metrics") as report:
            report["model"] = "m"
            raise error

    assert tekton.main(run) != 0
    found = json.loads(path.read_text())
    assert f"error: {found['error']}" == capsys.readouterr().err.splitlines()[-1]
    assert found["model"] == "m"


def test_a_former_report_is_never_taken_for_this_attempts(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    tekton.write_report(path, {"verdict": "pass"})
    with pytest.raises(KeyboardInterrupt), tekton.report(path, "evaluate-metrics"):  # as a kill: nothing is written
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_pod_that_was_given_up_leaves_a_later_attempts_report_alone(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "shift.json", tekton.utcnow()
    with suppress(tekton.Refused), tekton.report(path, "route-shift") as report:
        report["attempt"] = "first"
        monkeypatch.setattr(tekton, "utcnow", lambda: now + timedelta(minutes=1))
        with tekton.report(path, "route-shift") as second:
            second["attempt"] = "second"
        if fails:
            raise tekton.Refused("somebody else shifts", remedy="wait")
    found = json.loads(path.read_text())
    assert (found["attempt"], "error" in found) == ("second", False)


def test_a_report_that_cannot_be_written_hides_no_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(tekton.Refused), tekton.report(tmp_path / "x.json", "x"):
        raise tekton.Refused("it differs", remedy="train again")
    assert list(tmp_path.iterdir()) == []


def test_a_step_prints_on_one_stream_so_that_the_cause_stays_last(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        print("working")
        raise tekton.BadInput("param x is 'y'", remedy="give z")

    assert tekton.step_main(fail) == tekton.BadInput.exit_code
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "working\nerror: param x is 'y'; give z\n"
