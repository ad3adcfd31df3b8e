"""What a Kubernetes API server holds of one kind, kept current by list and watch.

Inputs   a list call of the generated client (`list_service_for_all_namespaces`, ...)
Outputs  the objects as JSON; a notice after every change
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from isotherm_local.kinds import Object

CONNECT_SECONDS = 5.0
WATCH_SECONDS = 60  # the server ends a watch after this long; a silent connection is given up a little later
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
log = logging.getLogger("lab.router")


class Expired(Exception):
    """The API server cannot tell what happened since the version asked for (410 Gone), or another error event."""


class Watched:
    """All objects of one kind. `run` never returns: it belongs into a thread of its own."""

    def __init__(self, name: str, call: Callable[..., Any], notice: Callable[[], None], resync_seconds: float) -> None:
        self.name, self.call, self.notice, self.resync_seconds = name, call, notice, resync_seconds
        self._objects: dict[tuple[str, str], Object] | None = None
        self._lock = threading.Lock()

    def objects(self) -> list[Object] | None:
        """Return the objects as last heard of; None before the first list."""
        with self._lock:
            return None if self._objects is None else list(self._objects.values())

    def run(self) -> None:
        """List, watch from there, and list again when the server says so, the connection fails or a resync is due."""
        failures = 0
        while True:
            try:
                version, listed_at = self._list(), time.monotonic()
                while time.monotonic() - listed_at < self.resync_seconds:
                    version = self._watch(version)
                    failures = 0
                    time.sleep(0.1)  # a server that ends every watch at once is not asked in a busy loop
            except Expired as error:
                log.info("%s: %s; listing again", self.name, error)
                failures += 1  # the first time at once, but a server that never keeps a watch is not hammered
                time.sleep(0 if failures == 1 else _pause(failures))
            except Exception as error:  # a thread that ends would leave the router with what it last heard, silently
                failures += 1
                pause, words = _pause(failures), " ".join(str(error).split())[:200]
                log.warning("%s: %s: %s; again in %.1f s", self.name, type(error).__name__, words, pause)
                time.sleep(pause)

    def _list(self) -> str:
        """Read all objects and return the version to watch from."""
        response = self._open(_request_timeout=(CONNECT_SECONDS, 30.0))
        try:
            answer = json.loads(response.read())
        finally:
            response.release_conn()
        listed = {_key(item): item for item in answer["items"]}
        with self._lock:
            changed = self._objects is None or _versions(listed) != _versions(self._objects)
            self._objects = listed
        if changed:
            self.notice()
        return str(answer["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """Follow the events of one watch; returns the version reached when the server ends it."""
        from kubernetes.watch.watch import iter_resp_lines

        timeouts = (CONNECT_SECONDS, WATCH_SECONDS + 15.0)
        seconds = max(1, min(WATCH_SECONDS, int(self.resync_seconds)))
        response = self._open(
            watch=True,
            resource_version=version,
            timeout_seconds=seconds,
            allow_watch_bookmarks=True,
            _request_timeout=timeouts,
        )
        try:
            for line in filter(None, iter_resp_lines(response)):
                version = self._take(json.loads(line))
        finally:
            response.close()
            response.release_conn()
        return version

    def _open(self, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        try:
            return self.call(_preload_content=False, **options)
        except ApiException as error:
            if error.status == 410:
                raise Expired("410 Gone") from error
            raise

    def _take(self, event: dict[str, Any]) -> str:
        """Apply one event and return its version."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise Expired(f"{item.get('code')} {item.get('reason')}: {item.get('message')}")
        if kind != "BOOKMARK":
            with self._lock:
                objects = self._objects if self._objects is not None else {}
                if kind == "DELETED":
                    objects.pop(_key(item), None)
                else:
                    objects[_key(item)] = item
            self.notice()
        return str(item["metadata"]["resourceVersion"])


def _key(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _versions(objects: dict[tuple[str, str], Object]) -> dict[tuple[str, str], str]:
    return {key: item["metadata"]["resourceVersion"] for key, item in objects.items()}


def _pause(failures: int) -> float:
    """Wait longer after each failure, never all watches in step."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] * random.uniform(0.5, 1.0)
