"""The `isotherm` command as a person uses it: exit codes, last lines, records, what it shows."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import giving, pipeline_run, spec, task, write

from isotherm.rollout import decisions
from isotherm.rollout.judge import Judge, Look, Metric, Plan
from isotherm.rollout.sequential import Counts
from isotherm_local import cli
from isotherm_local.runner import display, record
from isotherm_local.runner.documents import ROOT
from isotherm_local.runner.record import RunRecord, TaskRecord


def run(folder: Path, body: dict[str, Any], *more: str) -> int:
    return cli.main(["run", str(write(folder, body)), "--state", str(folder / "state"), *more])


def test_a_run_that_succeeds_prints_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = pipeline_run([task("a", giving(r="7"))], results=[{"name": "r", "value": "$(tasks.a.results.r)"}])
    assert run(tmp_path, body) == 0
    out, error = capsys.readouterr()
    assert error == ""
    lines = out.splitlines()
    assert lines[0].endswith(" a: started")
    assert lines[1].endswith(": r=7")
    assert lines[-1] == "  r = 7"


def test_a_failed_run_ends_with_its_cause_and_names_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "print('loading'); print('error: no rows in x.h5; add some', file=sys.stderr); sys.exit(2)"
    assert run(tmp_path, pipeline_run([task("a", code), task("b", runAfter=["a"])])) == 1
    out, error = capsys.readouterr()
    assert error == 'error: a: no rows in x.h5; add some - "step-only" exited with code 2\n'
    log = next(line for line in out.splitlines() if line.startswith("log of a: ")).removeprefix("log of a: ")
    assert Path(log).read_text().splitlines()[-1] == "error: no rows in x.h5; add some"
    assert "b: Skipped (PipelineRun was stopping)" in out


def test_a_refused_run_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, pipeline_run([task("a")], params=[{"name": "p"}])) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "needs param p; give a value (-p name=value)" in error


def test_params_names_and_namespaces_come_from_the_command_line(tmp_path: Path) -> None:
    body = pipeline_run([task("a", spec("print(os.environ['P'])", {"P": "$(params.p)"}, params=[{"name": "p"}]),
                              params=[{"name": "p", "value": "$(params.p)"}])], params=[{"name": "p"}])  # fmt: skip
    assert run(tmp_path, body, "-p", "p=a=b", "-n", "mine", "--name", "mine-1") == 0
    log = tmp_path / "state/namespaces/mine/runs/mine-1/tasks/a/attempt-1/log"
    assert log.read_text() == "a=b\n"


def test_runs_are_listed_and_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, pipeline_run([task("a")])) == 0
    assert run(tmp_path, pipeline_run([task("a")])) == 3
    assert "PipelineRun it exists (AlreadyExists); delete it (isotherm delete it" in capsys.readouterr().err
    place = ["--state", str(tmp_path / "state")]
    assert cli.main(["list", *place]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["it", "Succeeded"]
    assert cli.main(["delete", "it", *place]) == 0
    assert cli.main(["delete", "it", *place]) == 2
    assert "run it does not exist" in capsys.readouterr().err


def test_a_check_runs_nothing_and_names_what_has_no_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = pipeline_run([task("a")], {"taskRunTemplate": {"serviceAccountName": "x"}})
    assert run(tmp_path, body, "--fields") == 0
    assert "accepted without effect: spec.taskRunTemplate" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_the_fields_are_printed_in_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fields"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:3] == [
        "honoured:",
        "accepted without effect:",
        "refused:",
    ]
    assert any("Task.spec.steps[].ref" in line and "StepActions are not run here" in line for line in lines)


@pytest.mark.parametrize("command", [[], ["run"], ["status"], ["rollback"], ["delete"], ["list"], ["fields"], ["up"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\nfrom isotherm_local.cli import main\n"
        f"try: main({[*command, '--help']!r})\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'kubernetes', 'yaml', 'rich', 'mlflow', 'numpy', 'torch', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: isotherm" in done.stdout


def a_run(**task_fields: Any) -> RunRecord:
    one = TaskRecord("train", "pinn-train", **task_fields)
    return RunRecord("PipelineRun", "r", "n", "u", "f", "p", {}, {}, Path("x"), tasks={"train": one})


def test_lines_are_rare_unless_asked_for() -> None:
    now, out = [0.0], io.StringIO()
    plain = display.Plain(out, clock=lambda: now[0])
    seen = a_run(state=record.RUNNING, started=record.now(), attempts=1)
    plain.changed(seen)
    for second in range(25):
        now[0] = float(second)
        plain.line(seen.tasks["train"], f"epoch {second}")
    assert [line.split(" ", 1)[1] for line in out.getvalue().splitlines()] == [
        "train: started", "train | epoch 10", "train | epoch 20",
    ]  # fmt: skip
    loud = io.StringIO()
    display.Plain(loud, verbose=True).line(seen.tasks["train"], "epoch 0")
    assert loud.getvalue().endswith("train | epoch 0\n")


def test_a_terminal_shows_a_table_with_states_times_and_last_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    watcher = display.choose(out)
    assert isinstance(watcher, display.Live)
    with watcher:
        watcher.changed(a_run(state=record.FAILED, reason="StepFailed", cause="no rows", attempts=2, seconds=1.5,
                              started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:02Z"))  # fmt: skip
    shown = out.getvalue()
    for words in ("PipelineRun r in n", "train", "StepFailed (attempt 2)", "1.5 s", "no rows"):
        assert words in shown


def test_the_module_is_the_command(tmp_path: Path) -> None:
    file = write(tmp_path, pipeline_run([task("a", "sys.exit('why')")]))
    command = [sys.executable, "-m", "isotherm_local", "run", str(file), "--state", "state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: a: why")
    assert json.loads((tmp_path / "state/namespaces/default/runs/it/run.json").read_text())["reason"] == "Failed"


def test_a_canary_s_log_is_judged_again_and_a_changed_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan((Metric("errors"),))
    look = Look({"errors": (Counts(9, 40), Counts(1, 360))})
    judge, path = Judge(plan).see(look), tmp_path / "010.jsonl"
    lines = [decisions.header(plan, weight=10), decisions.line(judge, look, seconds=5.0)]
    path.write_text("\n".join(lines) + "\n")
    assert cli.main(["decisions", str(path)]) == 0
    out = capsys.readouterr().out
    assert "ROLLBACK  errors is worse: canary 9/40, stable 1/360" in out
    assert out.endswith("1 verdicts follow from their counts\n")
    path.write_text(path.read_text().replace("ROLLBACK", "PROMOTE"))
    assert cli.main(["decisions", str(path)]) != 0
    assert "line 2 says PROMOTE, but its counts say ROLLBACK" in capsys.readouterr().err
    assert cli.main(["decisions", str(tmp_path / "none")]) == 2
