"""Measurements for the tests: HeatInv batches in a git repository, their content by DVC in S3."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lab.part import CHECKOUT

from e2e.cluster import BUILD, Target

REPOSITORY = "measurements"  # of the catalog's runs; who moves a branch for its own ends takes another name


def _run(*command: str, cwd: Path = CHECKOUT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)[:200]}: {done.stderr.strip()[-500:]}"
    return done.stdout.strip()


def repository(target: Target, repository: str = REPOSITORY) -> str:
    """URL of a data repository; an empty one is made where there is none."""
    bare = target.git_folder / f"{repository}.git"
    if not bare.exists():
        _run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        shutil.rmtree(BUILD / repository, ignore_errors=True)
    return f"{target.git}/{repository}.git"


def publish(target: Target, name: str, points: int, seed: int, *, to: str = REPOSITORY) -> str:
    """Generate a HeatInv batch, push its content to S3 and its commit to a repository; return the commit."""
    repository(target, to)
    python, batch, clone = str(CHECKOUT / ".venv/data/bin/python"), BUILD / "batches" / to / name, BUILD / to
    shutil.rmtree(batch, ignore_errors=True)
    batch.parent.mkdir(parents=True, exist_ok=True)
    generate = ["isotherm.data.generate", "heatinv", str(batch), "--points", str(points), "--seed", str(seed)]
    _run(python, "-m", *generate)
    remote = "s3://research-datasets/e2e"
    publish = ["isotherm.data.publish", str(batch), str(clone), "--remote", remote, "--path", f"data/{name}"]
    commit = _run(python, "-m", *publish, env={**os.environ, **target.aws()}).split()[-1]
    _run("git", "push", "--quiet", "--force", str(target.git_folder / f"{to}.git"), "HEAD:main", cwd=clone)
    return commit
