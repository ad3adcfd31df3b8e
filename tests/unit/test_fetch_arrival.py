"""dvc-fetch and data that reaches the remote after its commit: `git push` first, `dvc push` minutes later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from data_repository import DataRepository, published, repository
from test_fetch_s3 import credentials, endpoint

from isotherm import tekton
from isotherm.data import fetch, remote, store

__all__ = ["endpoint", "published", "repository"]


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ARRIVAL_POLL_SECONDS", 0.1)


def missing(repository: DataRepository, which: str) -> Path:
    """Name the remote's object that comes late: the dataset's listing, or one of its files."""
    md5 = f"{repository.dataset_hash}.dir" if which == "listing" else repository.file_md5(which)
    return repository.object(md5)


@contextmanager
def pushed_late(late: Path, capsys: pytest.CaptureFixture[str], saw: list[str]) -> Iterator[None]:
    """Take an object away; bring it back once the program has said that it waits for it."""
    kept = late.with_name("kept")
    late.rename(kept)
    over = threading.Event()

    def push() -> None:
        while not over.wait(0.05):
            saw.append(capsys.readouterr().out)
            if "it may come until" in "".join(saw):
                kept.rename(late)
                return

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("which", ["listing", "measurements.h5"])
@pytest.mark.parametrize("kind", ["folder", "S3"])
def test_data_that_comes_after_the_commit_is_waited_for(
    repository: DataRepository,
    endpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    which: str,
    kind: str,
) -> None:
    changed = {"arrival_timeout_seconds": 60.0}
    if kind == "S3":
        changed |= {"remote_url": "s3://research", "dvc_credentials": credentials(tmp_path / "secret", endpoint)}
    said: list[str] = []
    with pushed_late(missing(repository, which), capsys, said):
        record = repository.fetch(**changed)
    assert store.verify(repository.workspace / record.dataset_hash).rows == 60
    waits = [line for line in "".join(said).splitlines() if "it may come until 60 s" in line]
    assert len(waits) == 1, "said once, not at every look"


def test_data_that_never_comes_ends_the_wait_with_its_name(repository: DataRepository) -> None:
    missing(repository, "measurements.h5").unlink()
    with pytest.raises(remote.Absent, match=r"file measurements\.h5 .* is not on the remote .* after [12] s") as caught:
        repository.fetch(arrival_timeout_seconds=1.0)
    assert "dvc push" in caught.value.remedy
    assert repository.left() == set()


def test_without_a_timeout_missing_data_is_no_reason_to_try_again(
    repository: DataRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(repository, "listing").unlink()
    looks = []
    look = remote.transfer
    monkeypatch.setattr(remote, "transfer", lambda *given: looks.append(1) or look(*given))
    with pytest.raises(remote.Absent):
        fetch.fetch(repository.request(), repository.workspace, attempts=4)
    assert len(looks) == 1


def test_a_remote_that_does_not_answer_is_no_late_push(repository: DataRepository, tmp_path: Path) -> None:
    secret = credentials(tmp_path / "secret", "http://127.0.0.1:9")
    with pytest.raises(tekton.Unavailable) as caught:
        repository.fetch(remote_url="s3://research", dvc_credentials=secret, arrival_timeout_seconds=60.0)
    assert not isinstance(caught.value, remote.Absent)


@pytest.mark.parametrize("seconds", [-1.0, 1201.0, float("nan"), float("inf")])
def test_a_timeout_that_the_step_would_cut_is_refused(repository: DataRepository, seconds: float) -> None:
    with pytest.raises(tekton.BadInput, match="arrival-timeout-seconds"):
        repository.request(arrival_timeout_seconds=seconds)
