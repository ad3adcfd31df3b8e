"""Add a dataset folder to a data repository: checked, hashed and pushed by DVC, committed by git.

Usage   python -m isotherm.data.publish FOLDER REPO --remote DIR|URL [--path data/NAME] [--message TEXT]
Reads   FOLDER (problem.yaml, measurements, ...); FOLDER's own files only, no symlink
Writes  REPO (made where it does not exist), the DVC remote; the data is pushed before the commit names it
Prints  the commit's id on the last line; the same content again makes no new commit
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
from pathlib import Path

from isotherm import tekton

REMOTE = "origin"
IDENTITY = {"user.name": "isotherm", "user.email": "isotherm@localhost"}  # only where git knows no other


def publish(folder: Path, repo: Path, remote: str, data_path: str, message: str) -> str:
    """Make `folder` the content of `data_path` in a data repository and return the commit that holds it.

    Raises `BadInput` for a folder that is no dataset, holds a symlink or lies inside the repository.
    """
    from dvc.logger import set_loggers_level

    from isotherm.data import schema
    from isotherm.data.remote import check_data_path

    check_data_path(data_path)
    links = [path for path in (folder, *folder.rglob("*")) if path.is_symlink()]
    if links:
        raise tekton.BadInput(f"{links[0]} is a symlink", remedy="put the file itself there")
    if folder.resolve().is_relative_to(repo.resolve()):
        raise tekton.BadInput(f"{folder} lies inside {repo}", remedy="give a folder outside, it is copied in")
    print(schema.describe(schema.load(folder)), flush=True)
    with set_loggers_level(logging.WARNING):  # DVC's advice on what to type next is for those who run it by hand
        _initialise(repo, remote)
        _copy(folder, repo / data_path)
        _track(repo, data_path)
    # Only what belongs to this dataset: somebody may be working in the repository.
    wanted = [
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        f"{data_path}.dvc",
        str(Path(data_path).parent / ".gitignore"),
    ]
    names = [name for name in wanted if (repo / name).exists()]
    git(repo, "add", "--", *names)
    if git(repo, "status", "--porcelain", "--", *names):
        git(repo, *_identity(repo), "commit", "--quiet", "-m", message, "--", *names)
    return git(repo, "rev-parse", "HEAD")


def git(repo: Path, *arguments: str) -> str:
    """Run git in the repository and return its output.

    Raises `BadInput` with git's own first line of complaint.
    """
    done = subprocess.run(["git", *arguments], cwd=repo, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise tekton.BadInput(f"git {arguments[0]} failed in {repo} ({reason})", remedy="mend the data repository")
    return done.stdout.strip()


def _identity(repo: Path) -> list[str]:
    known = subprocess.run(["git", "config", "user.email"], cwd=repo, capture_output=True, check=False).returncode == 0
    return [] if known else [part for key, value in IDENTITY.items() for part in ("-c", f"{key}={value}")]


def _initialise(repo: Path, remote: str) -> None:
    """Make the git and DVC repository where there is none, and name its default remote."""
    from dvc.repo import Repo

    repo.mkdir(parents=True, exist_ok=True)
    if not (repo / ".git").exists():
        git(repo, "init", "--quiet", "--initial-branch=main")
    if not (repo / ".dvc").is_dir():
        Repo.init(str(repo)).close()
    if "://" not in remote:
        Path(remote).mkdir(parents=True, exist_ok=True)
        remote = str(Path(remote).resolve())
    with Repo(str(repo)) as dvc, dvc.config.edit("repo") as config:
        config["core"].update({"remote": REMOTE, "analytics": False, "autostage": False})
        config["remote"][REMOTE] = {**config["remote"].get(REMOTE, {}), "url": remote}


def _copy(folder: Path, target: Path) -> None:
    """Replace the repository's working copy of the dataset, which is DVC's and can be had again from the cache."""
    if target.is_dir():
        shutil.rmtree(target)
    shutil.copytree(folder, target)


def _track(repo: Path, data_path: str) -> None:
    """Hash, cache and push the dataset."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repo)) as dvc:
            dvc.add([str(repo / data_path)])
            pushed = dvc.push(targets=[str(repo / f"{data_path}.dvc")])
    except DvcException as error:
        what = f"DVC could not add or push {data_path} ({error})"
        raise tekton.Unavailable(what, remedy="check the remote and run the same command again") from error
    print(f"{pushed} objects pushed", flush=True)


def run() -> None:
    """Publish what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="dataset folder to add")
    parser.add_argument("repo", type=Path, help="data repository, made where it does not exist")
    parser.add_argument("--remote", required=True, help="DVC remote: a folder or a URL such as s3://bucket/prefix")
    parser.add_argument("--path", help="the dataset's place in the repository (default data/<name of FOLDER>)")
    parser.add_argument("--message", help="commit message (default: Add <path>)")
    a = parser.parse_args()
    data_path = a.path or f"data/{a.folder.resolve().name}"
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    commit = publish(a.folder, a.repo, a.remote, data_path, a.message or f"Add {data_path}")
    print(f"{data_path} in {a.repo}")
    print(commit)


def main() -> int:
    """Run the program."""
    return tekton.main(run)


if __name__ == "__main__":
    raise SystemExit(main())
