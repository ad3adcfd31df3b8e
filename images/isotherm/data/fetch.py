"""Fetch a dataset by git revision and DVC hash, prove every byte, and hand it on (Task dvc-fetch).

Reads   REPO_URL, REVISION, DATA_PATH   data repository, branch, tag or commit, the dataset's folder in it
        REMOTE_URL                      another DVC remote than the repository's default (empty: the default)
        ARRIVAL_TIMEOUT_SECONDS         how long the data may come after the commit (`git push` before `dvc push`)
        DATA_DIR, REPORTS_DIR           workspaces; DVC_CREDENTIALS_DIR and GIT_CREDENTIALS_DIR are optional
Writes  DATA_DIR/<dataset_hash>/        the dataset, once, with dataset.json; REPORTS_DIR/fetch-data.json
Results dataset-hash, data-version, data-git-sha
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from isotherm import contract, tekton

if TYPE_CHECKING:
    from isotherm.data import store

T = TypeVar("T")

ATTEMPTS = 4
ARRIVAL_POLL_SECONDS = 5.0
LONGEST_ARRIVAL_SECONDS = 1200.0  # the step's timeout is 1800 s, and the transfer comes after the wait


@dataclass(frozen=True)
class Request:
    """What to fetch; the two credential folders hold keys of mounted Secrets."""

    repo_url: str
    revision: str
    data_path: str
    remote_url: str = ""
    git_credentials: Path | None = None
    dvc_credentials: Path | None = None
    arrival_timeout_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.arrival_timeout_seconds <= LONGEST_ARRIVAL_SECONDS:
            what = f"param arrival-timeout-seconds is {self.arrival_timeout_seconds:g}"
            raise tekton.BadInput(what, remedy=f"give seconds from 0 to {LONGEST_ARRIVAL_SECONDS:g}")


def patiently(action: Callable[[], T], attempts: int) -> T:
    """Try again after about 1, 2, 4 s while a service is unavailable, then raise what it raised.

    An object that the remote does not have (`remote.Absent`) is raised at once: `await_arrival` waits for it.
    """
    import tenacity

    from isotherm.data import remote

    def say(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        why = error.what if isinstance(error, tekton.TaskError) else error
        wait = state.next_action.sleep if state.next_action else 0.0
        print(f"attempt {state.attempt_number} of {attempts}: {why}; again in {wait:.1f} s", flush=True)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, tekton.Unavailable) and not isinstance(error, remote.Absent)
        ),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential_jitter(initial=1, max=15, jitter=0.5),
        before_sleep=say,
        reraise=True,
    )
    result: T = retrying(action)
    return result


def await_arrival(action: Callable[[], T], timeout_seconds: float) -> T:
    """Repeat while the remote lacks an object, until the time is over; then raise what says which one is missing."""
    from isotherm.data import remote

    start, said = time.monotonic(), ""
    while True:
        try:
            return action()
        except remote.Absent as error:
            waited = time.monotonic() - start
            if waited >= timeout_seconds:
                late = f" after {waited:.0f} s" if timeout_seconds else ""
                raise remote.Absent(error.what + late, remedy=error.remedy) from None
            if error.what != said:
                said = error.what
                print(f"{said}; it may come until {timeout_seconds:.0f} s after the start", flush=True)
            time.sleep(min(ARRIVAL_POLL_SECONDS, timeout_seconds - waited))


def fetch(request: Request, data: Path, attempts: int = ATTEMPTS) -> store.DatasetRecord:
    """Bring the dataset to `<data>/<dataset_hash>` and return its record, with this request's commit and path.

    A dataset that is there, complete and intact, is reused without asking the remote; the same call may be repeated
    or run twice at once. Raises `BadInput`, `Refused` or `Unavailable`; what is half done never shows.
    """
    from isotherm.data import remote, repository, store

    with tempfile.TemporaryDirectory(prefix="isotherm-fetch-") as temporary, store.preparing(data) as partial:
        scratch = Path(temporary)
        snapshot = patiently(
            lambda: repository.fetch(request.repo_url, request.revision, scratch, request.git_credentials), attempts
        )
        out = remote.find_out(snapshot, request.data_path)
        print(f"{request.data_path} at {snapshot.commit[:12]}: dataset {out.dataset_hash}", flush=True)
        kept = stored(data, out.dataset_hash)
        if kept:
            print(f"{out.dataset_hash} is here already, verified: {len(kept.files)} files", flush=True)
            return kept.model_copy(update={"data_git_sha": snapshot.commit, "data_path": request.data_path})
        where = remote.find_remote(snapshot, out, request.repo_url, request.remote_url)
        check_space(partial, out.size)
        environment = repository.clean_environment(scratch / "home")
        environment |= remote.credentials_environment(request.dvc_credentials)
        with remote.only_environment(environment):
            entries, cache = await_arrival(
                lambda: patiently(lambda: remote.transfer(out, where, partial), attempts),
                request.arrival_timeout_seconds,
            )
        staged = partial / out.dataset_hash
        record = stage(entries, cache, staged, request, snapshot.commit, out.dataset_hash, where.url)
        store.hand_over(staged, data, record)
    return record


def stored(data: Path, dataset_hash: str) -> store.DatasetRecord | None:
    """Return the record of a dataset that is already there and intact; None where it must be fetched."""
    from isotherm.data import store

    folder = store.place(data, dataset_hash)
    if not folder.exists():
        return None
    try:
        return store.verify(folder)
    except tekton.Refused as error:
        print(f"not reusing what is there: {error.what}", flush=True)
        return None


def check_space(folder: Path, size: int | None) -> None:
    """Refuse before the transfer what cannot fit: the objects and their verified copies.

    Raises `BadInput` naming both figures.
    """
    free = shutil.disk_usage(folder).free
    if size and 2 * size > free:
        what = f"the dataset needs {2 * size / 1e6:.0f} MB for a moment, workspace data has {free / 1e6:.0f} MB free"
        raise tekton.BadInput(what, remedy="enlarge the volume or remove old datasets")


def stage(
    entries: Sequence[store.Entry],
    cache: Path,
    staged: Path,
    request: Request,
    commit: str,
    dataset_hash: str,
    url: str,
) -> store.DatasetRecord:
    """Copy every file with its md5 proved, then read the whole as a dataset: bad measurements stop here."""
    from isotherm.data import schema, store

    files = [store.copy_verified(cache / e.md5[:2] / e.md5[2:], staged / e.relpath, e.md5, e.relpath) for e in entries]
    print(f"{len(files)} files, {sum(file.size for file in files) / 1e6:.1f} MB, md5 of each verified", flush=True)
    dataset = schema.load(staged, request.data_path)
    print(schema.describe(dataset), flush=True)
    return store.DatasetRecord(
        dataset_hash=dataset_hash,
        data_version=contract.data_version(dataset_hash),
        data_git_sha=commit,
        data_path=request.data_path,
        remote=tekton.redact(url),
        rows=dataset.measured,
        files=sorted(files, key=lambda file: file.path),
    )


def run() -> None:
    """Fetch, and leave results and report."""
    with tekton.results(dataset_hash="", data_version="", data_git_sha="") as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_FETCH, "dvc-fetch") as report:
            request, data = inputs()
            record = fetch(request, data)
            report.update(record.model_dump(mode="json"))
        results.dataset_hash, results.data_version = record.dataset_hash, record.data_version
        results.data_git_sha = record.data_git_sha


def inputs() -> tuple[Request, Path]:
    """Read the Task's params and workspaces: what to fetch, workspace data."""
    env = tekton.environment(
        repo_url=str,
        revision=str,
        data_path=str,
        remote_url=str,
        arrival_timeout_seconds=float,
        data_dir=Path,
        dvc_credentials_dir=Path | None,
        git_credentials_dir=Path | None,
    )
    secrets = (env.git_credentials_dir, env.dvc_credentials_dir)
    request = Request(
        env.repo_url, env.revision, env.data_path, env.remote_url, *secrets, env.arrival_timeout_seconds
    )  # fmt: skip
    return request, env.data_dir


def main() -> int:
    """Run the program; its inputs come from the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
