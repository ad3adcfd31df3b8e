"""The rules of `metadata` that hold for every kind: names, labels, annotations, and what nobody may change."""

from __future__ import annotations

import re
import secrets
from typing import Any

from isotherm_local.kinds import DNS_LABEL, DNS_SUBDOMAIN, Cause, Kind, Object

GENERATED_BASE, GENERATED_CHARACTERS = 58, "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words, as Kubernetes does it
_PART = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)")


def generated(base: str) -> str:
    """Make a name from `metadata.generateName`."""
    return base[:GENERATED_BASE] + "".join(secrets.choice(GENERATED_CHARACTERS) for _ in range(5))


def undecodable(metadata: Object) -> list[Cause]:
    """Name the fields whose type is wrong: the API server cannot even read such an object."""
    causes: list[Cause] = []
    for field in ("name", "generateName", "namespace", "resourceVersion"):
        if not isinstance(metadata.get(field, ""), str | None):
            causes.append((f"metadata.{field}", "must be a text"))
    for field in ("labels", "annotations"):
        entries = metadata.get(field) or {}
        if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
            causes.append((f"metadata.{field}", "must map names to texts"))
    return causes


def check(kind: Kind, metadata: Object) -> list[Cause]:
    """Name the broken rules of metadata whose types are right."""
    causes: list[Cause] = []
    name = metadata.get("name")
    if not name:
        causes.append(("metadata.name", "Required value: name or generateName is required"))
    elif not (kind.name_pattern or DNS_SUBDOMAIN).fullmatch(name):
        causes.append(("metadata.name", f"Invalid value: {name!r}: not a name that a {kind.kind} may have"))
    for field in ("labels", "annotations"):
        for key in metadata.get(field) or {}:
            if not is_label_key(key):
                causes.append(
                    (f"metadata.{field}", f"Invalid value: {key!r}: name part must be alphanumerics, -, _ or .")
                )
    for value in (metadata.get("labels") or {}).values():
        if value and not _PART.fullmatch(value):
            causes.append(("metadata.labels", f"Invalid value: {value!r}: must be 63 alphanumerics, -, _ or . or less"))
    return causes


def is_label_key(key: str) -> bool:
    """Tell whether a label or an annotation may have this key."""
    prefix, slash, name = key.rpartition("/")
    return bool(_PART.fullmatch(name)) and (not slash or bool(DNS_SUBDOMAIN.fullmatch(prefix)))


def is_namespace(name: str) -> bool:
    """Tell whether a namespace may have this name."""
    return bool(DNS_LABEL.fullmatch(name))


def tidy(made: Object) -> None:
    """Leave out empty maps, as the API server does: a removed last label leaves no `labels: {}`."""
    for holder, fields in ((made["metadata"], ("labels", "annotations")), (made, ("data", "binaryData"))):
        for field in fields:
            if field in holder and not holder[field]:
                del holder[field]


def without_nulls(value: Any) -> Any:
    """Copy JSON without the fields that are null: in an object to be created they say nothing."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
