"""The reconciler as a program: its configuration, its lines, and that no source keeps the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from events_api import EventsApi, events_api, template
from git_history import PATH, History
from mlflow_server import free_port

from isotherm import kube, tekton
from isotherm.events import config, keys, runs

__all__ = ["events_api"]
WATCH = {"watch": "plates", "repo-url": "https://git.example.com/plates.git", "branch": "main", "path": PATH,
         "template": "data"}  # fmt: skip


def program(events_api: EventsApi, folder: Path, content: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = folder / "reconcile.yaml"
    file.write_text(yaml.safe_dump(content))
    env = {
        **events_api.environment("whole"), "RECONCILE_CONFIG": str(file), "SCRATCH_DIR": str(folder / "scratch"),
        "MLFLOW_DEADLINE_SECONDS": "2",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "isotherm.events.reconcile"], env=env, capture_output=True, text=True, timeout=120
    )


def test_a_source_that_does_not_answer_keeps_none_of_the_others(events_api: EventsApi, tmp_path: Path) -> None:
    history = History(tmp_path / "served.git")
    history.push([[f"{PATH}.dvc"]])
    events_api.cluster("whole").create(
        kube.TRIGGER_TEMPLATE,
        template(
            "data", "git", ["name", "watch", "before", "revision"],
            labels={"isotherm.dev/watch": "$(tt.params.watch)"},
            annotations={
                "isotherm.dev/before": "$(tt.params.before)", "isotherm.dev/revision": "$(tt.params.revision)"
            },
        ),
    )  # fmt: skip
    nowhere = f"http://127.0.0.1:{free_port()}"
    working = {**WATCH, "repo-url": str(history.folder)}
    model = {"name": "plate", "route": "plate", "alias": "champion", "template": "deploy"}
    content = {
        "git": [{**working, "watch": "broken", "repo-url": "https://127.0.0.1:1/x.git"}, working],
        "alerts": [{"alertmanager-url": nowhere, "template": "retrain", "models": ["plate"]}],
        "registry": {"mlflow-uri": nowhere, "models": [model]},
    }
    done = program(events_api, tmp_path, content)
    assert done.returncode == 4
    head = history.push([[f"{PATH}.dvc"]])
    done = program(events_api, tmp_path, content)
    assert done.returncode == 4
    lines = done.stderr.strip().splitlines()
    assert f"git: created {keys.data_push('plates', head)}" in lines
    assert "1 runs created, 1 sources compared, 3 failed" in lines
    assert [line.split(":")[0] for line in lines[:-1] if "failed" not in line and "created" not in line] == [
        "git broken", f"alerts {nowhere}".split(":")[0], "registry"
    ], lines  # fmt: skip
    assert lines[-1].startswith(f"error: 3 sources could not be compared: git broken, alerts {nowhere}, registry; ")
    done = program(events_api, tmp_path, {"git": [working]})
    assert (done.returncode, done.stderr.strip()) == (0, "0 runs created, 1 sources compared, 0 failed")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"git": [{**WATCH, "watch": "A b"}]}, "git.0.watch"),
        ({"git": [{**WATCH, "path": "../x"}]}, "git.0.path"),
        ({"git": [{**WATCH, "path": "/x"}]}, "git.0.path"),
        ({"git": [{**WATCH, "branch": "--x"}]}, "git.0.branch"),
        ({"git": [{**WATCH, "more": 1}]}, "git.0.more"),
        ({"git": [WATCH, WATCH]}, "one name"),
        ({"alerts": [{"alertmanager-url": "file:///x", "template": "t", "models": []}]}, "alerts.0.alertmanager-url"),
        ({"alerts": [{"alertmanager-url": "http://a", "template": "t", "models": ["a/b"]}]}, "alerts.0.models.0"),
        ({"registry": {"mlflow-uri": "http://u:p@m", "models": []}}, "registry.mlflow-uri"),
        ("[", "cannot be read"),
        ([], ""),
    ],
    ids=str,
)
def test_a_wrong_configuration_names_its_field(tmp_path: Path, content: Any, field: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    if content == []:
        assert config.load(file) == config.Config()
        return
    with pytest.raises(tekton.BadInput, match=field):
        config.load(file)


def test_a_template_is_filled_as_the_listener_fills_it() -> None:
    made = template("t", "git", ["name", "version"])
    made["spec"]["params"].append({"name": "note", "default": 'a "quoted"\nline'})
    resource = made["spec"]["resourcetemplates"][0]
    resource["spec"]["note"] = "$(tt.params.note) of $(tt.params.name) $(params.kept) $(context.pipelineRun.uid)"
    filled = runs.fill(made, {"name": "a-1", "version": "7", "unused": "x"})
    assert filled["metadata"]["name"] == "a-1"
    assert filled["spec"]["note"] == 'a "quoted"\nline of a-1 $(params.kept) $(context.pipelineRun.uid)'
    assert {"name": "version", "value": "7"} in filled["spec"]["params"]
    assert "$(tt.params.name)" in json.dumps(made), "the template stays as it was"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda spec: spec["params"].append({"name": "secret"}), "wants param secret"),
        (lambda spec: spec["params"].pop(0), "does not declare"),
        (lambda spec: spec["resourcetemplates"].clear(), "exactly one"),
        (lambda spec: spec["resourcetemplates"].append({"kind": "Pod", "apiVersion": "v1"}), "exactly one"),
        (lambda spec: spec["resourcetemplates"][0]["spec"].update(x="$(uid)"), "does not declare"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(change: Any, reason: str) -> None:
    made = template("t", "git", ["name"])
    change(made["spec"])
    with pytest.raises(tekton.Refused, match=reason):
        runs.fill(made, {"name": "a-1"})
