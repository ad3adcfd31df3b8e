"""Every rule of the linter sees the flaw it is for: each mutant of the real catalog has a finding that it alone has."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from mutants import GO_MUTANTS, MUTANTS, PROGRAM, STAND_IN, Mutant

from isotherm_local.lint import check
from isotherm_local.lint.model import RULES

ROOT = Path(__file__).resolve().parents[2]
# Its flaw is a difference between commits: see the test at the end.
BY_HISTORY = {"version-bump"}


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the linter looks at."""
    root = tmp_path_factory.mktemp("catalog")
    for room in ("tasks", "pipelines", "rollout", "triggers", "overlays", "images", "tests/lab/images"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("kustomization.yaml", ".yamllint", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / PROGRAM).write_text(STAND_IN, encoding="utf-8")
    (root / "scripts").mkdir()
    (root / "scripts" / "schemas").symlink_to(ROOT / "scripts" / "schemas")
    return root


def _found(root: Path, mutant: Mutant) -> list[str]:
    before = mutant.apply(root)
    path = root / mutant.file
    try:
        findings, skipped = check(root, [mutant.rule])
    finally:
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before, encoding="utf-8")
    if skipped:
        pytest.skip(skipped[0])
    return [str(finding) for finding in findings if finding.rule == mutant.rule]


@cache
def _known(root: Path, rule: str) -> frozenset[str]:
    return frozenset(map(str, check(root, [rule])[0]))


def _name(mutant: Mutant) -> str:
    return f"{mutant.rule}-{mutant.new.strip()[:40] or 'without ' + mutant.old.strip()[:32]}"


@pytest.mark.parametrize("mutant", [*MUTANTS, *GO_MUTANTS], ids=_name)
def test_rule_sees_flaw(copy: Path, mutant: Mutant) -> None:
    found = set(_found(copy, mutant)) - _known(copy, mutant.rule)
    assert found, f"{mutant.rule} does not see {mutant.new!r} in {mutant.file}"
    assert not any("unforeseen shape" in line for line in found), found


@pytest.mark.parametrize(
    "rule", ["param-unread", "env-missing", "workspace-unread", "result-unwritten", "results-first"]
)
def test_the_stand_in_program_agrees_with_its_task(copy: Path, rule: str) -> None:
    findings, _ = check(copy, [rule])
    assert [finding for finding in findings if finding.path.startswith("tasks/evaluate-metrics/")] == []


def test_every_rule_has_a_mutant() -> None:
    assert {mutant.rule for mutant in [*MUTANTS, *GO_MUTANTS]} | BY_HISTORY == set(RULES)


def test_a_changed_task_must_raise_its_version_above_the_last_release(copy: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=copy, check=True, capture_output=True)

    path = copy / "tasks" / "evaluate-metrics" / "evaluate-metrics.yaml"
    before = path.read_text(encoding="utf-8")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "release")
    assert check(copy, ["version-bump"]) == ([], [])
    git("tag", "v0.1.0")
    try:
        path.write_text(before.replace("timeout: 30m", "timeout: 20m"), encoding="utf-8")
        findings, _ = check(copy, ["version-bump"])
        assert [finding.path for finding in findings] == ["tasks/evaluate-metrics/evaluate-metrics.yaml"]
        raised = before.replace("timeout: 30m", "timeout: 20m").replace('version: "0.1.0"', 'version: "0.2.0"')
        path.write_text(raised, encoding="utf-8")
        assert check(copy, ["version-bump"]) == ([], [])
    finally:
        path.write_text(before, encoding="utf-8")
        shutil.rmtree(copy / ".git")
