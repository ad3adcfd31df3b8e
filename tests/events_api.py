"""The embedded API with the kinds of the events beside its own, in this process: real HTTP, real compare-and-set."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from kubernetes import client
from mlflow_server import free_port

from isotherm import kube
from isotherm_local import api, kinds
from isotherm_local import store as stores

TOKEN = "events"
NAMESPACE = "plates"
RUN = kinds.Kind("tekton.dev", "v1", "pipelineruns", "PipelineRun", has_status=True)
TEMPLATE = kinds.Kind("triggers.tekton.dev", "v1beta1", "triggertemplates", "TriggerTemplate")
INTERCEPTOR = kinds.Kind("triggers.tekton.dev", "v1alpha1", "interceptors", "Interceptor")
ALL = (*kinds.KINDS, *(kind for kind in (RUN, TEMPLATE, INTERCEPTOR) if kind.kind not in {k.kind for k in kinds.KINDS}))


@contextmanager
def _serving(app: Any, port: int) -> Iterator[asyncio.AbstractEventLoop]:
    """Serve on loopback in a thread of its own; gives that thread's loop."""
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning", lifespan="off"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API did not start"
        time.sleep(0.01)
    try:
        yield loop
    finally:
        server.should_exit = True
        thread.join(10)


class EventsApi:
    """A running API: `cluster()` for programs, and what only a controller or a pruner may do."""

    def __init__(self, store: stores.Store, port: int, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.store, self.loop, self.folder = store, loop, folder
        self.host = f"http://127.0.0.1:{port}/{TOKEN}"

    def cluster(self, namespace: str = NAMESPACE) -> kube.Cluster:
        configuration = client.Configuration(host=self.host)
        configuration.retries = False
        return kube.Cluster(client.ApiClient(configuration), namespace, deadline_seconds=10)

    def environment(self, namespace: str = NAMESPACE) -> dict[str, str]:
        """Variables for a program in a process of its own."""
        path, name = self.folder / f"kubeconfig-{namespace}", "events"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.host}}], "users": [{"name": name, "user": {}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        }  # fmt: skip
        path.write_text(json.dumps(config))
        root = Path(__file__).resolve().parents[1]
        return {**os.environ, "KUBECONFIG": str(path), "PYTHONPATH": str(root / "images")}

    def _inside(self, call: Any) -> Any:
        """Run in the thread that the store belongs to."""

        async def called() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(10)

    def finish(self, name: str, status: str = "True", namespace: str = NAMESPACE) -> None:
        """End a PipelineRun as Tekton's controller does."""
        condition = {"type": "Succeeded", "status": status, "reason": "Succeeded" if status == "True" else "Failed"}
        self._inside(lambda: self.store.set_status(RUN, namespace, name, {"conditions": [condition]}))

    def prune(self, name: str, namespace: str = NAMESPACE) -> None:
        """Delete a PipelineRun as the pruner does."""
        self._inside(lambda: self.store._objects.pop((RUN, namespace, name)))

    def runs(self, namespace: str = NAMESPACE) -> dict[str, dict[str, Any]]:
        found = self._inside(lambda: self.store.list(RUN, namespace))
        return {run["metadata"]["name"]: run for run in found}


@contextmanager
def running(folder: Path) -> Iterator[EventsApi]:
    """Serve the kinds of `ALL`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (kinds, api, stores):
            patch.setattr(module, "KINDS", ALL)
        store, port = stores.Store(folder / "objects"), free_port()
        with _serving(api.create_app(store, TOKEN, lambda: {"api": True}), port) as loop:
            yield EventsApi(store, port, loop, folder)


def template(name: str, event: str, params: list[str], **metadata: dict[str, str]) -> dict[str, Any]:
    """A TriggerTemplate as the catalog's are: the run is named by its key."""
    labels = {"app.kubernetes.io/part-of": "isotherm", "isotherm.dev/event": event, **metadata.get("labels", {})}
    annotations = {"isotherm.dev/event-key": "$(tt.params.name)", **metadata.get("annotations", {})}
    values = [{"name": param, "value": f"$(tt.params.{param})"} for param in params]
    run = {
        "apiVersion": "tekton.dev/v1", "kind": "PipelineRun",
        "metadata": {"name": "$(tt.params.name)", "labels": labels, "annotations": annotations},
        "spec": {"pipelineRef": {"name": "inverse-heat-pinn"}, "params": values},
    }  # fmt: skip
    return {
        "apiVersion": "triggers.tekton.dev/v1beta1", "kind": "TriggerTemplate", "metadata": {"name": name},
        "spec": {"params": [{"name": param} for param in params], "resourcetemplates": [run]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def events_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventsApi]:
    """An API shared by the tests of a module: they keep apart by namespace or name."""
    with running(tmp_path_factory.mktemp("api")) as found:
        yield found
