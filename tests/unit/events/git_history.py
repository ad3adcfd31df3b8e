"""Real git repositories with made-up histories, by `git fast-import`: one process per push."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

PATH = "data/heatinv"
OTHER = "README.md"


class History:
    """A bare repository that is served by its path, and pushes to it."""

    def __init__(self, folder: Path, branch: str = "main") -> None:
        self.folder, self.branch, self.number = folder, branch, 0
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch", branch)
        self.git("config", "uploadpack.allowFilter", "true")
        self.git("config", "uploadpack.allowAnySHA1InWant", "true")

    def git(self, *arguments: str, stdin: str = "") -> str:
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    @property
    def head(self) -> str:
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{self.branch}").strip()

    def _commit(self, branch: str, files: Sequence[str], parents: Sequence[str]) -> str:
        self.number += 1
        lines = [f"commit refs/heads/{branch}", f"mark :{self.number}"]
        lines += [f"committer t <t@example.com> {1700000000 + self.number} +0000", "data 1", "c"]
        lines += [f"{'from' if not n else 'merge'} {parent}" for n, parent in enumerate(parents)]
        for file in files:
            text = f"{file} {self.number}"
            lines += [f"M 100644 inline {file}", f"data {len(text)}", text]
        return "\n".join(lines) + "\n"

    def push(self, commits: Sequence[Sequence[str]], *, onto: str | None = None, merged: Sequence[str] = ()) -> str:
        """Push commits, each a list of the files that it changes; `merged` are files of a side branch merged last.

        `onto` is where the branch is set before (a force push).
        """
        start = self.head if onto is None else onto
        stream, parents = "", [start] if start else []
        for files in commits:
            stream += self._commit("wip", files, parents)
            parents = [f":{self.number}"]
        if merged:
            stream += self._commit("side", merged, parents)
            side = f":{self.number}"
            stream += self._commit("wip", merged, [*(parents or [side]), side][:2] if parents else [side])
        self.git("fast-import", "--quiet", "--force", stdin=stream)
        self.git("update-ref", f"refs/heads/{self.branch}", "refs/heads/wip")
        return self.head

    def data_commits(self, since: str) -> list[str]:
        """The first-parent commits after `since` that change data, told from `git show` one by one."""
        line = self.git("rev-list", "--first-parent", f"{since}..{self.branch}").split()
        found = []
        for sha in line:
            changed = self.git("show", "--first-parent", "--name-only", "--format=", "-m", sha).split()
            if {f"{PATH}.dvc", "dvc.lock"} & set(changed):
                found.append(sha)
        return found
