"""A model folder: checked file by file before anything in it is parsed.

The folder holds exactly `model.onnx`, `model.json`, `problem.yaml` and `manifest.sha256` (docs/contracts.md); every
byte used later comes from the read that was hashed, so a file swapped after the check changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from isotherm import contract, tekton

FILES = frozenset({contract.MODEL_ONNX, contract.MODEL_METADATA, contract.PROBLEM_FILE})
LIMIT_BYTES = 1 << 30
_REMEDY = "deploy the registered version again; a model folder is never edited"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")

Interval = tuple[pydantic.FiniteFloat, pydantic.FiniteFloat]
Vector = list[pydantic.FiniteFloat]


class Domain(pydantic.BaseModel):
    """Where the problem is posed, in its physical units."""

    x: Interval
    y: Interval
    t: Interval

    @pydantic.model_validator(mode="after")
    def _widths_are_positive(self) -> Domain:
        if not all(low < high for low, high in (self.x, self.y, self.t)):
            raise ValueError("each interval must have its lower end first")
        return self


class Validated(pydantic.BaseModel):
    """What evaluation measured on the held-out set, nondimensional."""

    residual_denominator: pydantic.FiniteFloat = pydantic.Field(gt=0)
    boundary_rms: pydantic.FiniteFloat | None = pydantic.Field(default=None, ge=0)


class Samples(pydantic.BaseModel):
    """Points and the answers that the trainer's own model gave there: the graph must repeat them."""

    points: list[tuple[pydantic.FiniteFloat, pydantic.FiniteFloat, pydantic.FiniteFloat]] = pydantic.Field(min_length=1)
    u: Vector
    a: Vector
    residual: Vector | None = None


class Metadata(pydantic.BaseModel):
    """The part of `model.json` that the predictor acts on."""

    schema_version: Literal[1]
    model_digest: str
    problem: str
    domain: Domain
    data_version: str
    validated: Validated
    samples: Samples


@dataclass(frozen=True)
class Bundle:
    """A verified model folder: its metadata and the bytes of every file, the manifest included."""

    metadata: Metadata
    content: Mapping[str, bytes]

    @property
    def graph(self) -> bytes:
        """The ONNX graph."""
        return self.content[contract.MODEL_ONNX]


def verify(folder: Path, *, exact: bool = True) -> dict[str, bytes]:
    """Read a model folder's served files and its manifest, after each file agreed with the manifest.

    `exact` refuses a folder that holds anything else, as the predictor's must; without it other files (the trainer's
    pt2,
    its pictures) are not looked at. Raises `tekton.Refused` for a missing, extra, linked or altered file,
    `tekton.BadInput` where there is no folder.
    """
    if not folder.is_dir():
        raise tekton.BadInput(
            f"model folder {folder} does not exist", remedy="mount the model there or give --model_dir"
        )
    wanted = FILES | {contract.MANIFEST_FILE}
    found = {entry.name: entry for entry in folder.iterdir() if exact or entry.name in wanted}
    if extra := sorted(found.keys() - wanted):
        raise tekton.Refused(f"model folder {folder} holds {extra[0]}, which is no part of a model", remedy=_REMEDY)
    if missing := sorted(wanted - found.keys()):
        raise tekton.Refused(f"model folder {folder} lacks {missing[0]}", remedy=_REMEDY)
    content: dict[str, bytes] = {}
    for name, path in sorted(found.items()):
        if path.is_symlink() or not path.is_file():
            raise tekton.Refused(f"{path} is not a regular file", remedy=_REMEDY)
        if path.stat().st_size > LIMIT_BYTES:
            raise tekton.Refused(f"{path} is larger than {LIMIT_BYTES >> 20} MiB", remedy=_REMEDY)
        content[name] = path.read_bytes()
    _compare(folder, _parse_manifest(folder, content[contract.MANIFEST_FILE]), content)
    return content


def _parse_manifest(folder: Path, manifest: bytes) -> dict[str, str]:
    digests: dict[str, str] = {}
    for number, line in enumerate(manifest.decode("utf-8", "replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in digests or match[2] not in FILES:
            what = f"{folder / contract.MANIFEST_FILE} line {number} is not `<sha256>  <a file of the model>`"
            raise tekton.Refused(what, remedy=_REMEDY)
        digests[match[2]] = match[1]
    return digests


def _compare(folder: Path, digests: Mapping[str, str], content: Mapping[str, bytes]) -> None:
    for name in sorted(FILES):
        data = content[name]
        actual = hashlib.sha256(data).hexdigest()
        if digests.get(name) != actual:
            listed = digests.get(name, "nothing")
            raise tekton.Refused(f"{folder / name} has sha256 {actual}, the manifest says {listed}", remedy=_REMEDY)


def load(folder: Path, expected_digest: str, *, exact: bool = True) -> Bundle:
    """Verify a model folder (`verify`) and check that it is the model that was asked for.

    Raises `tekton.Refused` where a file or the model digest differs from what was promised.
    """
    content = verify(folder, exact=exact)
    try:
        metadata = Metadata.model_validate_json(content[contract.MODEL_METADATA])
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{folder / contract.MODEL_METADATA}: {where}: {first['msg']}"
        raise tekton.Refused(what, remedy="train and register the model again with this version") from error
    if metadata.model_digest != expected_digest:
        what = f"{folder} holds the model with digest {metadata.model_digest[:19]}, not {expected_digest[:19]}"
        raise tekton.Refused(what, remedy="give digest and files of the same training; nothing was changed")
    return Bundle(metadata, content)
