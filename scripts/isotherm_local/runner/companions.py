"""What stands beside a run in its files: its ConfigMaps and Secrets are made first, as `kubectl create -f` makes them.

Writes <state>/namespaces/<ns>/{configmaps,secrets}/<name>/<key>, a secret's keys with mode 0600.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isotherm.tekton import BadInput
from isotherm_local.runner.documents import shown
from isotherm_local.runner.record import Namespace

KINDS = {"ConfigMap": "configMap", "Secret": "secret"}
_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]+")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True)
class Companion:
    """A ConfigMap or Secret; `kind` is the workspace's word for it."""

    kind: str
    name: str
    keys: Mapping[str, bytes]

    def folder(self, namespace: Namespace) -> Path:
        """Name the folder that stands for it."""
        return folder(self.kind, self.name, namespace)


def folder(kind: str, name: str, namespace: Namespace) -> Path:
    """Name the folder that stands for a ConfigMap or Secret."""
    return (namespace.secrets if kind == "secret" else namespace.config_maps) / name


def read(files: Iterable[Path]) -> list[Companion]:
    """Read the ConfigMaps and Secrets of files that `documents.load` has read.

    Raises `BadInput` for one that is not sound, and for a ServiceAccount whose credentials no step here would get.
    """
    return [one for file in files for body in yaml.safe_load_all(file.read_text("utf-8")) for one in _read(body, file)]


def _read(body: Any, file: Path) -> Iterator[Companion]:
    if not isinstance(body, dict) or body.get("apiVersion") != "v1":
        return
    kind, metadata = str(body.get("kind")), body.get("metadata")
    name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
    where = f"{shown(file)}: {kind} {name}"
    if kind == "ServiceAccount" and body.get("secrets"):
        raise BadInput(f"{where}: secrets is refused by the local runner", remedy="bind a Secret to a workspace")
    if kind in KINDS:
        if not _NAME.fullmatch(name):
            raise BadInput(f"{where}: {name!r} is not a name for Kubernetes", remedy="use small letters and digits")
        keys = dict(_keys(body, kind, where))
        wrong = [key for key in keys if not _KEY.fullmatch(key)]
        if wrong:
            raise BadInput(f"{where}: {wrong[0]!r} is not a key", remedy="use letters, digits, dots, dashes")
        yield Companion(KINDS[kind], name, keys)


def _keys(body: Mapping[str, Any], kind: str, where: str) -> Iterator[tuple[str, bytes]]:
    coded = {"ConfigMap": "binaryData", "Secret": "data"}[kind]
    for field in ("data", "binaryData", "stringData"):
        for key, value in (body.get(field) or {}).items():
            if not isinstance(value, str):
                raise BadInput(f"{where}: {field}.{key} must be text", remedy="put it in quotes")
            try:
                yield str(key), base64.b64decode(value, validate=True) if field == coded else value.encode()
            except (binascii.Error, ValueError) as error:
                raise BadInput(f"{where}: {field}.{key} is not base64 ({error})", remedy="encode it") from error


def make(companions: Iterable[Companion], namespace: Namespace) -> None:
    """Make the folders, in place of older ones of the same names."""
    for one in companions:
        place = one.folder(namespace)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for key, data in one.keys.items():
            file = place / key
            file.touch(mode=0o600 if one.kind == "secret" else 0o644)
            file.write_bytes(data)
