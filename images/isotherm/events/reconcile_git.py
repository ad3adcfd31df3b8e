"""Lost pushes: every commit of a watched branch that changes its data has a run that stands for it.

Reads   the branch (a bare mirror without file contents), the runs of the watch with the commits they stand for, and
        the commit up to which all is covered (Lease `isotherm-reconcile`, one annotation per watch)
Writes  a run per uncovered commit, named by the commit; then that annotation
The first pass on a watch records the head and creates nothing: what was pushed before is history.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isotherm import contract, kube, tekton
from isotherm.data import repository
from isotherm.events import keys
from isotherm.events.config import Watch
from isotherm.events.runs import Runs, Wanted

ATTEMPTS = 20


@dataclass(frozen=True)
class Commit:
    """A commit on the first-parent line, its first parent, and whether it changes the data."""

    sha: str
    before: str
    changes_data: bool


class Mirror:
    """A bare mirror of one branch, without file contents where the server can leave them out."""

    def __init__(self, watch: Watch, folder: Path) -> None:
        credentials = Path(watch.credentials_dir) if watch.credentials_dir else None
        self.watch = watch
        self.url = repository.check_url(watch.repo_url, with_credentials=credentials is not None)
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = repository.prepare(folder / "home", self.url, credentials) | {"GIT_NO_LAZY_FETCH": "1"}
        self.clone = folder / "repository.git"
        if not (self.clone / "HEAD").is_file():
            self.clone.mkdir(exist_ok=True)
            self.git("init", "--quiet", "--bare")
            self.git("config", "gc.auto", "0")  # a commit that a force push left behind is still known
            self.git("remote", "add", "origin", self.url)

    def git(self, *arguments: str) -> str:
        """Run git in the mirror."""
        return repository.git(self.clone, self.environment, *arguments)

    def fetch(self) -> str:
        """Bring the branch up to date; return its head. Raises what `repository.explain` makes of git's message."""
        reference = f"refs/heads/{self.watch.branch}"
        self.git("remote", "set-url", "origin", self.url)
        try:
            self._fetch(f"+{reference}:{reference}")
            return self.git("rev-parse", "--verify", f"{reference}^{{commit}}").strip()
        except subprocess.CalledProcessError as error:
            raise repository.explain(error.stderr or "", self.url, self.watch.branch) from error

    def _fetch(self, what: str) -> None:
        limits = ["--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
        try:
            self.git("fetch", *limits, "--filter=blob:none", "origin", what)
        except subprocess.CalledProcessError:
            self.git("fetch", *limits, "origin", what)

    def knows(self, sha: str) -> bool:
        """Whether a commit is here, or the server still hands it out."""
        if self._there(sha):
            return True
        try:
            self._fetch(sha)
        except subprocess.CalledProcessError:
            return False
        return self._there(sha)

    def _there(self, sha: str) -> bool:
        try:
            self.git("cat-file", "-e", f"{sha}^{{commit}}")
        except subprocess.CalledProcessError:
            return False
        return True

    def merge_base(self, one: str, other: str) -> str:
        """The best common ancestor; empty where there is none."""
        try:
            return self.git("merge-base", one, other).split()[0]
        except (subprocess.CalledProcessError, IndexError):
            return ""

    def commits(self, start: str, head: str) -> list[Commit]:
        """The first-parent line after `start` up to `head`, the oldest first."""
        line = ["rev-list", "--first-parent", "--reverse", f"{start}..{head}"]
        listed = [entry.split() for entry in self.git(*line, "--parents").splitlines()]
        paths = [f":(literal){self.watch.path}.dvc", ":(literal)dvc.lock"]
        changing = set(self.git(*line, "--", *paths).split())
        return [Commit(sha, (parents or [keys.NO_COMMIT])[0], sha in changing) for sha, *parents in listed]

    def between(self, before: str, revision: str) -> set[str]:
        """The commits that a run for a push stands for: reachable from `revision` and not from `before`.

        Where `before` is gone (a force push, a fresh mirror) only `revision` itself is certain.
        """
        if not self.knows(revision):
            return set()
        if before == keys.NO_COMMIT:
            return set(self.git("rev-list", revision).split())
        if not self.knows(before):
            return {revision}
        return set(self.git("rev-list", f"{before}..{revision}").split())


def covered(mirror: Mirror, seen: Sequence[kube.Object]) -> set[str]:
    """The commits that the runs of a watch stand for; what a run says in another form than ours stands for nothing."""
    found: set[str] = set()
    for run in seen:
        notes = run["metadata"].get("annotations") or {}
        before, revision = notes.get(contract.ANNOTATION_BEFORE, ""), notes.get(contract.ANNOTATION_REVISION, "")
        if keys.SHA.fullmatch(before) and keys.SHA.fullmatch(revision):
            found |= mirror.between(before, revision)
    return found


def reconcile(runs: Runs, watch: Watch, scratch: Path) -> None:
    """Create what a watch lacks, and remember how far it is covered."""
    mirror = Mirror(watch, scratch / watch.watch)
    head = mirror.fetch()
    start = recorded(runs.cluster, watch.watch)
    if start is None:
        record(runs.cluster, watch.watch, head, None)
        runs.say(f"git: watch {watch.watch} starts at {head[:12]}")
        return
    begin = _begin(mirror, start, head)
    if begin != start:
        runs.say(f"git: watch {watch.watch}: {start[:12]} is no longer on {watch.branch}; going on from {begin[:12]}")
    commits = mirror.commits(begin, head)
    known: set[str] = set()
    if any(commit.changes_data for commit in commits):
        # Asked after the fetch: a run that an event makes meanwhile stands for newer commits, or has the name of ours.
        known = covered(mirror, runs.watched(watch.watch))
    reached = begin
    try:
        for commit in commits:
            if commit.changes_data and commit.sha not in known:
                runs.create(_wanted(watch, commit))
            reached = commit.sha
    finally:
        if reached != start:
            record(runs.cluster, watch.watch, reached, start)


def _begin(mirror: Mirror, start: str, head: str) -> str:
    """Where to go on: the recorded commit while it is an ancestor, else where the histories parted, else the head."""
    if not mirror.knows(start):
        return head
    return mirror.merge_base(start, head) or head


def _wanted(watch: Watch, commit: Commit) -> Wanted:
    key = keys.data_push(watch.watch, commit.sha)
    return Wanted(
        key, contract.EVENT_GIT, watch.template,
        values={"watch": watch.watch, "before": commit.before, "revision": commit.sha},
        labels={contract.LABEL_WATCH: watch.watch},
        annotations={contract.ANNOTATION_BEFORE: commit.before, contract.ANNOTATION_REVISION: commit.sha},
    )  # fmt: skip


def _annotation(watch: str) -> str:
    return contract.ANNOTATION_START_PREFIX + watch


def recorded(cluster: kube.Cluster, watch: str) -> str | None:
    """The commit up to which a watch is covered; None before its first pass."""
    stored = cluster.get(kube.LEASE, contract.LEASE_RECONCILE) or {"metadata": {}}
    sha = (stored["metadata"].get("annotations") or {}).get(_annotation(watch))
    if sha is not None and not keys.SHA.fullmatch(sha):
        raise tekton.Refused(
            f"Lease {contract.LEASE_RECONCILE} says that watch {watch} starts at {sha[:60]!r}",
            remedy=f"correct its annotation {_annotation(watch)} (a full commit id), or remove it to start at the head",
        )
    return sha


def record(cluster: kube.Cluster, watch: str, sha: str, expected: str | None) -> None:
    """Remember a commit if the record still is `expected`: another pass may have been faster, then its word stands."""
    change: kube.Object = {"metadata": {"annotations": {_annotation(watch): sha}}}
    for _ in range(ATTEMPTS):
        stored = cluster.get(kube.LEASE, contract.LEASE_RECONCILE)
        try:
            if stored is None:
                labels = {contract.LABEL_PART_OF: contract.PART_OF}
                metadata = {**change["metadata"], "name": contract.LEASE_RECONCILE, "labels": labels}
                body = {"apiVersion": kube.LEASE.api_version, "kind": kube.LEASE.name, "metadata": metadata, "spec": {}}
                cluster.create(kube.LEASE, body)
                return
            if (stored["metadata"].get("annotations") or {}).get(_annotation(watch)) != expected:
                return
            cluster.patch(kube.LEASE, contract.LEASE_RECONCILE, change, stored["metadata"]["resourceVersion"])
            return
        except kube.Conflict:
            time.sleep(random.uniform(0, 0.2))  # noqa: S311 (jitter, no secret)
    raise tekton.Unavailable(f"Lease {contract.LEASE_RECONCILE} kept changing", remedy="the next pass tries again")
