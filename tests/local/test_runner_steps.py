"""One attempt of a Task: its environment, volumes and workspaces, several steps, results and their limits."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tekton_yaml import IMAGE, execute, log, pipeline_run, spec, step, task

from isotherm_local.runner import images
from isotherm_local.runner.documents import ROOT
from isotherm_local.runner.record import RunRecord


def run_task(folder: Path, body: dict[str, Any], run: dict[str, Any] | None = None, **more: Any) -> RunRecord:
    """Run one Task whose workspaces are the run's own of the same names."""
    names = [{"name": one["name"]} for one in body.get("workspaces", ())]
    given = names if run else []
    return execute(
        folder, pipeline_run([task("a", body, workspaces=given, **more)], run, workspaces=names if run else [])
    )


def test_a_step_starts_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = "print(sorted(os.environ)); h = os.environ['HOME']; print(sys.prefix, os.listdir(h), os.listdir('.'), h)"
    done = run_task(tmp_path, spec(code))
    names, rest = log(done, "a").splitlines()
    assert {"HOME", "PATH", "LANG", "KUBECONFIG", "IMAGE_REF", "ISOTHERM_GIT_SHA", "OMP_NUM_THREADS"} <= set(
        eval(names)
    )
    assert "AWS_SECRET_ACCESS_KEY" not in names
    assert "PYTHONPATH" not in names
    prefix, home, here, where = rest.split()
    assert (prefix, home, here) == (str(ROOT / ".venv/ops"), "[]", "[]")
    assert where != os.environ["HOME"]
    assert not Path(where).exists()


def test_a_step_knows_what_it_runs(tmp_path: Path) -> None:
    done = run_task(tmp_path, spec("print(os.environ['IMAGE_REF'], os.environ['ISOTHERM_GIT_SHA'])"))
    reference, sha = log(done, "a").split()
    assert reference == images.reference(ROOT, "ops")
    assert reference.startswith("source-sha256:")
    assert reference != images.reference(ROOT, "data")
    assert len(sha.removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    ("image", "family"),
    [
        ("isotherm/ops:0.1.0", "ops"),
        ("quay.io/org/isotherm/pinn-api@sha256:" + "0" * 64, "pinn-api"),
        ("registry:5000/data", "data"),
        ("pinn-trainer", "pinn-trainer"),
        ("x/ops:1@sha256:" + "a" * 64, "ops"),
        ("x/UPPER:1", ""),
    ],
)
def test_the_family_of_an_image_is_the_last_name_before_its_tag(image: str, family: str) -> None:
    assert images.family(image) == family


def test_the_authors_own_expansion_follows_the_kubelet(tmp_path: Path) -> None:
    body = spec("print(os.environ['URL'], os.environ['LATER'], os.environ['SHIELDED'], sys.argv[1:])")
    body["steps"][0]["env"] = [
        {"name": "LATER", "value": "$(HOST)"},
        {"name": "HOST", "value": "h"},
        {"name": "URL", "value": "http://$(HOST):$(PORT)"},
        {"name": "SHIELDED", "value": "$$(HOST) $$"},
    ]
    body["steps"][0]["args"] += ["$(HOST)-$(NOBODY)"]
    done = run_task(tmp_path, body)
    assert log(done, "a") == "http://h:$(PORT) $(HOST) $(HOST) $ ['h-$(NOBODY)']\n"


@pytest.mark.parametrize("value", ["cost $$5", "$(P)", "$(context.taskRun.name)"])
def test_a_value_that_would_be_altered_on_the_way_is_refused(value: str, tmp_path: Path) -> None:
    body = spec("pass", {"P": "x", "Q": "$(params.q)"}, params=[{"name": "q"}])
    code = "open(os.environ['RESULT_R'], 'w').write(os.environ['T'].replace('@', chr(36)))"
    source = spec(code, {"T": value.replace("$", "@")}, ("r",))
    passed = [{"name": "q", "value": "$(tasks.from.results.r)"}]
    tasks = [task("from", source), task("a", body, params=passed)]
    done = execute(tmp_path, pipeline_run(tasks))
    assert done.tasks["from"].results == {"r": value}
    assert done.tasks["a"].reason == "InvalidParamValue"
    assert "a value in env Q contains $$ or $(...)" in done.tasks["a"].cause


