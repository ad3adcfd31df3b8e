"""Every version of every Route of a model that the API server has stored, by one watch beside the tests."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection
from itertools import pairwise
from typing import Any

from rollout_history import Version, parse, violations

from isotherm import tekton
from isotherm.deploy import routes

Place = tuple[str, str]  # namespace and name


class Written:
    """A watch in a thread, for as long as the suite lasts."""

    def __init__(self, kubeconfig: str, namespaces: set[str], services: dict[str, routes.Services]) -> None:
        """`services` has the colours' Services by the name of the Route; other Routes are left out."""
        from kubernetes import config

        self._client = config.new_client_from_config(kubeconfig)
        self._namespaces, self._services = namespaces, services
        self._versions: dict[tuple[Place, str], dict[int, Version]] = defaultdict(dict)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.gap = False  # whether the API server has forgotten versions before they were read
        self.unreadable: list[str] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Written:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def histories(self) -> list[tuple[Place, list[Version]]]:
        """The versions of each Route in their order; one that was deleted and made again is another Route."""
        with self._lock:
            return [(place, [v for _, v in sorted(seen.items())]) for (place, _), seen in self._versions.items()]

    def sound(self, namespaces: Collection[str], rollbacks: Collection[str] = ()) -> dict[Place, int]:
        """How often the weights of these namespaces' Routes changed; fails where a write was one that must never be, or
        may be missing.

        `rollbacks`: uids of the PipelineRuns that went back.
        """
        assert self._thread.is_alive(), "the watch has ended"
        assert not self.gap, "the watch has missed versions"
        assert not self.unreadable
        changes: dict[Place, int] = defaultdict(int)
        for place, versions in self.histories():
            if place[0] not in namespaces:  # another lane's
                continue
            assert not violations(versions, rollbacks=rollbacks), place
            changes[place] += sum(dict(a.weights) != dict(b.weights) for a, b in pairwise(versions))
        return changes

    def _watch(self) -> None:
        from kubernetes import client
        from kubernetes import watch as watches
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        api, version = client.CustomObjectsApi(self._client), ""
        while not self._ended.is_set():
            kind = ("route.openshift.io", "v1", "routes")
            try:
                if not version:
                    listed = api.list_cluster_custom_object(*kind)
                    version = listed["metadata"]["resourceVersion"]
                    for item in listed["items"]:
                        self._keep(item)
                # The watch goes on from the version that it has seen last; the server ends one that is silent.
                watch = watches.Watch()
                for event in watch.stream(
                    api.list_cluster_custom_object, *kind, resource_version=version, timeout_seconds=30
                ):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "DELETED":
                        self._keep(event["object"])
            except ApiException as error:
                if error.status != 410:
                    self._ended.wait(1)
                    continue
                self.gap, version = True, ""
            except HTTPError:  # the connection ended: go on from the last version
                self._ended.wait(1)

    def _keep(self, stored: dict[str, Any]) -> None:
        metadata = stored["metadata"]
        if metadata["namespace"] not in self._namespaces or metadata["name"] not in self._services:
            return
        try:
            route = parse(stored, self._services[metadata["name"]])
        except tekton.TaskError as error:
            self.unreadable.append(str(error))
            return
        key = ((metadata["namespace"], metadata["name"]), metadata["uid"])
        with self._lock:
            self._versions[key][int(metadata["resourceVersion"])] = route
