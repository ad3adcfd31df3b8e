"""dvc-fetch refuses what is damaged, hostile or not there: one line, nothing in the workspace, nothing outside it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_repository import PATH, DataRepository, published, repository

from isotherm import tekton
from isotherm.data import benchmarks, fetch, publish, remote, schema
from isotherm.data import repository as git_repository

__all__ = ["published", "repository"]

MD5 = "0123456789abcdef0123456789abcdef"


def refused(repository: DataRepository, kind: type[tekton.TaskError], named: str, **changed: Any) -> None:
    with pytest.raises(kind, match=named) as error:
        repository.fetch(**changed)
    assert "\n" not in error.value.line()
    assert repository.left() == set()


@pytest.mark.parametrize("name", ["measurements.h5", "problem.yaml"])
def test_a_flipped_byte_on_the_remote_is_refused(repository: DataRepository, name: str) -> None:
    md5 = repository.file_md5(name)
    content = bytearray(repository.object(md5).read_bytes())
    content[len(content) // 2] ^= 1
    repository.object(md5).chmod(0o644)
    repository.object(md5).write_bytes(content)
    refused(repository, tekton.Refused, f"file {name} .* wanted {md5}")


def test_a_truncated_file_on_the_remote_is_refused(repository: DataRepository) -> None:
    stored = repository.object(repository.file_md5("measurements.h5"))
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:100])
    refused(repository, tekton.Refused, r"measurements\.h5")


def test_a_changed_listing_on_the_remote_is_refused(repository: DataRepository) -> None:
    stored = repository.object(f"{repository.dataset_hash}.dir")
    stored.chmod(0o644)
    stored.write_bytes(json.dumps(repository.listing()[:1]).encode())
    refused(repository, tekton.Refused, "listing of dataset")


@pytest.mark.parametrize("name", ["measurements.h5", None])
def test_what_was_not_pushed_is_named(repository: DataRepository, name: str | None) -> None:
    md5 = repository.file_md5(name) if name else f"{repository.dataset_hash}.dir"
    repository.object(md5).unlink()
    refused(repository, tekton.Unavailable, f"{name or 'listing'} .*not on the remote")


@pytest.mark.parametrize(
    "relpath",
    [
        "../escape",
        "/tmp/escape",
        "a/../../escape",
        "a//b",
        "./a",
        "..",
        "",
        "a\\b",
        "a\nb",
        "a\0b",
        "dataset.json",
        "x" * 300,
    ],
)
def test_a_listing_that_leads_out_of_the_dataset_is_refused(repository: DataRepository, relpath: str) -> None:
    rows = [*repository.listing(), {"md5": repository.file_md5("problem.yaml"), "relpath": relpath}]
    rows.sort(key=lambda row: row["relpath"])
    repository.track(json.dumps(rows, sort_keys=True).encode())
    refused(repository, tekton.Refused, r"leads out of it|named dataset\.json")
    assert not (repository.workspace.parent / "escape").exists()


@pytest.mark.parametrize(
    "listing",
    [
        [{"md5": "ab/../../../escape", "relpath": "problem.yaml"}],  # DVC would join it to a path
        [{"md5": "ab/tmp/escape", "relpath": "problem.yaml"}],
        [{"md5": MD5.upper(), "relpath": "problem.yaml"}],
        [{"md5": MD5, "relpath": "b"}, {"md5": MD5, "relpath": "a"}],
        [{"md5": MD5, "relpath": "a"}, {"md5": MD5, "relpath": "a"}],
        [{"md5": MD5, "relpath": "a", "isexec": True}],
        [],
        {"md5": MD5},
        "text",
    ],
)
def test_a_listing_that_dvc_would_not_write_is_refused_before_dvc_follows_it(
    repository: DataRepository, listing: object
) -> None:
    repository.track(json.dumps(listing, sort_keys=True).encode())
    refused(repository, tekton.Refused, "dataset")


@pytest.mark.parametrize("where", ["beside", "folder", ".dvc", "dvc file"])
def test_a_symlink_anywhere_in_the_tree_is_refused(repository: DataRepository, where: str) -> None:
    if where == "beside":
        (repository.git / "notes").symlink_to("/etc/passwd")
    elif where == "folder":
        (repository.git / "hooks").symlink_to(".git/hooks")
    elif where == ".dvc":
        (repository.git / ".dvc/plots").symlink_to("/")
    else:
        (repository.git / "other.dvc").symlink_to(f"{PATH}.dvc")
    repository.save()
    refused(repository, tekton.Refused, "symlink")


def test_a_symlink_in_the_dataset_s_place_is_refused(repository: DataRepository) -> None:
    (repository.workspace / repository.dataset_hash).symlink_to(repository.git)
    with pytest.raises(tekton.Refused, match="not a folder"):
        repository.fetch()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"revision": "no-such-branch"}, "revision 'no-such-branch' is not in"),
        ({"revision": "f" * 40}, "revision 'f+' is not in"),
        ({"revision": "--upload-pack=touch escape"}, "param revision"),
        ({"revision": "-o"}, "param revision"),
        ({"revision": "main:refs/heads/x"}, "param revision"),
        ({"revision": "main~1"}, "param revision"),
        ({"revision": "a..b"}, "param revision"),
        ({"revision": ""}, "param revision"),
        ({"repo_url": ""}, "param repo-url"),
        ({"repo_url": "--upload-pack=touch escape"}, "param repo-url"),
        ({"repo_url": "ext::sh -c 'touch escape'"}, "param repo-url"),
        ({"repo_url": "/no/such/folder"}, "param repo-url"),
        ({"repo_url": "http://user:secret@localhost/x"}, "credentials"),
        ({"repo_url": "http://localhost/x", "git_credentials": Path("secret")}, "in the clear"),
        ({"repo_url": "ftp://localhost/x"}, "scheme 'ftp'"),
        ({"repo_url": "ssh://-oProxyCommand=touch/x"}, "param repo-url"),
        ({"repo_url": "https://user:secret@localhost/x"}, "credentials"),
        ({"repo_url": "https://token@localhost/x"}, "credentials"),
        ({"repo_url": "/tmp\n/x"}, "param repo-url"),
        ({"data_path": "data/other"}, r"'data/other' is not tracked by DVC .*tracked there: data/heatinv"),
        ({"data_path": "data/heatinv.dvc"}, "is not tracked"),
        ({"data_path": "../data"}, "param data-path"),
        ({"data_path": "/etc"}, "param data-path"),
        ({"data_path": ""}, "param data-path"),
        ({"data_path": "-x"}, "param data-path"),
        ({"data_path": "data/$(reboot)"}, "is not tracked"),
        ({"remote_url": "gs://bucket"}, "param remote-url"),
        ({"remote_url": "relative/folder"}, "param remote-url"),
        ({"remote_url": "https://u:p@host/x"}, "credentials"),
    ],
)
def test_a_wrong_param_is_named(
    repository: DataRepository, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], named: str
) -> None:
    monkeypatch.chdir(repository.workspace)
    refused(repository, tekton.BadInput, named, **changed)


def test_a_folder_that_is_no_repository_and_a_remote_that_is_gone_are_told_apart(
    repository: DataRepository, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    refused(repository, tekton.BadInput, "not a git repository", repo_url=str(tmp_path / "plain"))
    refused(repository, tekton.Unavailable, "does not exist", remote_url=str(tmp_path / "gone"))
    refused(repository, tekton.Unavailable, "cannot fetch", repo_url="https://localhost:1/x")


@pytest.mark.parametrize(
    ("out", "named"),
    [
        ({"md5": MD5, "hash": "md5", "path": "heatinv"}, "single file"),
        ({"md5": f"{MD5}.dir", "path": "heatinv"}, "DVC 2"),
        ({"etag": "x", "path": "heatinv"}, "without a plain md5"),
        ({"md5": "../../x", "hash": "md5", "path": "heatinv"}, "without a plain md5"),
        ({"md5": f"{MD5}.dir", "hash": "md5", "path": "other"}, "not tracked"),
        ("text", "outs"),
    ],
)
def test_an_out_that_is_no_folder_hashed_by_dvc_3_is_refused(
    repository: DataRepository, out: object, named: str
) -> None:
    (repository.git / f"{PATH}.dvc").write_text(yaml.safe_dump({"outs": [out]}))
    repository.save()
    refused(repository, tekton.BadInput, named)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("", "no default remote"),
        ("[core]\n    remote = gone\n", "no default remote"),
        ("[core\n", "damaged"),
        ("[core]\nremote = r\n['remote \"r\"']\nurl = gs://bucket\n", "default remote 'r'"),
        ("[core]\nremote = r\n['remote \"r\"']\nurl = s3://b\nendpointurl = http://h'x\n", "option endpointurl"),
    ],
)
def test_a_repository_without_a_usable_default_remote_asks_for_one(
    repository: DataRepository, config: str, named: str
) -> None:
    (repository.git / ".dvc/config").write_text(config)
    repository.save()
    refused(repository, tekton.BadInput, named, remote_url="")


def test_bad_measurements_are_refused_at_the_fetch(repository: DataRepository, tmp_path: Path) -> None:
    dataset = benchmarks.generate(tmp_path / "bad", n=60, seed=1)
    publish.publish(tmp_path / "bad", repository.git, str(repository.remote), PATH, "good")
    dataset.train.u[17] = float("nan")
    schema.write(tmp_path / "bad", dataset.train, dataset.problem, "h5")
    with pytest.raises(tekton.BadInput, match="row 17"):
        publish.publish(tmp_path / "bad", repository.git, str(repository.remote), PATH, "bad")
    listing = repository.listing()
    content = (tmp_path / "bad/measurements.h5").read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    repository.object(md5).parent.mkdir(exist_ok=True)
    repository.object(md5).write_bytes(content)
    rows = [{**row, "md5": md5} if row["relpath"] == "measurements.h5" else row for row in listing]
    repository.track(json.dumps(rows, sort_keys=True).encode())
    refused(repository, tekton.BadInput, r"data/heatinv/measurements\.h5, column u, row 17")


def test_neither_the_repository_s_hooks_nor_the_user_s_settings_are_used(
    repository: DataRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".gitconfig").write_text('[url "/no/such/place"]\n\tinsteadOf = /\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", "/no/such/repository")
    monkeypatch.setenv("PASSWORD_OF_SOMETHING", "secret")
    assert "PASSWORD_OF_SOMETHING" not in git_repository.clean_environment(tmp_path)
    assert "GIT_DIR" not in git_repository.clean_environment(tmp_path)
    for hook in ("post-checkout", "pre-upload-pack", "reference-transaction"):
        script = repository.git / ".git/hooks" / hook
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        script.chmod(0o755)
    repository.fetch()
    assert not (tmp_path / "ran").exists()
    assert os.environ["HOME"] == str(home)


def test_a_file_that_no_longer_fits_leaves_nothing_behind(repository: DataRepository, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); "
        f"from pathlib import Path; from isotherm.data import fetch, store; from isotherm import tekton\n"
        f"with store.preparing(Path({str(repository.workspace)!r})) as partial:\n"
        f"    source = Path({str(repository.git / PATH / 'measurements.h5')!r})\n"
        "    store.copy_verified(source, partial / 'x', 'x', 'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"[Errno {errno.EFBIG}]" in done.stderr
    assert repository.left() == set()
    with pytest.raises(tekton.BadInput, match="MB free"):
        fetch.check_space(repository.workspace, 10**18)


def test_the_environment_is_restored_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "yes")
    before = dict(os.environ)
    with remote.only_environment({"HOME": "/nowhere"}):
        assert dict(os.environ) == {"HOME": "/nowhere"}
    assert dict(os.environ) == before
    with pytest.raises(KeyError), remote.only_environment({}):
        os.environ["KEPT"]
    assert dict(os.environ) == before