def test_steps_run_in_order_with_their_template_until_one_fails(tmp_path: Path) -> None:
    first = step("print(1, os.environ['A'], os.environ['B'])", {"B": "own"}, name="first")
    del first["image"]
    body = {
        "stepTemplate": {"image": IMAGE, "env": [{"name": "A", "value": "t"}, {"name": "B", "value": "t"}]},
        "steps": [first, step("print(2); sys.exit(7)", name="second"), step("print(3)", name="third")],
    }
    done = run_task(tmp_path, body)
    assert log(done, "a") == "1 t own\n2\n"
    assert done.tasks["a"].message == '"step-second" exited with code 7'


def test_steps_share_the_working_folder_and_home_of_their_attempt(tmp_path: Path) -> None:
    steps_ = [
        step("open('f','w').write('x'); open(os.environ['HOME'] + '/h','w').write('y')", name="one"),
        step("print(open('f').read(), open(os.environ['HOME'] + '/h').read())", name="two"),
        step("print(os.getcwd().endswith('/sub'))", name="three", workingDir="sub"),
    ]
    assert log(run_task(tmp_path, {"steps": steps_}), "a") == "x y\nTrue\n"


def test_an_emptydir_takes_the_place_of_its_mount_path(tmp_path: Path) -> None:
    env = {"TMPDIR": "/tmp", "CACHE": "/tmp/cache:/var/tmp", "OTHER": "/tmpfoo"}
    body = spec("print(*(os.environ[n] for n in ('TMPDIR', 'CACHE', 'OTHER')))", env, volumes=[
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}])  # fmt: skip
    body["steps"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    tmp, cache, other = log(run_task(tmp_path, body), "a").split()
    assert tmp.endswith("/scratch/volumes/tmp")
    assert cache == f"{tmp}/cache:/var/tmp"
    assert other == "/tmpfoo"


def test_workspaces_give_paths_by_kind_and_subpath(tmp_path: Path) -> None:
    secrets = tmp_path / "state/namespaces/default/secrets/token"
    secrets.mkdir(parents=True)
    (secrets / "key").write_text("s3cret")
    (secrets / "key").chmod(0o644)
    wanted = ("claim", "made", "empty", "secret", "absent")
    values = {
        name.upper(): f"$(workspaces.{name}.path)|$(workspaces.{name}.bound)|$(workspaces.{name}.claim)"
        for name in wanted
    }

    def body(*names: str) -> Any:
        declared = [{"name": name, "optional": name == "absent", "readOnly": name == "secret"} for name in names]
        shown = {name.upper(): values[name.upper()] for name in names}
        return spec(f"for n in {tuple(shown)}: print(os.environ[n])", shown, workspaces=declared)

    run = {
        "workspaces": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}, "subPath": "top"},
            {"name": "made", "volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}},
            {"name": "empty", "emptyDir": {}},
            {"name": "secret", "secret": {"secretName": "token"}},
        ]
    }
    outer = [{"name": name, "optional": name == "absent"} for name in wanted]
    one = [{"name": "claim", "subPath": "runs/$(context.pipelineRun.name)/$(params.p)"}]
    others = [{"name": name} for name in wanted[1:]]
    tasks = [task("a", body("claim"), workspaces=one), task("b", body(*wanted[1:]), workspaces=others)]
    made = pipeline_run(tasks, run | {"params": [{"name": "p", "value": "x"}]},
                        workspaces=outer, params=[{"name": "p"}])  # fmt: skip
    done = execute(tmp_path, made)
    assert done.succeeded, [one.cause for one in done.tasks.values()]
    shown = [*log(done, "a").splitlines(), *log(done, "b").splitlines()]
    claim, template, empty, secret, absent = (line.split("|") for line in shown)
    space = tmp_path / "state/namespaces/default"
    assert claim == [str(space / "pvcs/c/top/runs/it/x"), "true", "c"]
    assert Path(template[0]).parent == done.folder / "claims"
    assert template[2].startswith("pvc-")
    assert empty[0].endswith("/scratch/workspaces/empty")
    assert (secret, stat.S_IMODE((secrets / "key").stat().st_mode)) == ([str(secrets), "true", ""], 0o600)
    assert absent == ["", "false", ""]


