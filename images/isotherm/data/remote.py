"""A DVC out: where a data repository tracks it, where its remote is, and its transfer by DVC itself.

Input   a `repository.Snapshot`, the out's path, optionally another remote and a folder of S3 credentials
Output  `Out` (md5 of the listing, size), `Remote` (URL, options), the out's files in a private cache
Safety  DVC works in a fresh repository whose configuration is ours; a listing is proved before DVC follows it, because
        DVC joins a listed md5 to a path as it stands; nothing is checked out
Errors  `BadInput` (not tracked, remote or credentials wrong), `Refused` (listing wrong), `Unavailable` (try again),
        `Absent` (the remote answers, and an object is not there yet)
"""

from __future__ import annotations

import configparser
import errno
import os
import posixpath
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, Field, ValidationError

from isotherm import tekton
from isotherm.data import store
from isotherm.data.repository import Snapshot

SCHEMES = ("s3", "https", "file")
OPTIONS = ("endpointurl", "region", "profile")  # what a repository may say about its remote, besides where it is
OPTION_VALUE = re.compile(r"[A-Za-z0-9._:/@-]{1,300}")
NAME = "data"
PROGRESS_SECONDS = 10.0
PUSH = "run `dvc push` where the dataset was added"


class Absent(tekton.Unavailable):
    """The remote answers and lacks an object: `dvc push` comes after `git push`, or never."""


class Out(BaseModel):
    """One `outs` entry of a `.dvc` file or of `dvc.lock`: what the dataset is, by content."""

    path: str
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]
    hash: str = ""
    size: int | None = None
    nfiles: int | None = None
    remote: str | None = None

    @property
    def dataset_hash(self) -> str:
        """The md5 of the directory, without DVC's suffix."""
        return self.md5.removesuffix(".dir")


class _Stage(BaseModel):
    wdir: str = "."
    outs: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Remote:
    """Where the content is: a URL or an absolute path, and S3 options."""

    url: str
    options: Mapping[str, str] = field(default_factory=dict)


def check_data_path(path: str) -> str:
    """Return the out's path inside the data repository.

    Raises `BadInput` for an absolute path, one that leads out, or one that looks like an option.
    """
    parts = path.split("/")
    unsafe = any(part in ("", ".", "..", ".git", ".dvc") for part in parts) or not path.isprintable() or "\\" in path
    if unsafe or path.startswith("-") or len(path) > 500:
        what = f"param data-path is {path[:80]!r}"
        raise tekton.BadInput(what, remedy="give the dataset's folder inside the repository, such as data/heatinv")
    return path


def find_out(snapshot: Snapshot, data_path: str) -> Out:
    """Find the out at `data_path`, in `<data_path>.dvc` or in a `dvc.lock`.

    Raises `BadInput` where nothing tracks it, or what does is no directory hashed by DVC 3.
    """
    for folder, stage in _stages(snapshot, check_data_path(data_path)):
        for content in stage.outs:
            here = posixpath.normpath(posixpath.join(folder, stage.wdir, str(content.get("path", ""))))
            if here == data_path:
                return _checked(content, data_path)
    tracked = sorted(path.removesuffix(".dvc") for path in snapshot.files if path.endswith(".dvc"))
    known = f" (tracked there: {', '.join(tracked[:5])})" if tracked else ""
    what = f"data-path {data_path!r} is not tracked by DVC at {snapshot.commit[:12]}{known}"
    raise tekton.BadInput(what, remedy="add it (dvc add, git commit), or give the path that is tracked, without .dvc")


def _stages(snapshot: Snapshot, data_path: str) -> Iterator[tuple[str, _Stage]]:
    single = f"{data_path}.dvc"
    if single in snapshot.files:
        yield posixpath.dirname(single), _parse(_Stage, _yaml(snapshot, single), single)
    for lock in sorted(path for path in snapshot.files if posixpath.basename(path) == "dvc.lock"):
        folder = posixpath.dirname(lock)
        stages = _yaml(snapshot, lock).get("stages")
        pipeline = posixpath.join(folder, "dvc.yaml")
        declared = _yaml(snapshot, pipeline).get("stages") if pipeline in snapshot.files else None
        for name, stage in (stages if isinstance(stages, dict) else {}).items():
            said = declared.get(name) if isinstance(declared, dict) else None
            wdir = said.get("wdir", ".") if isinstance(said, dict) else "."
            outs = stage.get("outs", []) if isinstance(stage, dict) else []
            yield folder, _parse(_Stage, {"wdir": wdir, "outs": outs}, lock)


