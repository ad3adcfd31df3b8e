"""`onError` of a step and of a PipelineTask, as in Tekton: what goes on, what is recorded, what fails all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import execute, giving, log, pipeline_run, spec, step, task

from isotherm.tekton import BadInput
from isotherm_local.runner import graph

P = [{"name": "p"}]
USE = spec("print(os.environ['P'])", {"P": "$(params.p)"}, params=P)
FROM_A = [{"name": "p", "value": "$(tasks.a.results.r)"}]


def steps(*given: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"steps": list(given), **more}


def test_a_step_whose_error_is_ignored_leaves_its_exit_code_and_results(tmp_path: Path) -> None:
    first = step(
        "open(os.environ['R'], 'w').write('set'); sys.exit(3)",
        {"R": "$(results.r.path)"},
        name="first",
        onError="$(params.p)",
    )
    read = {"A": "$(steps.step-first.exitCode.path)", "B": "/tekton/steps/1/exitCode"}
    body = steps(
        first,
        step("os.kill(os.getpid(), 9)", name="killed", onError="continue"),
        step("print(*(open(os.environ[n]).read() for n in 'AB'))", read, name="last"),
        results=[{"name": "r"}],
        params=[{"name": "p", "default": "continue"}],
    )
    done = execute(tmp_path, pipeline_run([task("a", body)]))
    assert (done.reason, done.tasks["a"].reason, done.tasks["a"].results) == ("Succeeded", "Succeeded", {"r": "set"})
    assert log(done, "a") == "3 -1\n"


@pytest.mark.parametrize("action", ["", "stopAndFail"])
def test_a_step_stops_its_task_otherwise(action: str, tmp_path: Path) -> None:
    body = steps(step("sys.exit(3)", name="x", **({"onError": action} if action else {})), step("pass", name="y"))
    assert execute(tmp_path, pipeline_run([task("a", body)])).tasks["a"].reason == "StepFailed"


def test_a_step_that_takes_too_long_fails_although_its_error_is_ignored(tmp_path: Path) -> None:
    body = steps(step("time.sleep(600)", name="x", timeout="300ms", onError="continue"))
    one = execute(tmp_path, pipeline_run([task("a", body)])).tasks["a"]
    assert (one.reason, one.message) == (
        "StepFailed", '"step-x" exited because the step exceeded the specified timeout limit',
    )  # fmt: skip


def test_a_task_whose_failure_is_ignored_does_not_stop_the_run(tmp_path: Path) -> None:
    words = [{"name": "p", "value": "$(tasks.a.status) $(tasks.a.reason) $(tasks.status)"}]
    tasks = [
        task("a", "sys.exit(1)", onError="$(params.what)"),
        task("b", runAfter=["a"]),
    ]
    final = [task("f", USE, params=words)]
    done = execute(
        tmp_path, pipeline_run(tasks, params=[{"name": "what", "default": "continue"}], **{"finally": final})
    )
    assert (done.status, done.reason) == ("True", "Succeeded")
    assert done.message == "Tasks Completed: 3 (Failed: 1 (Ignored: 1), Cancelled 0), Skipped: 0"
    assert (done.tasks["a"].state, done.tasks["a"].reason) == ("Failed", "FailureIgnored")
    assert log(done, "f") == "Failed FailureIgnored Failed\n"
    assert done.culprit() is None


def test_results_of_an_ignored_failure_reach_the_others(tmp_path: Path) -> None:
    failing = spec("open(os.environ['RESULT_R'], 'w').write('early'); sys.exit(1)", results=("r",))
    done = execute(tmp_path, pipeline_run([task("a", failing, onError="continue"), task("b", USE, params=FROM_A)]))
    assert done.succeeded, done.message
    assert log(done, "b") == "early\n"


def test_a_missing_result_of_an_ignored_failure_fails_the_run_unless_its_user_is_ignored_too(tmp_path: Path) -> None:
    failing = spec("sys.exit(1)", results=("r",))
    tasks = [
        task("a", failing, onError="continue"),
        task("skipped", USE, params=FROM_A, onError="continue"),
    ]
    done = execute(tmp_path, pipeline_run(tasks))
    assert (done.reason, done.tasks["skipped"].reason) == ("Completed", graph.MISSING_RESULTS_SKIP)
    done = execute(tmp_path, pipeline_run([tasks[0], task("b", USE, params=FROM_A)]), delete_first=True)
    assert (done.status, done.reason) == ("False", "PipelineValidationFailed")


def test_a_time_limit_keeps_its_reason(tmp_path: Path) -> None:
    done = execute(tmp_path, pipeline_run([task("a", "time.sleep(600)", timeout="300ms", onError="continue")]))
    assert (done.reason, done.tasks["a"].reason) == ("Succeeded", "TaskRunTimeout")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (task("a", onError="maybe"), "onError is 'maybe'"),
        (task("a", onError="continue", retries=1), "is continue, which Tekton refuses with retries"),
        (task("a", steps(step("pass", onError="maybe"))), "steps[0].onError is 'maybe'"),
        (task("a", steps(step("pass", onError="$(params.q)"))), "names param q, which is not declared"),
        (task("a", spec("", {"X": "$(steps.step-z.exitCode.path)"})), "names step z, which the Task does not have"),
    ],
)
def test_an_action_that_is_not_known_is_refused(body: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        execute(tmp_path, pipeline_run([body, task("z", giving(r="1"))]))
    assert message in error.value.line()