@pytest.mark.parametrize("path", ["../../etc", "/etc", "a/../../b"])
def test_a_subpath_stays_inside_its_volume(path: str, tmp_path: Path) -> None:
    run = {"workspaces": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}, "subPath": path}]}
    done = run_task(tmp_path, spec("pass", workspaces=[{"name": "w"}]), run)
    assert "is not a path inside the volume" in done.tasks["a"].cause


def test_a_link_out_of_a_volume_is_not_followed(tmp_path: Path) -> None:
    claim = tmp_path / "state/namespaces/default/pvcs/c"
    claim.mkdir(parents=True)
    (claim / "out").symlink_to(tmp_path)
    run = {"workspaces": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}, "subPath": "out"}]}
    done = run_task(tmp_path, spec("pass", workspaces=[{"name": "w"}]), run)
    assert "leads out of its volume through a link" in done.tasks["a"].cause


def test_writing_into_a_readonly_workspace_fails_the_task(tmp_path: Path) -> None:
    code = "open(os.environ['W'] + '/new', 'w').write('x')"
    body = spec(code, {"W": "$(workspaces.w.path)"}, workspaces=[{"name": "w", "readOnly": True}])
    done = run_task(tmp_path, body, {"workspaces": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}}]})
    assert "readOnly workspace w was changed" in done.tasks["a"].cause


def test_results_have_the_size_that_a_pod_can_hand_over(tmp_path: Path) -> None:
    code = "open(os.environ['RESULT_R'],'w').write('x' * {})"
    small = run_task(tmp_path, spec(code.format(4000), results=("r",)))
    assert len(str(small.tasks["a"].results["r"])) == 4000
    large = execute(tmp_path, pipeline_run([task("a", spec(code.format(4096), results=("r",)))]), name="large")
    assert large.tasks["a"].reason == "StepFailed"
    assert "Termination message is above max allowed size 4096" in large.tasks["a"].cause


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("array", "not json", 'expected to be "array" type but was initialized to a different type "string"'),
        ("array", "[1]", 'a different type "string"'),
        ("object", "{}", "missing keys for these results"),
    ],
)
def test_a_result_of_another_type_fails_its_task(kind: str, text: str, problem: str, tmp_path: Path) -> None:
    body = spec("open(os.environ['R'],'w').write(os.environ['T'])", {"R": "$(results.r.path)", "T": text})
    body["results"] = [{"name": "r", "type": kind, **({"properties": {"k": {}}} if kind == "object" else {})}]
    done = run_task(tmp_path, body)
    assert done.tasks["a"].reason == "TaskRunValidationFailed"
    assert problem in done.tasks["a"].cause


def test_what_a_step_leaves_running_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    pid = int(log(run_task(tmp_path, spec(code)), "a"))
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_the_last_line_is_the_cause_even_of_a_progress_bar_and_hides_passwords(tmp_path: Path) -> None:
    code = "sys.stdout.write('10%\\r20%\\r'); sys.stderr.write('bad http://u:geheim@h/x\\n\\n'); sys.exit(1)"
    assert run_task(tmp_path, spec(code)).tasks["a"].cause == "bad http://u:***@h/x"


def test_a_long_line_and_broken_bytes_are_no_trouble(tmp_path: Path) -> None:
    code = "sys.stdout.buffer.write(b'x' * 300000 + b'\\xff\\n'); print('end')"
    done = run_task(tmp_path, spec(code))
    assert done.tasks["a"].last_line == "end"
    assert len(log_bytes(done)) == 300006


def log_bytes(done: RunRecord) -> bytes:
    return (done.folder / "tasks/a/attempt-1/log").read_bytes()
