"""Objects of the embedded API: kept in memory, one atomic JSON file each, so that a restart finds them.

Folder layout: `<folder>/<plural>[.<group>]/<namespace>/<name>.json`. One process and one thread use a Store.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm_local import metadata as rules
from isotherm_local.kinds import EVENT, KINDS, Cause, Kind, Object

KEPT_EVENTS = 500  # per namespace; a cluster drops Events after an hour
_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "resourceVersion", "name", "namespace")


class ApiError(Exception):
    """A refusal in the form that the Kubernetes API gives it: HTTP code, machine-readable reason, message."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, dict(details or {})

    def status(self) -> Object:
        """Return the `Status` object that goes over the wire."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def _details(kind: Kind, name: str) -> Object:
    return {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.plural}


def not_found(kind: Kind, name: str) -> ApiError:
    """No object of that name."""
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def invalid(kind: Kind, name: str, causes: list[Cause]) -> ApiError:
    """The object breaks a rule of its kind; every broken field is named."""
    text = ", ".join(f"{field}: {what}" for field, what in causes)
    listed = [{"reason": "FieldValueInvalid", "field": field, "message": what} for field, what in causes]
    message = f'{kind.qualified} "{name}" is invalid: {text}'
    return ApiError(422, "Invalid", message, {**_details(kind, name), "causes": listed})


def conflict(kind: Kind, name: str) -> ApiError:
    """Somebody else wrote since the version that the caller read."""
    message = (
        f'Operation cannot be fulfilled on {kind.resource} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return ApiError(409, "Conflict", message, _details(kind, name))


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386): null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


class Store:
    """All objects, with the version rules of a Kubernetes API server."""

    def __init__(self, folder: Path, now: Callable[[], datetime] = tekton.utcnow) -> None:
        self.folder, self.now = folder, now
        self.subscribers: list[Callable[[Kind, Object], None]] = []
        self._objects: dict[tuple[Kind, str, str], Object] = {}
        for kind, path in self._files():
            stored = self._load(path)
            metadata = stored["metadata"]
            self._objects[kind, metadata["namespace"], metadata["name"]] = stored
        self.resource_version = max((int(o["metadata"]["resourceVersion"]) for o in self._objects.values()), default=0)

    def _files(self) -> Iterator[tuple[Kind, Path]]:
        for kind in KINDS:
            for path in sorted((self.folder / kind.resource).glob("*/*.json")):
                yield kind, path

    @staticmethod
    def _load(path: Path) -> Object:
        try:
            stored: Object = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise tekton.BadInput(f"{path} is damaged ({error})", remedy="delete that file and start again") from error
        return stored

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return a copy of one object, or raise the API's NotFound."""
        found = self.find(kind, namespace, name)
        if found is None:
            raise not_found(kind, name)
        return found

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return a copy of one object, None where there is none."""
        found = self._objects.get((kind, namespace, name))
        return copy.deepcopy(found) if found is not None else None

    def list(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """Return copies of all objects of a kind, in one namespace or in all, sorted by namespace and name."""
        keys = sorted((n, name) for k, n, name in self._objects if k is kind and namespace in (None, n))
        return [copy.deepcopy(self._objects[kind, n, name]) for n, name in keys]

    def create(self, kind: Kind, namespace: str, wanted: Object, *, dry_run: bool = False) -> Object:
        """Add an object; the name may come from `metadata.generateName`. A client's `status` is dropped."""
        made = rules.without_nulls(wanted)
        metadata = self._metadata(kind, namespace, made)
        name = metadata["name"]
        if metadata.pop("resourceVersion", None):
            raise ApiError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if (kind, namespace, name) in self._objects:
            raise ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))
        if kind.has_status:
            made.pop("status", None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = tekton.rfc3339(self.now())
        if kind.generation:
            metadata["generation"] = 1
        self._check(kind, made)
        return self._put(kind, made, dry_run)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Object, *, dry_run: bool = False) -> Object:
        """Merge a client's patch; with `metadata.resourceVersion` in it only onto that very version."""
        old = self.get(kind, namespace, name)
        asked = patch.get("metadata")
        expected = asked.get("resourceVersion") if isinstance(asked, dict) else None
        if not isinstance(expected, str | None):
            raise invalid(kind, name, [("metadata.resourceVersion", "must be a text")])
        if expected not in (None, "", "0") and expected != old["metadata"]["resourceVersion"]:
            raise conflict(kind, name)
        new = merge_patch(old, patch)
        if kind.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        self._check_identity(kind, old, new)
        return self._replace(kind, old, new, dry_run)

    def apply(self, kind: Kind, namespace: str, name: str, content: Object) -> Object:
        """Create or set (all but `status`) an object that a controller owns; unchanged content writes nothing."""
        old = self.find(kind, namespace, name)
        if old is None:
            metadata = {**content.get("metadata", {}), "name": name}
            return self.create(kind, namespace, {**content, "metadata": metadata})
        kept = {field: old["metadata"][field] for field in _SERVER_OWNED if field in old["metadata"]}
        new = copy.deepcopy({**content, "metadata": {**content.get("metadata", {}), **kept}})
        new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]
        if "status" in old:
            new["status"] = old["status"]
        return self._replace(kind, old, new)

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object that a controller owns (clients may not); one that is not there is no error."""
        gone = self._objects.pop((kind, namespace, name), None)
        if gone is None:
            return
        self._path(kind, gone["metadata"]).unlink(missing_ok=True)
        self.resource_version += 1
        for subscriber in self.subscribers:
            subscriber(kind, gone)

    def set_status(self, kind: Kind, namespace: str, name: str, status: Object) -> Object:
        """Set the status of an object (controllers only); an unchanged one writes nothing."""
        old = self.get(kind, namespace, name)
        return self._replace(kind, old, {**old, "status": copy.deepcopy(status)})

    def _replace(self, kind: Kind, old: Object, new: Object, dry_run: bool = False) -> Object:
        metadata = new["metadata"]
        causes = rules.undecodable(metadata) or rules.check(kind, metadata) or kind.types(new)
        if causes:
            raise invalid(kind, old["metadata"]["name"], causes)
        self._check(kind, new)
        rules.tidy(new)
        if new == old:
            return old
        content = {key: value for key, value in new.items() if key not in ("metadata", "status")}
        if kind.generation and any(
            old.get(key) != content.get(key) for key in {*content, *old} - {"metadata", "status"}
        ):
            metadata["generation"] = old["metadata"]["generation"] + 1
        return self._put(kind, new, dry_run)

    def _metadata(self, kind: Kind, namespace: str, made: Object) -> Object:
        """Check identity of an object to be created and name it."""
        for field, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if made.setdefault(field, expected) != expected:
                raise ApiError(
                    400, "BadRequest", f"{field} in the body is {made[field]!r}, the path asks for {expected!r}"
                )
        metadata = made.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise ApiError(400, "BadRequest", "metadata must be an object")
        if metadata.setdefault("namespace", namespace) != namespace:
            raise ApiError(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            )
        unread = rules.undecodable(metadata) or kind.types(made)
        if unread:
            text = ", ".join(f"{field}: {what}" for field, what in unread)
            raise ApiError(400, "BadRequest", f"{kind.qualified} in the body cannot be read: {text}")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = rules.generated(metadata["generateName"])
        if not rules.is_namespace(namespace):
            raise ApiError(400, "BadRequest", f"namespace {namespace!r} is not a DNS label")
        causes = rules.check(kind, metadata)
        if causes:
            raise invalid(kind, str(metadata.get("name")), causes)
        return metadata

    @staticmethod
    def _check_identity(kind: Kind, old: Object, new: Object) -> None:
        before, after = old["metadata"], new.get("metadata")
        if after is None:
            raise ApiError(400, "BadRequest", "metadata must be an object")
        if not isinstance(after, dict):
            raise invalid(kind, before["name"], [("metadata", "must be an object")])
        for field in ("name", "namespace"):
            # A namespace that is removed comes back from the path; a name does not.
            if after.get(field) != before[field] and (field == "name" or after.get(field) is not None):
                raise ApiError(
                    400, "BadRequest", f"metadata.{field} of {kind.resource} {before['name']!r} cannot be changed"
                )
        fixed = {"metadata.uid": (after.get("uid"), before["uid"])}
        fixed |= {field: (new.get(field), old[field]) for field in ("apiVersion", "kind")}
        causes = [
            (f, f"Invalid value: {now!r}: field is immutable")
            for f, (now, was) in fixed.items()
            if now not in (None, was)
        ]
        if causes:
            raise invalid(kind, before["name"], causes)
        new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]
        after.update({field: before[field] for field in _SERVER_OWNED if field in before})

    @staticmethod
    def _check(kind: Kind, made: Object) -> None:
        causes = kind.check(made)
        if causes:
            raise invalid(kind, made["metadata"]["name"], causes)
        kind.default(made)

    def _put(self, kind: Kind, made: Object, dry_run: bool) -> Object:
        metadata = made["metadata"]
        rules.tidy(made)
        if dry_run:
            return made
        version = self.resource_version + 1
        metadata["resourceVersion"] = str(version)
        tekton.write_atomic(self._path(kind, metadata), json.dumps(made, indent=1, allow_nan=False) + "\n")
        # Only now: a full disk must leave memory and files as they were.
        self.resource_version = version
        self._objects[kind, metadata["namespace"], metadata["name"]] = made
        if kind is EVENT:
            self._drop_old_events(metadata["namespace"])
        for subscriber in self.subscribers:
            subscriber(kind, made)
        return copy.deepcopy(made)

    def _path(self, kind: Kind, metadata: Object) -> Path:
        return self.folder / kind.resource / str(metadata["namespace"]) / f"{metadata['name']}.json"

    def _drop_old_events(self, namespace: str) -> None:
        events = [o["metadata"] for (kind, n, _), o in self._objects.items() if kind is EVENT and n == namespace]
        events.sort(key=lambda metadata: int(metadata["resourceVersion"]))
        for metadata in events[:-KEPT_EVENTS]:
            self._path(EVENT, metadata).unlink(missing_ok=True)
            del self._objects[EVENT, namespace, metadata["name"]]
