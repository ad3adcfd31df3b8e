"""What cannot be run is refused by name, with file, line and remedy, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tekton_yaml import API, IMAGE, execute, giving, pipeline_run, spec, step, task, write

from isotherm.tekton import BadInput, TaskError
from isotherm_local.runner import plan
from isotherm_local.runner.documents import ROOT

P = [{"name": "p"}]
LIST = [{"name": "p", "type": "array", "default": []}]
USE = spec("pass", {"P": "$(params.p)"}, params=P)
W = [{"name": "w"}]
CLAIM = {"persistentVolumeClaim": {"claimName": "c"}}


def with_step(**fields: Any) -> dict[str, Any]:
    return {"steps": [{**step("pass"), **fields}]}


def scripted(script: str, **fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "only", "image": IMAGE, "script": script}], **fields}


def gives(value: Any) -> dict[str, Any]:
    return {"params": [{"name": "p", "value": value}]}


def guarded(**when: Any) -> dict[str, Any]:
    return task("a", when=[when])


REFUSED = {
    # params
    "missing": (pipeline_run([task("a")], params=P), "Pipeline it needs param p"),
    "unknown": (pipeline_run([task("a")], gives("x")), "Pipeline it has no param p"),
    "unknown in Task": (pipeline_run([task("a", **gives("x"))]), "Task a has no param p"),
    "missing in Task": (pipeline_run([task("a", USE)]), "Task a needs param p"),
    "type": (pipeline_run([task("a")], gives(["x"]), params=P), "param p of Pipeline it is of type string, not array"),
    "type in Task": (pipeline_run([task("a", USE, **gives(["x"]))]), "param p of Task a is of type string, not array"),
    "default's type": (
        pipeline_run([task("a")], params=[{"name": "p", "type": "array", "default": "x"}]),
        "default of",
    ),
    "object's keys": (
        pipeline_run([task("a")], gives({"x": "1"}), params=[{"name": "p", "properties": {"x": {}, "y": {}}}]),
        "lacks the keys y",
    ),
    "given twice": (pipeline_run([task("a")], {"params": gives("x")["params"] * 2}, params=P), "repeats the name 'p'"),
    "a result from outside": (
        pipeline_run([task("a")], gives("$(tasks.a.results.r)"), params=P),
        "contains a reference",
    ),
    "defaults in a circle": (
        pipeline_run(
            [task("a")], params=[{"name": "p", "default": "$(params.q)"}, {"name": "q", "default": "$(params.p)"}]
        ),
        "defaults of params p, q refer to each other",
    ),
    # references
    "undeclared param": (pipeline_run([task("a", USE, **gives("$(params.q)"))]), "$(params.q) names param q, which is"),
    "undeclared in a step": (
        pipeline_run([task("a", spec("", {"X": "$(params.q)"}))]),
        "spec.pipelineSpec.tasks[0].taskSpec",
    ),
    "array in a text": (
        pipeline_run([task("a", spec("", {"X": "$(params.p)"}, params=LIST))]),
        "puts the whole array p into a text",
    ),
    "index of a text": (
        pipeline_run([task("a", USE, **gives("$(params.q[0])"))], params=[{"name": "q", "default": ""}]),
        "indexes param q, which is a string",
    ),
    "unknown Task": (pipeline_run([task("a", USE, **gives("$(tasks.z.results.r)"))]), "names Task z"),
    "unknown result": (pipeline_run([task("b"), task("a", USE, **gives("$(tasks.b.results.r)"))]), "names result r"),
    "status outside finally": (pipeline_run([task("b"), task("a", USE, **gives("$(tasks.b.status)"))]), "only finally"),
    "result of finally": (
        pipeline_run(
            [task("a")], **{"finally": [task("f", giving(r="1")), task("g", USE, **gives("$(tasks.f.results.r)"))]}
        ),
        "which runs in finally",
    ),
    "unknown context": (
        pipeline_run([task("a", USE, **gives("$(context.pipelineRun.nick)"))]),
        "is not known to Tekton",
    ),
    "undeclared result's path": (pipeline_run([task("a", spec("", {"X": "$(results.r.path)"}))]), "names result r"),
    "a shell's variable in a result's path": (
        pipeline_run([task("a", scripted("i=1; echo x > $(results.r-${i}.path)", results=[{"name": "r-1"}]))]),
        "$(results.r-${i}.path) has a $ or ( inside",
    ),
    "result in a subPath": (
        pipeline_run(
            [
                task("b", giving(r="1")),
                task("a", spec("", workspaces=W), workspaces=[{"name": "w", "subPath": "$(tasks.b.results.r)"}]),
            ],
            {"workspaces": [{"name": "w", **CLAIM}]},
            workspaces=W,
        ),
        "would not make this Task wait",
    ),
    "pipeline result": (
        pipeline_run([task("a")], results=[{"name": "x", "value": "$(tasks.a.results.r)"}]),
        "result x: $(tasks.a.results.r) names result r",
    ),
    # order and guards
    "cycle": (pipeline_run([task("a", runAfter=["b"]), task("b", runAfter=["a"])]), "cycle detected"),
    "itself": (pipeline_run([task("a", runAfter=["a"])]), "cycle detected; task a depends on a"),
    "runAfter nobody": (pipeline_run([task("a", runAfter=["z"])]), "names 'z', which the Pipeline does not have"),
    "runAfter in finally": (
        pipeline_run([task("a")], **{"finally": [task("f", runAfter=["a"])]}),
        "not allowed in finally",
    ),
    "same name": (pipeline_run([task("a"), task("a")]), "repeats the name 'a'"),
    "same name in finally": (pipeline_run([task("a")], **{"finally": [task("a")]}), "repeats the name 'a'"),
    "operator": (pipeline_run([guarded(input="x", operator="is", values=["x"])]), "operator is 'is'"),
    "no values": (pipeline_run([guarded(input="x", operator="in", values=[])]), "values is empty"),
    "cel": (pipeline_run([guarded(cel="'a' == 'b'")]), "when[0].cel is refused"),
    # workspaces
    "unbound": (pipeline_run([task("a")], workspaces=W), "workspace w is not bound"),
    "needed by Task": (pipeline_run([task("a", spec("", workspaces=W))]), "Task a needs workspace w"),
    "unknown binding": (
        pipeline_run([task("a")], {"workspaces": [{"name": "w", **CLAIM}]}),
        "nothing declares workspace w",
    ),
    "optional but required": (
        pipeline_run([task("a", spec("", workspaces=W), workspaces=W)], workspaces=[{"name": "w", "optional": True}]),
        "workspace w is optional, but Task a requires w",
    ),
    "no Secret": (
        pipeline_run([task("a")], {"workspaces": [{"name": "w", "secret": {"secretName": "s"}}]}, workspaces=W),
        "Secret s does not exist in namespace default",
    ),
    "two volumes": (
        pipeline_run([task("a")], {"workspaces": [{"name": "w", **CLAIM, "emptyDir": {}}]}, workspaces=W),
        "binds workspace w to 2 volumes",
    ),
    # steps
    "family": (pipeline_run([task("a", with_step(image="docker.io/library/python:3"))]), "is of none of the families"),
    "no command": (pipeline_run([task("a", with_step(command=None))]), "has no command"),
    "no such program": (
        pipeline_run([task("a", with_step(command=["no-such-program"]))]),
        "'no-such-program' is not on",
    ),
    "no steps": (pipeline_run([task("a", {"steps": []})]), "has no steps"),
    "unknown volume": (
        pipeline_run([task("a", with_step(volumeMounts=[{"name": "v", "mountPath": "/v"}]))]),
        "volume 'v'",
    ),
    "mount that nothing names": (
        pipeline_run(
            [
                task(
                    "a",
                    {
                        **with_step(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
                        "volumes": [{"name": "v", "emptyDir": {}}],
                    },
                )
            ]
        ),
        "nothing in the step names /v",
    ),
    "result's name": (
        pipeline_run([task("a", {**with_step(), "results": [{"name": "../x"}]})]),
        "'../x' is not a valid",
    ),
    "script and command": (pipeline_run([task("a", with_step(script="echo"))]), "has both script and command"),
    "interpreter": (
        pipeline_run([task("a", with_step(command=None, script="#!/usr/bin/env no-such-program\n"))]),
        "interpreter 'no-such-program' is not on PATH",
    ),
    # names, references, limits
    "Task's name": (pipeline_run([task("A_b")]), "'A_b' is not a name for Kubernetes"),
    "unknown Task's name": (
        pipeline_run([{"name": "a", "taskRef": {"name": "nobody"}}]),
        "Task 'nobody' does not exist",
    ),
    "cluster Task": (
        pipeline_run([{"name": "a", "taskRef": {"name": "x", "kind": "ClusterTask"}}]),
        "kind is 'ClusterTask'",
    ),
    "resolver": (pipeline_run([{"name": "a", "taskRef": {"resolver": "git"}}]), "taskRef.resolver is refused"),
    "both": (pipeline_run([task("a", taskRef={"name": "x"})]), "exactly one of taskRef and taskSpec"),
    "duration": (pipeline_run([task("a", timeout="soon")]), "is 'soon', not a duration"),
    "sum of limits": (
        pipeline_run([task("a")], {"timeouts": {"pipeline": "1m", "tasks": "50s", "finally": "20s"}}),
        "tasks and finally together exceed pipeline",
    ),
    "override of nobody": (
        pipeline_run([task("a")], {"taskRunSpecs": [{"pipelineTaskName": "z", "timeout": "1m"}]}),
        "no Task is named z",
    ),
    "no name": ({**pipeline_run([task("a")]), "metadata": {}}, "neither name nor generateName"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
def test_a_run_that_cannot_run_is_refused_before_anything_runs(
    body: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as error:
        execute(tmp_path, body)
    assert message in error.value.line()
    assert "\n" not in error.value.line()
    assert not (tmp_path / "state/namespaces/default/runs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"namespace": "Up"}, "namespace 'Up' is not a name"),
        ({"name": "../up"}, "run name '../up' is not a name"),
        ({"params": {"nobody": "1"}}, "has no param nobody"),
        ({"files": [Path("/nowhere.yaml")]}, "/nowhere.yaml cannot be read (No such file or directory)"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        execute(tmp_path, pipeline_run([task("a")]), **more)
    assert message in error.value.line()


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(BadInput, match=r"cannot be made \(Not a directory\)") as error:
        execute(tmp_path, pipeline_run([task("a")]))
    assert "--state DIR" in error.value.line()


def test_a_record_of_another_version_is_named(tmp_path: Path) -> None:
    run = execute(tmp_path, pipeline_run([task("a")]))
    (run.folder / "run.json").write_text('{"tasks": {}, "nobody": 1}')
    with pytest.raises(BadInput, match="is of another version"):
        execute(tmp_path, pipeline_run([task("a")]))


def test_a_file_holds_exactly_one_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds 0 PipelineRuns or TaskRuns"):
        execute(tmp_path, {"apiVersion": API, "kind": "Task", "metadata": {"name": "t"}, "spec": spec("pass")})
    with pytest.raises(BadInput, match="holds 2 PipelineRuns or TaskRuns"):
        execute(tmp_path, pipeline_run([task("a")]), pipeline_run([task("a")]))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    body = pipeline_run([task("a", with_step(when=[], results=[], envFrom=[]))])
    with pytest.raises(BadInput) as error:
        execute(tmp_path, body)
    for field in ("when", "results", "envFrom"):
        assert f"steps[0].{field} is refused" in error.value.line()
    assert "run.yaml:" in error.value.line()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "[a,b]", "[a,b]"),
        ("array", "a,b", ["a", "b"]),
        ("array", '["a,b", "c"]', ["a,b", "c"]),
        ("array", "", []),
        ("object", "x:1,y:2:3", {"x": "1", "y": "2:3"}),
        ("object", '{"x": "1"}', {"x": "1"}),
    ],
)
def test_a_param_from_the_command_line_has_its_declared_type(kind: str, text: str, value: Any) -> None:
    from isotherm_local.runner.specs import ParamSpec

    assert plan.typed("p", text, ParamSpec("p", kind, None, ())) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("$(params.p)"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "steps", "params", "image", "command", "value", "tasks"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(section=st.sampled_from(["tasks", "params", "workspaces", "results", "finally"]), body=JSON)
def test_no_pipeline_makes_the_check_fail_otherwise_than_by_refusing(section: str, body: Any, tmp_path: Path) -> None:
    run = pipeline_run([task("a")])
    run["spec"]["pipelineSpec"][section] = body
    file = write(tmp_path, run)
    try:
        plan.make(plan.Request(file, ROOT, tmp_path / "state"))
    except TaskError:
        return


def test_the_family_in_these_tests_exists() -> None:
    assert (ROOT / ".venv" / "ops" / "bin" / "python").exists(), IMAGE