def _yaml(snapshot: Snapshot, path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(snapshot.read(path))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise tekton.BadInput(f"{path} in the data repository is not YAML", remedy="restore that file") from None
    return content if isinstance(content, dict) else {}


def _parse(model: type[_Stage], content: dict[str, Any], path: str) -> _Stage:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise tekton.BadInput(f"{path} in the data repository: {where}: {first['msg']}", remedy="restore it") from None


def _checked(content: dict[str, Any], data_path: str) -> Out:
    remedy = "track the dataset's folder with DVC 3 (dvc add FOLDER; older outs: dvc cache migrate --dvc-files)"
    try:
        out = Out.model_validate(content)
    except ValidationError:
        raise tekton.BadInput(f"{data_path} is tracked without a plain md5", remedy=remedy) from None
    if out.hash != "md5":
        raise tekton.BadInput(f"{data_path} is tracked with the hash {out.hash or 'of DVC 2'!r}", remedy=remedy)
    if not out.md5.endswith(".dir"):
        what = f"{data_path} is a single file; a dataset is a folder of problem.yaml and measurements"
        raise tekton.BadInput(what, remedy=remedy)
    return out


def find_remote(snapshot: Snapshot, out: Out, repo_url: str, override: str = "") -> Remote:
    """Name the remote: `override`, else the out's own, else the repository's default.

    Raises `BadInput` where there is none or it is of a kind that is not supported.
    """
    if override:
        return Remote(_check_remote(override, "param remote-url"))
    path = ".dvc/config"
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(snapshot.read(path) if path in snapshot.files else "")
    except configparser.Error:
        raise tekton.BadInput(f"{path} in the data repository is damaged", remedy="restore it") from None
    sections = {name.strip("'"): parser[name] for name in parser.sections()}
    name = out.remote or (sections["core"].get("remote") if "core" in sections else None)
    if name is None or f'remote "{name}"' not in sections:
        what = "the data repository names no default remote"
        raise tekton.BadInput(what, remedy="run `dvc remote add -d NAME URL` there, or give param remote-url")
    options = sections[f'remote "{name}"']
    url = options.get("url", "")
    if url and "://" not in url and not url.startswith("/"):
        base = Path(repo_url.removeprefix("file://")) / ".dvc"
        if not base.is_dir():
            what = f"the default remote {url!r} is a path relative to somebody's checkout"
            raise tekton.BadInput(what, remedy="give param remote-url")
        url = str((base / url).resolve())
    url = _check_remote(url, f"the default remote {name!r}")
    kept = {key: options[key] for key in OPTIONS if key in options}
    for key, value in kept.items():
        if not OPTION_VALUE.fullmatch(value):
            raise tekton.BadInput(f"option {key} of remote {name!r} is {value[:80]!r}", remedy="correct .dvc/config")
    return Remote(url, kept)


def _check_remote(url: str, what: str) -> str:
    remedy = "give s3://bucket/prefix, https://... or the absolute path of a folder"
    parts = urlsplit(url)
    scheme_ok = parts.scheme in SCHEMES if "://" in url else url.startswith("/")
    if not url.isprintable() or not scheme_ok or len(url) > 1000:
        raise tekton.BadInput(f"{what} is {url[:80]!r}", remedy=remedy)
    if parts.password is not None:
        raise tekton.BadInput(f"{what} holds credentials", remedy="put them into workspace dvc-credentials")
    folder = url.removeprefix("file://")
    if folder.startswith("/") and not Path(folder).is_dir():
        raise tekton.Unavailable(f"{what}, the folder {folder}, does not exist", remedy="mount it, or correct its path")
    return folder if folder.startswith("/") else url


def credentials_environment(folder: Path | None) -> dict[str, str]:
    """Name the AWS files of a mounted Secret (keys `credentials` and `config`, the latter with `endpoint_url`)."""
    names = {"credentials": "AWS_SHARED_CREDENTIALS_FILE", "config": "AWS_CONFIG_FILE"}
    return {variable: str(folder / key) for key, variable in names.items() if folder and (folder / key).is_file()}


@contextmanager
def only_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Run with exactly this environment: DVC and botocore read it wherever they are called from."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def transfer(out: Out, remote: Remote, scratch: Path) -> tuple[list[store.Entry], Path]:
    """Let DVC bring every object of an out into a cache under `scratch`.

    Returns the proved listing and the cache's folder of objects (`ab/cdef...`). The environment is the caller's
    (`only_environment`). Raises `Absent` where an object is missing, `Unavailable` where the remote does not answer.
    """
    from dvc.exceptions import DownloadError
    from dvc.repo import Repo

    cache = scratch / "cache" / "files" / "md5"
    root = _fresh_repository(scratch, out)
    repo = Repo(str(root), config=_configuration(scratch, remote))
    try:
        with _explained(remote):
            objects = repo.cloud.get_remote_odb(NAME)
            if not (cache / out.md5[:2] / out.md5[2:]).exists():
                content = _listing(objects, out, remote)
                store.parse_listing(content, out.dataset_hash)
                tekton.write_atomic(cache / out.md5[:2] / out.md5[2:], content)
            entries = store.parse_listing((cache / out.md5[:2] / out.md5[2:]).read_bytes(), out.dataset_hash)
            missing = [entry for entry in entries if not objects.exists(entry.md5)]
            if missing:
                what = (
                    f"file {missing[0].relpath} of the dataset (md5 {missing[0].md5}) is not on the remote {remote.url}"
                )
                raise Absent(what, remedy=PUSH)
            with _progress(cache, out.size):
                repo.fetch(targets=[str(root / "dataset.dvc")])
    except DownloadError as error:
        if shutil.disk_usage(scratch).free < 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch.parent)) from error
        raise tekton.Unavailable(
            f"DVC could not fetch from {remote.url} ({error})", remedy="see the lines above"
        ) from error
    finally:
        repo.close()
    return entries, cache


