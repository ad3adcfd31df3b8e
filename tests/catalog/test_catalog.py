"""The catalog as it stands keeps every rule, and its documents say what its YAML says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from isotherm_local import readmes
from isotherm_local.lint import check, main
from isotherm_local.lint.model import RULES, Catalog

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_catalog_keeps_rule(rule: str) -> None:
    findings, skipped = check(ROOT, [rule])
    assert [str(finding) for finding in findings] == []
    if skipped:
        pytest.skip(skipped[0])


def test_catalog_holds_the_tasks_and_pipelines_that_it_promises() -> None:
    catalog = Catalog(ROOT)
    assert sorted(catalog.tasks) == [
        "dvc-fetch", "evaluate-metrics", "event-admit", "kserve-deploy", "mlflow-register", "pinn-train", "report-run",
        "route-shift", "shadow-replay",
    ]  # fmt: skip
    for pipeline in ("inverse-heat-pinn", "drift-retrain"):
        tasks = catalog.pipelines[pipeline].items("tasks")
        assert {task["name"]: task["taskRef"]["name"] for _, task in tasks} == {
            "admit": "event-admit", "fetch-data": "dvc-fetch", "train": "pinn-train", "evaluate": "evaluate-metrics",
            "register": "mlflow-register", "deploy": "kserve-deploy", "shift": "route-shift",
            "promote": "mlflow-register",
        }  # fmt: skip
    assert sorted(catalog.pipelines) == [
        "blue-green",
        "canary",
        "deploy-model",
        "drift-retrain",
        "inverse-heat-pinn",
        "rollback",
        "shadow",
    ]


def test_each_trigger_template_starts_its_pipeline_and_what_was_lost_starts_the_same() -> None:
    templates = [yaml.safe_load(path.read_text()) for path in (ROOT / "triggers").glob("template-*.yaml")]
    started = {one["metadata"]["name"]: one["spec"]["resourcetemplates"][0]["spec"]["pipelineRef"] for one in templates}
    assert {name: pipeline["name"] for name, pipeline in started.items()} == {
        "deploy-model": "deploy-model",
        "retrain": "drift-retrain",
        "retrain-on-schedule": "inverse-heat-pinn",
        "train-on-data": "inverse-heat-pinn",
        "train-on-lakefs": "inverse-heat-pinn",
    }
    reconciled = yaml.safe_load_all((ROOT / "triggers/reconcile.yaml").read_text())
    [sources] = [one["data"]["sources.yaml"] for one in reconciled if one["kind"] == "ConfigMap"]
    assert {source["template"] for source in yaml.safe_load(sources)["alerts"]} == {"retrain"}


def test_generated_readmes_keep_what_people_wrote_after_them(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "evaluate-metrics"
    folder.mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    source = ROOT / "tasks" / "evaluate-metrics" / "evaluate-metrics.yaml"
    (folder / source.name).write_text(source.read_text().replace("default -0.02", "DEFAULT -0.02"))
    (folder / "README.md").write_text(f"{readmes.BEGIN}\nold\n{readmes.END}\n\n## Notes\nwritten by hand\n")
    readmes.rewrite(Catalog(tmp_path))
    text = (folder / "README.md").read_text()
    assert "DEFAULT -0.02" in text
    assert "old" not in text.splitlines()
    assert text.endswith("\n## Notes\nwritten by hand\n")
    assert readmes.rewrite(Catalog(tmp_path)) == []


def test_command_names_the_finding_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks" / "empty-task").mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    assert main(["--root", str(tmp_path), "name"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "tasks/empty-task:1: name: has no empty-task.yaml; name the file like its folder"
    assert out[-1].startswith("1 finding, 1 rules, 0 skipped")


def test_command_refuses_a_rule_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-rule"]) == 2
    assert "no rule is called no-such-rule" in capsys.readouterr().err


def test_without_go_the_strict_checks_are_skipped_by_name_or_demanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isotherm_local.lint import gotools

    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    monkeypatch.delenv(gotools.REQUIRE, raising=False)
    for tool in (gotools.validator, gotools.kustomize):
        tool.cache_clear()
    try:
        assert check(ROOT, ["schema"]) == ([], ["schema: go is not installed; install Go 1.26 or newer"])
        assert check(ROOT, ["overlay-digest"])[1] == ["overlay-digest: go is not installed; install Go 1.26 or newer"]
        monkeypatch.setenv(gotools.REQUIRE, "1")
        findings, skipped = check(ROOT, ["schema"])
        assert [finding.rule for finding in findings] == ["schema"]
        assert skipped == []
    finally:
        for tool in (gotools.validator, gotools.kustomize):
            tool.cache_clear()
