"""A Task with a matrix through real processes: its TaskRuns, retries, failures, results, guards and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import execute, giving, pipeline_run, spec, task

from isotherm.tekton import BadInput
from isotherm_local.runner import graph, record
from isotherm_local.runner.record import RunRecord

P = [{"name": "p"}]
USE = spec("print(os.environ['P'])", {"P": "$(params.p)"}, params=P)
ECHO = spec("open(os.environ['RESULT_R'], 'w').write('got ' + os.environ['P'])", {"P": "$(params.p)"}, ("r",), params=P)
LIST = spec("print(sys.argv[1:])", params=[{"name": "l", "type": "array"}])
LIST["steps"][0]["args"].append("$(params.l[*])")


def over(*values: str, **more: Any) -> dict[str, Any]:
    return {"matrix": {"params": [{"name": "p", "value": list(values)}], **more}}


def log(run: RunRecord, name: str) -> str:
    return (run.folder / "tasks" / name / "log").read_text()


def test_combinations_run_side_by_side_and_their_results_are_an_array(tmp_path: Path) -> None:
    # Each waits for the other: one after the other, neither could end.
    code = (
        "d, me = pathlib.Path(os.environ['DIR']), os.environ['P']; (d / me).touch()\n"
        "while len(list(d.iterdir())) < 2: time.sleep(0.01)\nopen(os.environ['RESULT_R'], 'w').write(me)"
    )
    body = spec(code, {"P": "$(params.p)", "DIR": "$(workspaces.w.path)"}, ("r",), params=P, workspaces=[{"name": "w"}])
    tasks = [
        task("m", body, **over("a", "b"), workspaces=[{"name": "w"}], timeout="60s"),
        task("list", LIST, params=[{"name": "l", "value": "$(tasks.m.results.r[*])"}]),
    ]
    run = {"workspaces": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}}]}
    results = [{"name": "all", "value": "$(tasks.m.results.r[*])"}]
    done = execute(tmp_path, pipeline_run(tasks, run, workspaces=[{"name": "w"}], results=results))
    assert done.succeeded, done.message
    assert [(one.name, one.params) for one in done.tasks["m"].children] == [
        ("it-m-0", {"p": "a"}), ("it-m-1", {"p": "b"}),
    ]  # fmt: skip
    assert log(done, "list/attempt-1") == "['a', 'b']\n"
    assert done.results == {"all": ["a", "b"]}
    assert record.read(done.folder) == done


def test_a_matrix_takes_results_params_lengths_and_includes(tmp_path: Path) -> None:
    first = spec("open(os.environ['R'],'w').write('[\"x\",\"y\"]')", {"R": "$(results.l.path)"})
    first["results"] = [{"name": "l", "type": "array"}]
    both = spec("print(os.environ['P'], os.environ['Q'])", {"P": "$(params.p)", "Q": "$(params.q)"}, params=[
        {"name": "p"}, {"name": "q", "default": "-"}])  # fmt: skip
    include = [{"params": [{"name": "p", "value": "y"}, {"name": "q", "value": "$(params.word)"}]}]
    tasks = [
        task("first", first),
        task("m", both, matrix={"params": [{"name": "p", "value": "$(tasks.first.results.l[*])"}], "include": include}),
        task("n", ECHO, **over("$(params.word)", "2", "3")),
        task("len", USE, runAfter=["n"], params=[
            {"name": "p", "value": "$(tasks.n.matrix.length) $(tasks.n.matrix.r.length) $(tasks.first.matrix.length)"},
        ]),
    ]  # fmt: skip
    done = execute(tmp_path, pipeline_run(tasks, params=[{"name": "word", "default": "w"}]))
    assert done.succeeded, done.message
    assert [log(done, f"m/{index}/attempt-1") for index in (0, 1)] == ["x -\n", "y w\n"]
    assert done.tasks["n"].results == {"r": ["got w", "got 2", "got 3"]}
    assert log(done, "len/attempt-1") == "3 3 0\n"


def test_one_combination_that_fails_lets_the_others_end_and_fails_the_task(tmp_path: Path) -> None:
    code = "time.sleep(0.2 * (os.environ['P'] != 'b')); open(os.environ['RESULT_R'], 'w').write(os.environ['P'])\n"
    body = spec(code + "sys.exit(os.environ['P'] == 'b')", {"P": "$(params.p)"}, ("r",), params=P)
    words = [{"name": "p", "value": "$(tasks.m.status) $(tasks.m.reason)"}]
    done = execute(
        tmp_path,
        pipeline_run(
            [task("m", body, retries=1, **over("a", "b", "c")), task("z", runAfter=["m"])],
            **{"finally": [task("f", USE, params=words)]},
        ),
    )
    m = done.tasks["m"]
    assert (done.reason, m.state, m.reason, m.results) == ("Failed", "Failed", "StepFailed", {"r": ["a", "b", "c"]})
    assert [(one.state, one.attempts) for one in m.children] == [("Succeeded", 1), ("Failed", 2), ("Succeeded", 1)]
    assert done.tasks["z"].reason == graph.STOPPING_SKIP
    assert log(done, "f/attempt-1") == "Failed StepFailed\n"


def test_an_empty_array_skips_the_task_and_those_after_it(tmp_path: Path) -> None:
    guard = [{"input": "a", "operator": "in", "values": ["b"]}]
    tasks = [
        task("m", USE, **over()),
        task("after", runAfter=["m"]),
        task("guarded", USE, when=guard, **over("1")),
    ]
    done = execute(tmp_path, pipeline_run(tasks))
    assert (done.reason, done.tasks["m"].reason) == ("Completed", "Matrix Parameters have an empty array")
    assert done.tasks["after"].reason == graph.PARENT_SKIP
    assert done.tasks["guarded"].reason == graph.WHEN_SKIP


def test_a_limit_stops_every_combination(tmp_path: Path) -> None:
    slow = spec("time.sleep(600)", {"P": "$(params.p)"}, params=P)
    run = {"timeouts": {"pipeline": "1m", "tasks": "500ms"}}
    done = execute(tmp_path, pipeline_run([task("m", slow, **over("a", "b"))], run))
    assert done.reason == "PipelineRunTimeout"
    assert [(one.reason, one.timed_out) for one in done.tasks["m"].children] == [("TaskRunCancelled", True)] * 2
    assert (done.tasks["m"].state, done.tasks["m"].timed_out) == ("Cancelled", True)


def test_a_result_that_no_task_asks_for_is_not_gathered_as_in_tekton(tmp_path: Path) -> None:
    results = [{"name": "all", "value": "$(tasks.m.results.r[*])"}]
    done = execute(tmp_path, pipeline_run([task("m", ECHO, **over("a", "b"))], results=results))
    assert (done.reason, done.results) == ("CouldntGetPipelineResult", {})


def test_a_combination_without_a_value_fails_alone(tmp_path: Path) -> None:
    include = {"matrix": {"include": [{"params": [{"name": "p", "value": "1"}]}, {"params": []}]}}
    m = execute(tmp_path, pipeline_run([task("m", USE, **include)])).tasks["m"]
    assert [one.reason for one in m.children] == ["Succeeded", "TaskRunValidationFailed"]
    assert "missing values for these params which have no default values: [p]" in m.children[1].cause


MANY = [str(number) for number in range(17)]
REFUSED = {
    "twice": (task("m", USE, **over("1"), params=[{"name": "p", "value": "2"}]), "p is also in the matrix"),
    "no array": (task("m", USE, matrix={"params": [{"name": "p", "value": "1"}]}), "p is of type string, not array"),
    "array in the Task": (task("m", LIST, matrix={"params": [{"name": "l", "value": ["1"]}]}), "type array, not str"),
    "nobody": (task("m", "pass", **over("1")), "Task m has no param p"),
    "too many": (
        task("m", {**USE, "params": [{"name": "p"}, {"name": "q"}]}, matrix={
            "params": [{"name": "p", "value": MANY}, {"name": "q", "value": MANY}]}),
        "makes 289 combinations, more than 256",
    ),
    "one of many": (
        task("m", USE, params=[{"name": "p", "value": "$(tasks.a.results.r[0])"}]),
        "can only be consumed in aggregate using [*]",
    ),
    "length in a guard": (
        task("m", when=[{"input": "$(tasks.a.matrix.length)", "operator": "in", "values": ["1"]}]),
        "is replaced in params only",
    ),
    "length of nobody": (task("m", USE, params=[{"name": "p", "value": "$(tasks.z.matrix.length)"}]), "names Task z"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_a_matrix_that_tekton_would_refuse_is_refused(body: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        execute(tmp_path, pipeline_run([task("a", ECHO, **over("1", "2")), body]))
    assert message in error.value.line()


def test_values_that_turn_out_to_be_no_array_fail_the_validation(tmp_path: Path) -> None:
    body = {"matrix": {"params": [{"name": "p", "value": "$(tasks.a.results.r)"}]}}
    done = execute(tmp_path, pipeline_run([task("a", giving(r="text")), task("m", USE, **body)]))
    assert "matrix param p is of type string, not array" in done.message
    assert json.loads((done.folder / "run.json").read_text())["tasks"]["m"]["state"] == "Invalid"
