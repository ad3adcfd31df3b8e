"""Datasets by content: `<data>/<dataset_hash>/`, complete or absent, written once, verified file by file.

Layout  the files of a DVC out, and `dataset.json` (where they came from, md5 and size of each)
Safety  everything is prepared in `.partial-*` beside it and appears by one rename; what a killed run left is cleared
Errors  `Refused` where content and hash differ
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from isotherm import tekton
from isotherm.contract import DATASET_FILE

PARTIAL = ".partial-"
LISTING_LIMIT = 10_000  # files of one dataset

Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Entry(BaseModel):
    """One row of a DVC directory listing: a file's md5 and its path inside the dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    md5: Md5
    relpath: str


class StoredFile(BaseModel):
    """One file of a stored dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    md5: Md5
    size: int


class DatasetRecord(BaseModel):
    """`dataset.json`: what a stored dataset is and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1] = 1
    dataset_hash: Md5
    data_version: str
    data_git_sha: str
    data_path: str
    remote: str
    rows: int
    files: list[StoredFile]


def listing_bytes(entries: Iterable[Entry]) -> bytes:
    """Serialise a listing as DVC does: its md5 is the hash of the directory."""
    rows = [{"md5": e.md5, "relpath": e.relpath} for e in sorted(entries, key=lambda e: e.relpath)]
    return json.dumps(rows, sort_keys=True).encode()


def parse_listing(content: bytes, dataset_hash: str) -> list[Entry]:
    """Read a directory listing from a remote and prove it.

    Raises `Refused` where its md5 is not the out's, where it is no listing, or a path leads out of the dataset.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != dataset_hash:
        what = f"the listing of dataset {dataset_hash} on the remote has the md5 {found}"
        raise tekton.Refused(what, remedy="the remote is damaged: push the dataset again from a good copy (dvc push)")
    try:
        entries = TypeAdapter(list[Entry]).validate_json(content)
    except ValidationError as error:
        what = f"the listing of dataset {dataset_hash} is not one that DVC 3 writes ({error.error_count()} errors)"
        raise tekton.Refused(what, remedy="add the dataset again with DVC 3 (dvc add, dvc push)") from None
    if not 0 < len(entries) <= LISTING_LIMIT:
        what = f"dataset {dataset_hash} lists {len(entries)} files"
        raise tekton.Refused(what, remedy=f"a dataset has 1 to {LISTING_LIMIT} files")
    paths = [entry.relpath for entry in entries]
    for path in paths:
        _check_relpath(path)
    if len(set(paths)) != len(paths) or listing_bytes(entries) != content:
        what = f"the listing of dataset {dataset_hash} is not in DVC's own form (order, spaces or a path twice)"
        raise tekton.Refused(what, remedy="add the dataset again with DVC 3 (dvc add, dvc push)")
    return entries


def _check_relpath(path: str) -> None:
    parts = path.split("/")
    unsafe = any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable() or len(path) > 255
    if unsafe or PurePosixPath(path).is_absolute():
        what = f"the dataset lists a file {path[:80]!r}, which leads out of it"
        raise tekton.Refused(what, remedy="do not use this dataset: somebody made its listing by hand")
    if parts[0] == DATASET_FILE:
        what = f"the dataset holds a file of its own named {DATASET_FILE}"
        raise tekton.Refused(what, remedy="rename it: that name is dvc-fetch's own record")


def copy_verified(source: Path, target: Path, md5: str, name: str) -> StoredFile:
    """Copy a file and prove that the bytes written are those that `md5` names.

    Raises `Refused` where they are not.
    """
    digest = hashlib.md5(usedforsecurity=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        size = writer.tell()
    if digest.hexdigest() != md5:
        what = f"file {name} of the dataset has the md5 {digest.hexdigest()}, wanted {md5}"
        raise tekton.Refused(what, remedy="the remote is damaged: push the dataset again from a good copy (dvc push)")
    target.chmod(0o444)
    return StoredFile(path=name, md5=md5, size=size)


def verify(folder: Path) -> DatasetRecord:
    """Prove that a stored dataset is complete and unchanged: every byte, no file more, no file less.

    Raises `Refused` saying what differs.
    """
    remedy = "run dvc-fetch again: it replaces a dataset that is not intact"
    try:
        record = DatasetRecord.model_validate_json((folder / DATASET_FILE).read_bytes())
    except FileNotFoundError:
        raise tekton.Refused(f"dataset {folder.name} is not complete (no {DATASET_FILE})", remedy=remedy) from None
    except ValidationError:
        raise tekton.Refused(f"{folder.name}/{DATASET_FILE} is damaged", remedy=remedy) from None
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise tekton.Refused(f"dataset {folder.name} holds {path.name}, not a plain file", remedy=remedy)
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != DATASET_FILE:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, _md5).hexdigest()
    entries = [Entry(md5=md5, relpath=name) for name, md5 in found.items()]
    actual = hashlib.md5(listing_bytes(entries), usedforsecurity=False).hexdigest()
    if actual != folder.name or record.dataset_hash != folder.name:
        listed = {file.path: file.md5 for file in record.files}
        differs = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
        what = f"dataset {folder.name} has the md5 {actual} (differs: {', '.join(differs[:3]) or DATASET_FILE})"
        raise tekton.Refused(what, remedy=remedy)
    return record


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


@contextmanager
def preparing(data: Path) -> Iterator[Path]:
    """Give a private folder inside the workspace, on the file system of the result; it is gone afterwards."""
    root = data.resolve(strict=True)
    _clear_abandoned(root)
    partial, lock = _locked_folder(root)
    try:
        yield partial
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)


def _locked_folder(root: Path) -> tuple[Path, int]:
    """Make a folder and lock it. Until it is locked it looks abandoned to another run, which may clear it."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=root))
        try:
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        if _try_lock(lock) and partial.exists():
            return partial, lock
        os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clear_abandoned(root: Path) -> None:
    """Remove what killed runs left: a live run holds a lock on its folder, a dead one cannot."""
    for folder in root.glob(f"{PARTIAL}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if _try_lock(descriptor):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def hand_over(staged: Path, data: Path, record: DatasetRecord) -> Path:
    """Write `dataset.json` last, then make the whole folder appear at `<data>/<dataset_hash>` by one rename.

    A complete and intact dataset that is already there stands; anything else at that place is replaced.
    """
    tekton.write_report(staged / DATASET_FILE, record.model_dump(mode="json", exclude={"schema_version"}))
    staged.chmod(0o775)  # group 0 shares the workspace under OpenShift's arbitrary UIDs
    target = place(data, record.dataset_hash)
    while True:
        try:
            os.rename(staged, target)
        except OSError as error:
            if not target.is_dir():
                raise error
            try:
                verify(target)
            except tekton.Refused as refused:
                print(f"replacing what lies at {target.name}: {refused.what}", flush=True)
                os.rename(target, Path(tempfile.mkdtemp(dir=staged.parent)) / "old")
                continue
        break
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def place(data: Path, dataset_hash: str) -> Path:
    """Return where a dataset belongs.

    Raises `Refused` where a symlink or a file is in its place.
    """
    target = data.resolve(strict=True) / dataset_hash
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise tekton.Refused(f"{target} is not a folder", remedy="remove it: dvc-fetch writes its own folder there")
    return target
