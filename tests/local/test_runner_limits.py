"""Time limits, cancelling, killed processes and a killed runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import execute, pipeline_run, spec, step, task, write

from isotherm.tekton import Refused
from isotherm_local.runner import graph, process, record
from isotherm_local.runner.documents import ROOT

FOREVER = "print('working', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER
FINALLY = {"finally": [task("f")]}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)


def test_a_step_has_a_limit_of_its_own_and_leaves_its_results(tmp_path: Path) -> None:
    body = spec("open(os.environ['RESULT_R'],'w').write('set')\n" + FOREVER, results=("r",))
    body["steps"][0]["timeout"] = "500ms"
    one = execute(tmp_path, pipeline_run([task("a", body)])).tasks["a"]
    assert (one.state, one.reason, one.results) == ("Failed", "StepFailed", {"r": "set"})
    assert one.message == '"step-only" exited because the step exceeded the specified timeout limit'


def test_a_task_has_a_limit_per_attempt_and_leaves_no_results(tmp_path: Path) -> None:
    body = spec("open(os.environ['RESULT_R'],'w').write('set')\n" + STUBBORN, results=("r",))
    one = execute(tmp_path, pipeline_run([task("a", body, timeout="400ms", retries=1)])).tasks["a"]
    assert (one.state, one.reason, one.results, one.attempts) == ("Failed", "TaskRunTimeout", {}, 2)
    assert one.message == 'TaskRun "it-a" failed to finish within "0.4s"'


def test_a_limit_of_the_tasks_stops_them_and_runs_the_finally_task(tmp_path: Path) -> None:
    run = {"timeouts": {"pipeline": "1m", "tasks": "500ms"}}
    done = execute(tmp_path, pipeline_run([task("a", FOREVER, retries=3), task("b", runAfter=["a"])], run, **FINALLY))
    assert (done.status, done.reason) == ("False", "PipelineRunTimeout")
    assert 'failed due to tasks failed to finish within "0.5s"' in done.message
    a, b, f = done.tasks["a"], done.tasks["b"], done.tasks["f"]
    assert (a.state, a.reason, a.attempts, a.timed_out) == ("Cancelled", "TaskRunCancelled", 1, True)
    assert (b.reason, f.state) == (graph.STOPPING_SKIP, "Succeeded")


def test_a_limit_of_the_run_ends_everything(tmp_path: Path) -> None:
    done = execute(tmp_path, pipeline_run([task("a", FOREVER)], {"timeouts": {"pipeline": "400ms"}}, **FINALLY))
    assert (done.status, done.reason) == ("False", "PipelineRunTimeout")
    assert (done.tasks["a"].state, done.tasks["f"].reason) == ("Cancelled", graph.PIPELINE_TIMEOUT_SKIP)


def test_a_limit_of_the_finally_tasks_fails_the_run(tmp_path: Path) -> None:
    run = {"timeouts": {"pipeline": "1m", "finally": "400ms"}}
    done = execute(tmp_path, pipeline_run([task("a")], run, **{"finally": [task("f", FOREVER)]}))
    assert (done.status, done.reason) == ("False", "Failed")
    assert done.tasks["f"].reason == "TaskRunCancelled"


def test_no_limit_is_written_as_zero(tmp_path: Path) -> None:
    run = {"timeouts": {"pipeline": "0", "tasks": "0"}, "taskRunSpecs": [{"pipelineTaskName": "a", "timeout": "0s"}]}
    assert execute(tmp_path, pipeline_run([task("a", timeout="1ms")], run)).succeeded


def test_a_killed_process_fails_its_attempt_and_is_tried_again(tmp_path: Path) -> None:
    code = "import signal\nn = len(os.listdir(os.environ['DIR'])); open(os.environ['DIR'] + f'/{n}', 'w')\n"
    code += "if n == 0: os.kill(os.getpid(), signal.SIGKILL)"
    body = spec(code, {"DIR": "$(workspaces.w.path)"}, workspaces=[{"name": "w"}])
    bound = {"workspaces": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}}]}
    once = pipeline_run([task("a", body, workspaces=[{"name": "w"}])], bound, workspaces=[{"name": "w"}])
    failed = execute(tmp_path, once)
    assert failed.tasks["a"].message == '"step-only" exited with code 137'
    (tmp_path / "state/namespaces/default/pvcs/c/0").unlink()
    again = pipeline_run([task("a", body, workspaces=[{"name": "w"}], retries=1)], bound, workspaces=[{"name": "w"}])
    assert execute(tmp_path, again, delete_first=True).tasks["a"].attempts == 2


def start(folder: Path, body: dict[str, Any]) -> subprocess.Popen[str]:
    """Start the command in a process of its own and wait until Task `a` works."""
    command = [
        sys.executable,
        "-m",
        "isotherm_local",
        "run",
        str(write(folder, body)),
        "--state",
        str(folder / "state"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    log = folder / "state/namespaces/default/runs/it/tasks/a/attempt-1/log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def found(folder: Path) -> record.RunRecord:
    run = record.read(folder / "state/namespaces/default/runs/it")
    assert run is not None
    return run


def test_ctrl_c_cancels_the_run_and_its_finally_tasks(tmp_path: Path) -> None:
    process = start(tmp_path, pipeline_run([task("a", FOREVER, retries=2), task("b", runAfter=["a"])], **FINALLY))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: Cancelled" in error or "TaskRun cancelled" in error
    run = found(tmp_path)
    assert (run.status, run.reason, run.message) == ("False", "Cancelled", 'PipelineRun "it" was cancelled')
    assert (run.tasks["a"].reason, run.tasks["a"].attempts) == ("TaskRunCancelled", 1)
    assert {run.tasks[name].state for name in ("b", "f")} == {"Pending"}


def test_a_second_ctrl_c_does_not_wait_for_a_stubborn_process(tmp_path: Path) -> None:
    process = start(tmp_path, pipeline_run([task("a", STUBBORN)]))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)  # the grace alone is 10 s
    assert found(tmp_path).reason == "Cancelled"


def test_a_running_run_is_neither_deleted_nor_started_again(tmp_path: Path) -> None:
    body = pipeline_run([task("a", FOREVER)])
    process = start(tmp_path, body)
    assert record.condition(found(tmp_path)) == "Running"
    with pytest.raises(Refused, match="is running"):
        execute(tmp_path, body, delete_first=True)
    with pytest.raises(Refused, match=r"is running \(AlreadyExists\)"):
        execute(tmp_path, body)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert found(tmp_path).reason == "Cancelled"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_a_killed_runner_leaves_an_interrupted_record_and_no_process(tmp_path: Path) -> None:
    body = pipeline_run([task("a", "print(os.getpid(), flush=True)\ntime.sleep(600)")])
    process = start(tmp_path, body)
    pid = int((tmp_path / "state/namespaces/default/runs/it/tasks/a/attempt-1/log").read_text())
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (found(tmp_path).status, record.condition(found(tmp_path))) == ("Unknown", "Interrupted")
    with pytest.raises(Refused, match="was interrupted: its runner was killed"):
        execute(tmp_path, body)
    short = pipeline_run([task("a")])
    assert execute(tmp_path, short, delete_first=True).succeeded


def test_every_step_of_a_task_counts_against_its_limit(tmp_path: Path) -> None:
    body = {"steps": [step("time.sleep(0.2)", name=f"s{number}") for number in range(50)]}
    one = execute(tmp_path, pipeline_run([task("a", body, timeout="700ms")])).tasks["a"]
    assert one.reason == "TaskRunTimeout"
