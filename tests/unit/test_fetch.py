"""dvc-fetch: a dataset is handed on whole, proved and once, whatever was there before or died half-way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from data_repository import PATH, DataRepository, published, repository

from isotherm import tekton
from isotherm.data import benchmarks, fetch, publish, schema, store

__all__ = ["published", "repository"]


def environment(repository: DataRepository, reports: Path, **changed: str) -> dict[str, str]:
    results = {f"RESULT_{name}": str(reports / name) for name in ("DATASET_HASH", "DATA_VERSION", "DATA_GIT_SHA")}
    reports.mkdir(exist_ok=True)
    return {
        **os.environ,
        **results,
        "REPO_URL": str(repository.git),
        "REVISION": "main",
        "DATA_PATH": PATH,
        "REMOTE_URL": "",
        "ARRIVAL_TIMEOUT_SECONDS": "0",
        "DATA_DIR": str(repository.workspace),
        "REPORTS_DIR": str(reports),
        "DVC_CREDENTIALS_DIR": "",
        "GIT_CREDENTIALS_DIR": "",
        **changed,
    }


def program(env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    arguments = command or ("-m", "isotherm.data.fetch")
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)


def test_the_program_hands_on_the_dataset_with_results_and_report(repository: DataRepository, tmp_path: Path) -> None:
    done = program(environment(repository, tmp_path / "reports"))
    assert done.returncode == 0, done.stderr
    dataset_hash = repository.dataset_hash
    folder = repository.workspace / dataset_hash
    assert repository.left() == {dataset_hash}
    assert schema.load(folder).measured == 60
    for name in ("measurements.h5", "validation.h5", "problem.yaml"):
        assert (folder / name).read_bytes() == (repository.git / PATH / name).read_bytes()
    record = json.loads((folder / "dataset.json").read_text())
    report = json.loads((tmp_path / "reports/fetch-data.json").read_text())
    assert report.items() >= record.items()
    assert report["task"] == "dvc-fetch"
    assert record["schema_version"] == 1
    assert record["rows"] == 60
    assert record["data_path"] == PATH
    assert (tmp_path / "reports/DATASET_HASH").read_text() == record["dataset_hash"] == dataset_hash
    assert (tmp_path / "reports/DATA_VERSION").read_text() == record["data_version"] == f"dvc-{dataset_hash[:6]}"
    assert (tmp_path / "reports/DATA_GIT_SHA").read_text() == record["data_git_sha"] == repository.commit


def test_a_failure_leaves_empty_results_and_a_last_line_with_cause_and_remedy(
    repository: DataRepository, tmp_path: Path
) -> None:
    done = program(environment(repository, tmp_path / "reports", REVISION="no-such-branch"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: revision 'no-such-branch' is not in")
    assert (tmp_path / "reports/DATASET_HASH").read_text() == ""
    assert repository.left() == set()


@pytest.mark.parametrize("spelling", ["main", "v1", "annotated", "commit", "file URL"])
def test_a_branch_a_tag_and_a_commit_name_the_same_dataset(repository: DataRepository, spelling: str) -> None:
    publish.git(repository.git, "tag", "v1")
    publish.git(repository.git, "-c", "user.name=t", "-c", "user.email=t@l", "tag", "-a", "annotated", "-m", "t")
    changed = {"revision": spelling}
    if spelling == "commit":
        changed = {"revision": repository.commit}
    if spelling == "file URL":
        changed = {"repo_url": f"file://{repository.git}"}
    assert repository.fetch(**changed).data_git_sha == repository.commit


def test_an_older_commit_still_names_its_own_dataset(repository: DataRepository, tmp_path: Path) -> None:
    first = repository.dataset_hash
    benchmarks.generate(tmp_path / "second", n=80, seed=2)
    newer = publish.publish(tmp_path / "second", repository.git, str(repository.remote), PATH, "HeatInv v2")
    again = publish.publish(tmp_path / "second", repository.git, str(repository.remote), PATH, "HeatInv v2")
    assert newer == again != repository.commit
    assert repository.fetch(revision=repository.commit).dataset_hash == first
    record = repository.fetch()
    assert record.data_git_sha == newer
    assert record.rows == 80
    assert repository.left() == {first, record.dataset_hash}


def test_a_stored_dataset_is_reused_without_the_remote(repository: DataRepository) -> None:
    record = repository.fetch()
    folder = repository.workspace / record.dataset_hash
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    shutil.rmtree(repository.remote)
    assert repository.fetch() == record
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["no record", "changed byte", "file missing", "file more", "link", "record damaged"])
def test_a_dataset_that_is_not_intact_is_fetched_again(repository: DataRepository, damage: str) -> None:
    record = repository.fetch()
    folder = repository.workspace / record.dataset_hash
    measurements = folder / "measurements.h5"
    content = measurements.read_bytes()
    if damage == "no record":
        (folder / "dataset.json").unlink()
    elif damage == "changed byte":
        measurements.chmod(0o644)
        measurements.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "file missing":
        measurements.unlink()
    elif damage == "file more":
        (folder / "extra.txt").write_text("x")
    elif damage == "link":
        measurements.unlink()
        measurements.symlink_to(repository.git / PATH / "measurements.h5")
    else:
        (folder / "dataset.json").write_text("{}")
    with pytest.raises(tekton.Refused):
        store.verify(folder)
    repository.fetch()
    assert store.verify(folder).dataset_hash == record.dataset_hash
    assert measurements.read_bytes() == content
    assert repository.left() == {record.dataset_hash}


def test_a_killed_run_leaves_nothing_that_counts_and_the_next_one_clears_it(
    repository: DataRepository, tmp_path: Path
) -> None:
    die_before_the_rename = (
        "import os, signal; from isotherm.data import fetch, store; "
        "store.hand_over = lambda *_: os.kill(os.getpid(), signal.SIGKILL); raise SystemExit(fetch.main())"
    )
    env = environment(repository, tmp_path / "reports")
    assert program(env, "-c", die_before_the_rename).returncode == -signal.SIGKILL
    assert all(name.startswith(store.PARTIAL) for name in repository.left())
    assert list(repository.workspace.rglob("measurements.h5"))
    assert program(env).returncode == 0
    assert repository.left() == {repository.dataset_hash}


def test_two_runs_at_once_end_with_one_intact_dataset(repository: DataRepository, tmp_path: Path) -> None:
    env = environment(repository, tmp_path / "reports")
    command = [sys.executable, "-m", "isotherm.data.fetch"]
    runs = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert repository.left() == {repository.dataset_hash}
    store.verify(repository.workspace / repository.dataset_hash)


def test_a_live_run_keeps_its_folder_while_another_clears_up(tmp_path: Path) -> None:
    with store.preparing(tmp_path) as one:
        (tmp_path / f"{store.PARTIAL}dead").mkdir()
        with store.preparing(tmp_path):
            assert one.is_dir()
            assert not (tmp_path / f"{store.PARTIAL}dead").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_run_clears_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def interrupted(**where: object) -> str:
        made.append(make(**where))
        if len(made) == 1:
            store._clear_abandoned(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    with store.preparing(tmp_path) as folder:
        assert len(made) == 2
        assert folder.is_dir()
        store._clear_abandoned(tmp_path)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_an_out_of_a_dvc_pipeline_is_found_in_its_lock(repository: DataRepository) -> None:
    out = yaml.safe_load((repository.git / f"{PATH}.dvc").read_text())["outs"][0]
    (repository.git / f"{PATH}.dvc").unlink()
    (repository.git / "import").mkdir()
    stages = {"import": {"cmd": "true", "wdir": "../data", "outs": ["heatinv"]}}
    (repository.git / "import/dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    lock = {"schema": "2.0", "stages": {"import": {"cmd": "true", "outs": [{**out, "path": "heatinv"}]}}}
    (repository.git / "import/dvc.lock").write_text(yaml.safe_dump(lock))
    repository.save()
    assert repository.fetch().dataset_hash == out["md5"].removesuffix(".dir")


def test_the_default_remote_may_be_relative_to_a_repository_in_a_folder(repository: DataRepository) -> None:
    config = repository.git / ".dvc/config"
    config.write_text("[core]\n    remote = origin\n['remote \"origin\"']\n    url = ../../remote\n")
    repository.save()
    assert repository.fetch(remote_url="").remote == str(repository.remote)


def test_a_service_that_recovers_is_tried_again_and_one_that_does_not_is_reported() -> None:
    calls = []

    def recovers() -> str:
        calls.append(1)
        if len(calls) < 2:
            raise tekton.Unavailable("the remote is away", remedy="wait")
        return "there"

    assert fetch.patiently(recovers, attempts=2) == "there"
    calls.clear()
    with pytest.raises(tekton.Unavailable, match="away"):
        fetch.patiently(recovers, attempts=1)
