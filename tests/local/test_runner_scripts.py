"""Scripts, foreign images and the paths of a pod: other people's Tasks as processes of this machine."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import IMAGE, execute, log, pipeline_run, step, task, write

from isotherm.tekton import BadInput
from isotherm_local.cli import main
from isotherm_local.runner import script
from isotherm_local.runner.record import RunRecord

ALPINE = "mirror.gcr.io/alpine:3@sha256:" + "0" * 64


def scripted(text: str, image: str = IMAGE, **more: Any) -> dict[str, Any]:
    return {"name": "only", "image": image, "script": text, **more}


def run(folder: Path, *steps: dict[str, Any], foreign: bool = False, **more: Any) -> RunRecord:
    names = [{"name": one["name"]} for one in more.get("workspaces", ())]
    bound = {"workspaces": [{"name": one["name"], "emptyDir": {}} for one in names]}
    body = {"steps": list(steps), **more}
    tasks = [task("a", body, workspaces=names)]
    return execute(folder, pipeline_run(tasks, bound, workspaces=names), foreign_images=foreign)


def test_a_script_without_a_first_line_is_a_shell_that_stops_at_the_first_error(tmp_path: Path) -> None:
    done = run(tmp_path, scripted('echo "$0" "$@"; false; echo never', args=["x y", "z"]))
    assert done.tasks["a"].message == '"step-only" exited with code 1'
    assert log(done, "a").endswith("/scripts/only x y z\n")


def test_the_first_line_picks_the_environment_of_the_family(tmp_path: Path) -> None:
    done = run(tmp_path, scripted("#!/usr/bin/env python\nimport sys; print(sys.prefix)"))
    assert log(done, "a").endswith(".venv/ops\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo", ["/bin/sh"]),
        ("#!/bin/bash -eu\n", ["/bin/bash", "-eu"]),
        ("#! /usr/bin/env bash\n", ["bash"]),
        ("#!/usr/bin/env -S python3 -u\n", ["python3", "-u"]),
        ("#!/usr/bin/awk -f x\n", ["/usr/bin/awk", "-f x"]),
        ("\n#!/bin/sh\n", []),
    ],
)
def test_an_interpreter_is_read_as_the_kernel_reads_it(text: str, words: list[str]) -> None:
    assert script.interpreter(text) == words


def test_a_script_is_substituted_by_tekton_and_not_by_the_kubelet(tmp_path: Path) -> None:
    text = """HOST=h; echo '$(params.p) $$(HOST)' "$(echo "$HOST")"; cat $(results.r.path)"""
    before = {**scripted("printf 'r$$' > $(results.r.path)"), "name": "before"}
    declared = {"results": [{"name": "r"}], "params": [{"name": "p", "default": "a $ b"}]}
    done = run(tmp_path, before, scripted(text), **declared)
    assert log(done, "a") == "a $ b $$(HOST) h\nr$$"


def test_the_paths_of_a_pod_are_folders_of_the_attempt(tmp_path: Path) -> None:
    spaces = [{"name": "w"}, {"name": "m", "mountPath": "/m"}]
    writes = "echo 1 > /tekton/home/a; echo 2 > /workspace/b; echo 3 > /v/c; echo 4 > /workspace/w/d; echo 5 > /m/e"
    reads = 'cat "$HOME/a" b /other/c "$(workspaces.w.path)/d" $(workspaces.m.path)/e; echo /vx "$PWD"/v | wc -w'
    first, second = {**scripted(writes), "name": "first"}, {**scripted(reads), "name": "second"}
    first["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    second |= {"volumeMounts": [{"name": "v", "mountPath": "/other"}], "workingDir": "/workspace"}
    done = run(tmp_path, first, second, volumes=[{"name": "v", "emptyDir": {}}], workspaces=spaces)
    assert log(done, "a").split() == ["1", "2", "3", "4", "5", "2"]
    assert not Path("/m").exists()


def test_a_foreign_image_runs_here_only_where_asked(tmp_path: Path) -> None:
    one = scripted('#!/usr/bin/env sh\nif [[ a == a ]]; then echo "$HOME ${IMAGE_REF:-none}"; fi', ALPINE)
    with pytest.raises(BadInput, match="is of none of the families") as error:
        run(tmp_path, one)
    assert "--foreign-images host" in error.value.line()
    done = run(tmp_path, one, foreign=True)
    home, reference = log(done, "a").split()
    assert home.endswith("/scratch/home")
    assert reference == "none"


def test_a_tools_image_is_refused_although_foreign_images_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'quay\.io/skopeo/stable:1' is of none") as error:
        run(tmp_path, scripted("true", "quay.io/skopeo/stable:1"), foreign=True)
    assert "stands in for plain images only: alpine" in error.value.line()


def test_the_command_runs_foreign_images_with_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, pipeline_run([task("a", {"steps": [scripted("echo here", "ubuntu")]})]))
    state = ["--state", str(tmp_path / "state"), "--plain"]
    assert main(["run", str(file), *state]) != 0
    assert "--foreign-images host" in capsys.readouterr().err
    assert main(["run", str(file), *state, "--foreign-images", "host", "-v"]) == 0
    assert "here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (scripted("cat /tekton/run/0/out"), "script names /tekton/run, which only a pod has"),
        (scripted("echo $(params.q)"), "$(params.q) names param q, which is not declared"),
        (scripted("echo $(workspaces.w.path)"), "names workspace w, which the Task does not declare"),
        (scripted("echo > $(artifacts.path)"), "$(artifacts.path) is not known to the local runner here"),
        (scripted("true", workingDir="/app"), "workingDir is /app, a folder of the image, which is not here"),
        (step("pass", workingDir="/app"), "workingDir is /app, a folder of the image, which is not here"),
    ],
)
def test_what_only_a_pod_has_is_refused(body: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        run(tmp_path, body)
    assert message in error.value.line()


def test_config_maps_and_secrets_beside_a_run_are_made_first(tmp_path: Path) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "1", "other": "2"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "aGk="}}
    bound = [
        {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "in/file"}]}},
        {"name": "s", "secret": {"secretName": "s"}},
    ]
    names = [{"name": "c"}, {"name": "s"}]
    body = {
        "steps": [scripted("cd $(workspaces.c.path); find . -type f; cat $(workspaces.s.path)/k")],
        "workspaces": names,
    }
    given = pipeline_run([task("a", body, workspaces=names)], {"workspaces": bound}, workspaces=names)
    done = execute(tmp_path, config, secret, given)
    assert log(done, "a") == "./in/file\nhi"
    kept = tmp_path / "state/namespaces/default/secrets/s/k"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    shutil.rmtree(tmp_path / "state")
    bound[0]["configMap"]["items"][0]["key"] = "absent"
    with pytest.raises(BadInput, match="ConfigMap c has no key absent"):
        execute(tmp_path, config, secret, given)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"kind": "ConfigMap", "metadata": {"name": "../x"}}, "is not a name for Kubernetes"),
        ({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"../k": "1"}}, "'../k' is not a key"),
        ({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": 1}}, "data.k must be text"),
        ({"kind": "Secret", "metadata": {"name": "x"}, "data": {"k": "?"}}, "data.k is not base64"),
        ({"kind": "ServiceAccount", "metadata": {"name": "x"}, "secrets": [{"name": "s"}]}, "secrets is refused"),
    ],
)
def test_a_companion_that_is_not_sound_is_refused(beside: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        execute(tmp_path, {"apiVersion": "v1", **beside}, pipeline_run([task("a")]))
    assert message in error.value.line()
    assert not (tmp_path / "state").exists()


def test_a_task_of_two_claims_is_refused_as_on_a_cluster(tmp_path: Path) -> None:
    body = {"steps": [step("pass")], "workspaces": [{"name": "r"}, {"name": "w"}]}
    inner = [{"name": "r", "workspace": "x"}, {"name": "w", "workspace": "y"}]
    declared = [{"name": "x"}, {"name": "y"}]

    def run(*claims: str) -> Any:
        bound = [
            {**one, "persistentVolumeClaim": {"claimName": claim}, "subPath": one["name"]}
            for one, claim in zip(declared, claims, strict=True)
        ]
        return execute(
            tmp_path, pipeline_run([task("a", body, workspaces=inner)], {"workspaces": bound}, workspaces=declared)
        )

    with pytest.raises(BadInput, match=r"more than one PersistentVolumeClaim is bound \(c, d\)"):
        run("c", "d")
    with pytest.raises(BadInput, match="workspace x has c as well, and on a cluster its Tasks never start"):
        run("c", "c")
    inner[1]["workspace"], declared[1:] = "x", []
    inner[1]["subPath"] = "w"
    assert run("c").succeeded


def test_a_read_only_workspace_beside_a_writable_one_is_refused(tmp_path: Path) -> None:
    names = [{"name": "r", "readOnly": True}, {"name": "w"}]
    inner = [{"name": "r", "workspace": "x", "subPath": "a"}, {"name": "w", "workspace": "x"}]
    bound = {"workspaces": [{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}]}
    body = {"steps": [step("pass")], "workspaces": names}
    with pytest.raises(BadInput, match="r is readOnly in a folder that the Task may write as w"):
        execute(tmp_path, pipeline_run([task("a", body, workspaces=inner)], bound, workspaces=[{"name": "x"}]))
    inner[1]["subPath"] = "b"
    assert execute(
        tmp_path, pipeline_run([task("a", body, workspaces=inner)], bound, workspaces=[{"name": "x"}])
    ).succeeded


def test_an_embedded_spec_may_use_what_is_around_it_and_a_misspelt_name_is_still_refused(tmp_path: Path) -> None:
    given = {"params": [{"name": "hello", "value": "h"}], "workspaces": [{"name": "w", "emptyDir": {}}]}
    plain = {"steps": [scripted("test -d $(workspaces.w.path); echo $(params.hello) $(tasks.b.results.r)")]}
    own = {**plain, "params": [{"name": "hello", "default": "own"}]}
    first = {"steps": [scripted("printf r > $(results.r.path)")], "results": [{"name": "r"}]}
    tasks = [
        task("a", plain),
        task("b", first),
        task("c", plain, params=[{"name": "hello", "value": "t"}]),
        task("d", own),
    ]
    done = execute(tmp_path, pipeline_run(tasks, given))
    assert {name: log(done, name) for name in "acd"} == {"a": "h r\n", "c": "t r\n", "d": "h r\n"}
    given["params"][0]["name"] = "helo"
    with pytest.raises(BadInput, match="has no param helo"):
        execute(tmp_path, pipeline_run([task("a", plain), task("b", first)], given), delete_first=True)
