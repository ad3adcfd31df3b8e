"""PipelineRuns through real processes: params, results, order, guards, finally, retries, records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import API, execute, giving, log, pipeline_run, spec, task

from isotherm.tekton import Refused
from isotherm_local.runner import graph, record
from isotherm_local.runner.run import run_pipeline

CLAIM = {"workspaces": [{"name": "shared", "persistentVolumeClaim": {"claimName": "claim"}}]}
IN_CLAIM = {"workspaces": [{"name": "w", "workspace": "shared"}]}


def in_claim(code: str, **more: Any) -> dict[str, Any]:
    return spec(code, {"DIR": "$(workspaces.w.path)"}, workspaces=[{"name": "w"}], **more)


def test_params_of_every_type_reach_the_process(tmp_path: Path) -> None:
    declared = [
        {"name": "text", "type": "string"},
        {"name": "list", "type": "array"},
        {"name": "point", "type": "object", "properties": {"x": {}, "y": {}}, "default": {"y": "9"}},
        {"name": "derived", "default": "$(params.text)-d"},
    ]
    body = spec("print(sys.argv[1:], os.environ['POINT'], os.environ['FIRST'])", {
        "POINT": "$(params.point.x)/$(params.point.y)", "FIRST": "$(params.list[0]) $(params.derived)",
    }, params=declared)  # fmt: skip
    body["steps"][0]["args"] += ["$(params.list[*])", '$(params["text"])', "in-$(params['text'])"]
    passed = [{"name": name, "value": f"$(params.{name}[*])"} for name in ("list", "point")]
    passed.append({"name": "text", "value": "$(params.text)"})
    given = {"text": "t v", "list": ["a b", ""], "point": {"x": "1"}}
    run = {"params": [{"name": name, "value": value} for name, value in given.items()]}
    declared_outside = [{**item, "default": item.get("default")} for item in declared[:3]]
    for item in declared_outside[:2]:
        item.pop("default")
    done = execute(tmp_path, pipeline_run([task("a", body, params=passed)], run, params=declared_outside))
    assert done.succeeded, done.message
    assert log(done, "a") == "['a b', '', 't v', 'in-t v'] 1/9 a b t v-d\n"
    assert done.params == {"text": "t v", "list": ["a b", ""], "point": {"y": "9", "x": "1"}}


def test_results_order_tasks_and_reach_params_guards_and_the_pipelines_results(tmp_path: Path) -> None:
    last = spec("print(os.environ['P'])", {"P": "$(params.p)"}, params=[{"name": "p"}])
    guard = [{"input": "$(tasks.a.results.verdict)", "operator": "in", "values": ["pass", "maybe"]}]
    tasks = [
        task("b", last, params=[{"name": "p", "value": "<$(tasks.a.results.size)>"}], when=guard),
        task("a", giving(verdict="pass", size="7\n")),
    ]
    done = execute(tmp_path, pipeline_run(tasks, results=[{"name": "size", "value": "$(tasks.a.results.size)"}]))
    assert (done.status, done.reason) == ("True", "Succeeded")
    assert log(done, "b") == "<7\n>\n"
    assert done.results == {"size": "7\n"}
    assert done.tasks["b"].whenExpressions == [{"input": "pass", "operator": "in", "values": ["pass", "maybe"]}]


def test_array_and_object_results_keep_their_types(tmp_path: Path) -> None:
    types = {
        "results": [{"name": "l", "type": "array"}, {"name": "o", "type": "object", "properties": {"k": {}}}],
    }
    code = "open(os.environ['L'],'w').write('[\"x\",\"y\"]'); open(os.environ['O'],'w').write('{\"k\":\"v\"}')"
    first = spec(code, {"L": "$(results.l.path)", "O": "$(results.o.path)"}) | types
    second = spec("print(sys.argv[1:], os.environ['K'])", {"K": "$(params.k)"}, params=[
        {"name": "l", "type": "array"}, {"name": "k"},
    ])  # fmt: skip
    second["steps"][0]["args"].append("$(params.l[*])")
    passed = [{"name": "l", "value": "$(tasks.a.results.l[*])"}, {"name": "k", "value": "$(tasks.a.results.o.k)"}]
    done = execute(tmp_path, pipeline_run([task("a", first), task("b", second, params=passed)]))
    assert done.succeeded, done.message
    assert log(done, "b") == "['x', 'y'] v\n"


def test_parallel_branches_really_overlap(tmp_path: Path) -> None:
    # Each waits for the other: one after the other, neither could end.
    code = "d = pathlib.Path(os.environ['DIR']); (d / ME).touch()\nwhile not (d / OTHER).exists(): time.sleep(0.01)"
    tasks = [
        task(me, in_claim(f"ME, OTHER = {me!r}, {other!r}\n" + code), **IN_CLAIM, timeout="60s")
        for me, other in (("a", "b"), ("b", "a"))
    ]
    done = execute(tmp_path, pipeline_run(tasks, CLAIM, workspaces=[{"name": "shared"}]))
    assert done.succeeded, done.message
    a, b = done.tasks["a"], done.tasks["b"]
    assert a.started <= b.finished
    assert b.started <= a.finished


def test_a_closed_gate_skips_what_depends_on_it_by_results_and_runs_the_finally_task(tmp_path: Path) -> None:
    use = spec("pass", params=[{"name": "p"}])
    tasks = [
        task("gate", giving(verdict="fail")),
        task("register", giving(version="1"), when=[
            {"input": "$(tasks.gate.results.verdict)", "operator": "in", "values": ["pass"]},
        ]),
        task("deploy", use, params=[{"name": "p", "value": "$(tasks.register.results.version)"}]),
        task("shift", runAfter=["deploy"]),
        task("other", runAfter=["register"]),
    ]  # fmt: skip
    report = spec("print(os.environ['S'])", {"S": "$(params.s)"}, params=[{"name": "s", "type": "array"}])
    report["steps"][0] |= {"env": [], "args": ["import sys; print(sys.argv[1:])", "$(params.s[*])"]}
    statuses = ["gate=$(tasks.gate.status)", "register=$(tasks.register.status)", "$(tasks.status)"]
    final = [task("report", report, params=[{"name": "s", "value": statuses}])]
    done = execute(tmp_path, pipeline_run(tasks, **{"finally": final}))
    assert (done.status, done.reason) == ("True", "Completed")
    assert {name: one.reason for name, one in done.tasks.items()} == {
        "gate": "Succeeded",
        "register": graph.WHEN_SKIP,
        "deploy": graph.MISSING_RESULTS_SKIP,
        "shift": graph.PARENT_SKIP,
        "other": "Succeeded",
        "report": "Succeeded",
    }
    assert log(done, "report") == "['gate=Succeeded', 'register=None', 'Completed']\n"


def test_a_failed_task_stops_the_rest_keeps_its_results_and_names_the_cause(tmp_path: Path) -> None:
    failing = spec("open(os.environ['RESULT_R'],'w').write('early'); print('step 1'); sys.exit('no data; add some')",
                   results=("r",))  # fmt: skip
    tasks = [task("a", failing), task("b", runAfter=["a"])]
    seen = spec("print(os.environ['R'])", {"R": "$(params.r)"}, params=[{"name": "r"}])
    value = "$(tasks.a.results.r) $(tasks.a.status) $(tasks.a.reason)"
    final = [task("f", seen, params=[{"name": "r", "value": value}])]
    done = execute(tmp_path, pipeline_run(tasks, **{"finally": final}))
    a = done.tasks["a"]
    assert (done.status, done.reason) == ("False", "Failed")
    assert (a.state, a.reason, a.message) == ("Failed", "StepFailed", '"step-only" exited with code 1')
    assert a.cause == "no data; add some"
    assert done.culprit() is a
    assert done.tasks["b"].reason == graph.STOPPING_SKIP
    assert log(done, "f") == "early Failed StepFailed\n"


def test_a_task_is_tried_again_with_fresh_results_and_the_same_workspace(tmp_path: Path) -> None:
    code = (
        "n = len(list(pathlib.Path(os.environ['DIR']).iterdir())); (pathlib.Path(os.environ['DIR']) / str(n)).touch()\n"
        "r = pathlib.Path(os.environ['RESULT_R']); assert not r.exists(); r.write_text(str(n))\n"
        "print('try', n, os.environ['RETRIES'], os.environ['COUNT']); sys.exit(n < 2)"
    )
    env = {"DIR": "$(workspaces.w.path)", "RETRIES": "$(context.pipelineTask.retries)"}
    body = spec(code, {**env, "COUNT": "$(context.task.retry-count)"}, ("r",), workspaces=[{"name": "w"}])
    done = execute(
        tmp_path, pipeline_run([task("a", body, retries=2, **IN_CLAIM)], CLAIM, workspaces=[{"name": "shared"}])
    )
    assert done.succeeded, done.message
    assert (done.tasks["a"].attempts, done.tasks["a"].results) == (3, {"r": "2"})
    assert [log(done, "a", number) for number in (1, 2, 3)] == ["try 0 2 0\n", "try 1 2 1\n", "try 2 2 2\n"]


def test_retries_end(tmp_path: Path) -> None:
    done = execute(tmp_path, pipeline_run([task("a", "sys.exit(3)", retries=1)]))
    assert (done.tasks["a"].state, done.tasks["a"].attempts) == ("Failed", 2)


def test_a_consumed_result_that_is_missing_fails_the_run_as_in_tekton(tmp_path: Path) -> None:
    silent = spec("pass", results=("r",))
    use = spec("pass", params=[{"name": "p"}])
    tasks = [task("a", silent), task("b", use, params=[{"name": "p", "value": "$(tasks.a.results.r)"}])]
    done = execute(tmp_path, pipeline_run(tasks, **{"finally": [task("f")]}))
    assert done.reason == "PipelineValidationFailed"
    assert 'did not emit the result "r"' in done.message
    assert done.tasks["f"].state == "Succeeded"


def test_names_of_tasks_and_pipelines_are_found_in_the_files_given(tmp_path: Path) -> None:
    one = {"apiVersion": API, "kind": "Task", "metadata": {"name": "one"}, "spec": spec(
        "print(os.environ['C'])", {"C": "$(context.task.name) $(context.taskRun.name)"})}  # fmt: skip
    line = {"apiVersion": API, "kind": "Pipeline", "metadata": {"name": "line"}, "spec": {"tasks": [
        {"name": "a", "taskRef": {"name": "one", "kind": "Task"}}]}}  # fmt: skip
    run = {"apiVersion": API, "kind": "PipelineRun", "metadata": {"generateName": "x-"}, "spec": {
        "pipelineRef": {"name": "line"}}}  # fmt: skip
    done = execute(tmp_path, run, line, one)
    assert done.name.startswith("x-")
    assert len(done.name) == 7
    assert log(done, "a") == f"one {done.name}-a\n"


def test_a_task_run_runs_alone(tmp_path: Path) -> None:
    body = spec("print(os.environ['P']); sys.exit(1)", {"P": "$(params.p)"}, params=[{"name": "p", "default": "d"}])
    run = {
        "apiVersion": API,
        "kind": "TaskRun",
        "metadata": {"name": "alone"},
        "spec": {"taskSpec": body, "retries": 1},
    }
    done = execute(tmp_path, run, params={"p": "v"})
    assert (done.status, done.reason, done.tasks["task"].attempts) == ("False", "StepFailed", 2)
    assert log(done, "task") == "v\n"


def test_the_record_on_disk_is_the_record_returned(tmp_path: Path) -> None:
    done = execute(tmp_path, pipeline_run([task("a", giving(r="1"))]))
    assert record.read(done.folder) == done
    body = json.loads((done.folder / "run.json").read_text())
    assert body["schema_version"] == 1
    assert {"state", "reason", "started", "finished", "seconds", "attempts", "results", "log"} <= set(
        body["tasks"]["a"]
    )


def test_a_name_is_used_once_until_its_run_is_deleted(tmp_path: Path) -> None:
    body = pipeline_run([task("a", in_claim("(pathlib.Path(os.environ['DIR']) / 'kept').touch()"), **IN_CLAIM)],
                        CLAIM, workspaces=[{"name": "shared"}])  # fmt: skip
    first = execute(tmp_path, body)
    with pytest.raises(Refused, match=r"PipelineRun it exists \(AlreadyExists\)") as error:
        execute(tmp_path, body)
    assert "isotherm delete it -n default" in error.value.line()
    again = execute(tmp_path, body, delete_first=True)
    assert again.uid != first.uid
    record.delete(again.folder)
    assert not again.folder.exists()
    assert (tmp_path / "state/namespaces/default/pvcs/claim/kept").exists()
    assert execute(tmp_path, body, name="other").name == "other"


def test_the_targets_kubeconfig_reaches_steps_with_the_runs_namespace(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "kubeconfig").write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, namespace: default}}, {name: d, context: {}}]\n"
    )
    read = "print(pathlib.Path(os.environ['KUBECONFIG']).read_text())"
    done = execute(tmp_path, pipeline_run([task("a", read)]), namespace="mine")
    assert "namespace: mine" in log(done, "a")
    assert done.folder.parts[-4:] == ("namespaces", "mine", "runs", "it")
    assert "namespace: default" in (state / "kubeconfig").read_text()


def test_the_catalogs_example_runs_are_ready_to_run(tmp_path: Path) -> None:
    from isotherm_local.runner import plan
    from isotherm_local.runner.documents import ROOT

    examples = sorted(ROOT.glob("pipelines/*/runs/*.yaml"))
    assert examples
    for file in examples:
        assert plan.make(plan.Request(file, ROOT, tmp_path)).pipeline.tasks


def test_an_observer_hears_each_change_and_each_line(tmp_path: Path) -> None:
    class Recorder:
        heard: list[tuple[str, str]]

        def __init__(self) -> None:
            self.heard = []

        def changed(self, run: record.RunRecord) -> None:
            self.heard.append(("a", run.tasks["a"].state))

        def line(self, one: record.TaskRecord, text: str) -> None:
            self.heard.append((one.name, text))

    recorder = Recorder()
    from tekton_yaml import write

    file = write(tmp_path, pipeline_run([task("a", "print('x'); print('y', end='')")]))
    run_pipeline(file, state=tmp_path / "state", observer=recorder)
    assert list(dict.fromkeys(recorder.heard)) == [
        ("a", "Pending"), ("a", "Running"), ("a", "x"), ("a", "y"), ("a", "Succeeded"),
    ]  # fmt: skip
