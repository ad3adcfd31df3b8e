"""A real data repository for the tests: git, DVC and a folder remote, published once and copied for each test."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from isotherm.data import benchmarks, fetch, publish, store

PATH = "data/heatinv"


@dataclass(frozen=True)
class DataRepository:
    """A git repository that tracks `data/heatinv` with DVC, its remote, and an empty workspace."""

    git: Path
    remote: Path
    workspace: Path
    commit: str

    def request(self, **changed: Any) -> fetch.Request:
        return fetch.Request(
            **{
                "repo_url": str(self.git),
                "revision": "main",
                "data_path": PATH,
                "remote_url": str(self.remote),
                **changed,
            }
        )

    def fetch(self, **changed: Any) -> store.DatasetRecord:
        return fetch.fetch(self.request(**changed), self.workspace, attempts=1)

    def object(self, md5: str) -> Path:
        return self.remote / "files" / "md5" / md5[:2] / md5[2:]

    def listing(self) -> list[dict[str, str]]:
        content: list[dict[str, str]] = json.loads(self.object(f"{self.dataset_hash}.dir").read_bytes())
        return content

    @property
    def dataset_hash(self) -> str:
        out = yaml.safe_load((self.git / f"{PATH}.dvc").read_text())["outs"][0]
        return str(out["md5"]).removesuffix(".dir")

    def file_md5(self, name: str) -> str:
        return next(row["md5"] for row in self.listing() if row["relpath"] == name)

    def track(self, listing: bytes, **more: object) -> str:
        """Commit a .dvc file for a listing made by hand, put that on the remote, and return its hash."""
        md5 = hashlib.md5(listing).hexdigest()
        target = self.object(f"{md5}.dir")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(listing)
        out = {"md5": f"{md5}.dir", "hash": "md5", "path": "heatinv", **more}
        (self.git / f"{PATH}.dvc").write_text(yaml.safe_dump({"outs": [out]}))
        self.save()
        return md5

    def save(self) -> None:
        """Commit everything in the working tree."""
        publish.git(self.git, "add", "-A")
        publish.git(self.git, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "change")

    def left(self) -> set[str]:
        """Name everything in the workspace."""
        return {path.name for path in self.workspace.iterdir()}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish a small HeatInv dataset once."""
    home = tmp_path_factory.mktemp("published")
    benchmarks.generate(home / "batch", n=60, seed=1)
    publish.publish(home / "batch", home / "repository", str(home / "remote"), PATH, "HeatInv v1")
    return home


@pytest.fixture
def repository(published: Path, tmp_path: Path) -> DataRepository:
    """Copy the published repository and its remote for one test."""
    shutil.copytree(published / "repository", tmp_path / "repository", symlinks=True)
    shutil.copytree(published / "remote", tmp_path / "remote")
    (tmp_path / "workspace").mkdir()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path / "repository", capture_output=True, text=True, check=True
    )
    return DataRepository(tmp_path / "repository", tmp_path / "remote", tmp_path / "workspace", head.stdout.strip())