def _fresh_repository(scratch: Path, out: Out) -> Path:
    root = scratch / "dvc"
    (root / ".dvc").mkdir(parents=True, exist_ok=True)
    content = {"outs": [{"md5": out.md5, "hash": "md5", "path": "dataset"}]}
    (root / "dataset.dvc").write_text(yaml.safe_dump(content))
    return root


def _configuration(scratch: Path, remote: Remote) -> dict[str, Any]:
    return {
        "core": {
            "analytics": False,
            "check_update": False,
            "no_scm": True,
            "remote": NAME,
            "site_cache_dir": str(scratch / "site"),
        },
        "cache": {"dir": str(scratch / "cache"), "type": "copy"},
        "remote": {NAME: {"url": remote.url, **remote.options}},
    }


def _listing(objects: Any, out: Out, remote: Remote) -> bytes:
    try:
        content: bytes = objects.fs.cat_file(objects.oid_to_path(out.md5))
    except FileNotFoundError:
        what = f"the dataset's listing {out.md5} is not on the remote {remote.url}"
        raise Absent(what, remedy=PUSH) from None
    return content


@contextmanager
def _explained(remote: Remote) -> Iterator[None]:
    """Turn what DVC and its file systems raise into our errors; a full or read-only disk stays an `OSError`."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (tekton.TaskError, DvcException):
        raise
    except PermissionError as error:
        what = f"the remote {remote.url} refuses access ({_short(error)})"
        raise tekton.BadInput(what, remedy="check workspace dvc-credentials (keys credentials and config)") from error
    except OSError as error:
        if error.errno and error.filename:
            raise
        what = f"the remote {remote.url} does not answer ({_short(error)})"
        raise tekton.Unavailable(what, remedy="check that it can be reached") from error
    except Exception as error:  # botocore, aiohttp and fsspec share no base class
        if "Credentials" in type(error).__name__ or "Profile" in type(error).__name__:
            what = f"no usable credentials for {remote.url} ({_short(error)})"
            raise tekton.BadInput(
                what, remedy="bind workspace dvc-credentials (keys credentials and config)"
            ) from error
        what = f"the remote {remote.url} failed ({type(error).__name__}: {_short(error)})"
        raise tekton.Unavailable(what, remedy="check that it can be reached") from error


def _short(error: BaseException) -> str:
    return " ".join(tekton.redact(str(error)).split())[:200]


@contextmanager
def _progress(cache: Path, total: int | None) -> Iterator[None]:
    """Print a line every few seconds while a transfer goes on."""
    done = threading.Event()
    of = f" of {total / 1e6:.1f}" if total else ""

    def report() -> None:
        while not done.wait(PROGRESS_SECONDS):
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            print(f"  {size / 1e6:.1f}{of} MB fetched", flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
