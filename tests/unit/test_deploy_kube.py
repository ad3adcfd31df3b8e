"""The Kubernetes client against the embedded API, with a layer between that loses, delays and refuses requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mlflow_server import free_port
from starlette.responses import JSONResponse

from isotherm import tekton
from isotherm.deploy import kube, plan, render
from isotherm_local.api import create_app
from isotherm_local.store import Store

TOKEN = "secret-path"


class Faults:
    """ASGI layer: `before` answers in place of the API, `after` lets the API act and then loses its answer."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.before: list[int] = []
        self.after: list[int] = []
        self.methods: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.methods.append(scope["method"])
        writes = scope["method"] in ("POST", "PATCH")
        if self.before and (writes or scope["method"] == "GET"):
            await self._answer(self.before.pop(0), scope, receive, send)
            return
        if self.after and writes:

            async def nowhere(message: Any) -> None:
                pass

            await self.app(scope, receive, nowhere)
            await self._answer(self.after.pop(0), scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _answer(self, code: int, scope: Any, receive: Any, send: Any) -> None:
        text = 'routes "plate" is forbidden: cannot patch' if code == 403 else "injected"
        body = {"kind": "Status", "status": "Failure", "message": text, "reason": "Injected", "code": code}
        content: Any = "404 page not found" if code == 404 else body
        await JSONResponse(content, status_code=code)(scope, receive, send)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faults, int]]:
    faults, port = Faults(create_app(Store(tmp_path_factory.mktemp("api")), TOKEN, lambda: {"api": True})), free_port()
    server = uvicorn.Server(uvicorn.Config(faults, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield faults, port
    server.should_exit = True
    thread.join(10)


def connect(port: int, folder: Path, seconds: float = 5.0) -> kube.Cluster:
    from kubernetes import client, config

    server = f"http://127.0.0.1:{port}/{TOKEN}"
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": folder.name}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(json.dumps(content))
    configuration = client.Configuration()
    config.load_kube_config(str(folder / "kubeconfig"), client_configuration=configuration)
    configuration.retries = False
    return kube.Cluster(client.ApiClient(configuration), "unit", deadline_seconds=seconds)


@pytest.fixture
def cluster(served: tuple[Faults, int], tmp_path: Path) -> Iterator[tuple[kube.Cluster, Faults]]:
    faults, port = served
    faults.before, faults.after, faults.methods = [], [], []
    yield connect(port, tmp_path), faults
    assert (faults.before, faults.after) == ([], []), "an injected fault was not met"


def runtime(name: str, image: str = "isotherm/pinn-api:0.1.0") -> kube.Object:
    body = render.serving_runtime(image)
    body["metadata"]["name"] = name
    return body


def version(stored: kube.Object) -> str:
    return str(stored["metadata"]["resourceVersion"])


def test_what_is_created_is_read_back_and_absence_is_none(cluster: tuple[kube.Cluster, Faults]) -> None:
    api, _ = cluster
    body = runtime("read-back")
    assert api.get(kube.SERVING_RUNTIME, "read-back") is None
    assert kube.contains(api.create(kube.SERVING_RUNTIME, body), body)
    assert kube.contains(api.get(kube.SERVING_RUNTIME, "read-back"), body)
    service = render.service(name="blue", model_name="plate", colour="blue")
    assert kube.contains(api.create(kube.SERVICE, service), service)
    assert kube.contains(api.get(kube.SERVICE, "blue"), service)
    assert api.get(kube.SERVICE, "green") is None
    with pytest.raises(kube.Conflict):
        api.create(kube.SERVICE, service)


@pytest.mark.parametrize("codes", [[500], [503, 429], [504, 500, 502]], ids=str)
def test_reads_are_repeated(cluster: tuple[kube.Cluster, Faults], codes: list[int]) -> None:
    api, faults = cluster
    faults.before = list(codes)
    assert api.get(kube.SERVING_RUNTIME, "absent") is None
    assert faults.methods == ["GET"] * (len(codes) + 1)


@pytest.mark.parametrize("code", [500, 504])
def test_a_write_whose_answer_is_lost_happens_once(cluster: tuple[kube.Cluster, Faults], code: int) -> None:
    api, faults = cluster
    name = f"lost-{code}"
    faults.after = [code]
    created = api.create(kube.SERVING_RUNTIME, runtime(name))
    assert faults.methods == ["POST", "POST", "GET"]
    faults.after = [code]
    change = {"metadata": {"annotations": {"note": "one"}}}
    patched = api.patch(kube.SERVING_RUNTIME, name, change, version(created))
    assert patched["metadata"]["annotations"] == {"note": "one"}
    assert int(version(patched)) == int(version(created)) + 1


def test_a_lost_write_that_somebody_else_overtook_is_a_conflict(cluster: tuple[kube.Cluster, Faults]) -> None:
    api, faults = cluster
    created = api.create(kube.SERVING_RUNTIME, runtime("overtaken"))
    api.patch(kube.SERVING_RUNTIME, "overtaken", {"metadata": {"labels": {"by": "other"}}}, version(created))
    faults.before = [500]
    with pytest.raises(kube.Conflict):
        api.patch(kube.SERVING_RUNTIME, "overtaken", {"metadata": {"labels": {"by": "us"}}}, version(created))


@pytest.mark.parametrize("code", [429, 500])
def test_a_write_that_was_turned_away_is_repeated(cluster: tuple[kube.Cluster, Faults], code: int) -> None:
    api, faults = cluster
    faults.before = [code]
    api.create(kube.SERVING_RUNTIME, runtime(f"away-{code}"))
    assert faults.methods == ["POST", "POST"]


def test_a_stale_write_is_a_conflict_and_a_write_without_version_impossible(cluster) -> None:
    api, _ = cluster
    created = api.create(kube.SERVING_RUNTIME, runtime("stale"))
    change = {"metadata": {"labels": {"a": "b"}}}
    api.patch(kube.SERVING_RUNTIME, "stale", change, version(created))
    with pytest.raises(kube.Conflict, match="another writer was faster"):
        api.patch(kube.SERVING_RUNTIME, "stale", change, version(created))
    with pytest.raises(ValueError, match="resourceVersion"):
        api.patch(kube.SERVING_RUNTIME, "stale", change, "")


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        (403, tekton.Refused, r"not allowed: get routes\.route\.openshift\.io plate in namespace unit"),
        (401, tekton.Refused, "does not accept the token"),
        (404, tekton.BadInput, r"does not know routes\.route\.openshift\.io/v1"),
        (422, tekton.BadInput, "refuses get"),
    ],
)
def test_a_final_answer_is_not_repeated_and_says_what_was_asked(cluster, code: int, error, reason: str) -> None:
    api, faults = cluster
    faults.before = [code]
    with pytest.raises(error, match=reason):
        api.get(kube.ROUTE, "plate")
    assert faults.methods == ["GET"]


def test_a_cluster_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(tekton.Unavailable, match="did not answer") as error:
        connect(free_port(), tmp_path, seconds=0.5).get(kube.ROUTE, "plate")
    assert "KUBECONFIG" in error.value.remedy


def test_a_controllers_note_does_not_stop_a_planned_patch_but_a_person_does(cluster) -> None:
    api, _ = cluster
    wanted = render.inference_service(
        model_name="plate", colour="green", digest="d" * 64, semver="1.2.0", data_version="dvc-123456",
        claimed_by="run-2", storage_uri="pvc://isotherm/model-store/plate/d", size=render.Size(),
    )  # fmt: skip
    api.create(kube.INFERENCE_SERVICE, wanted)
    newer = {**wanted, "metadata": {**wanted["metadata"], "annotations": {**wanted["metadata"]["annotations"]}}}
    newer["metadata"]["annotations"]["isotherm.dev/claimed-by"] = "run-3"

    change = plan.inference_service(api.get(kube.INFERENCE_SERVICE, "plate-green"), newer)
    touch(api, "plate-green", {"labels": {"seen": "yes"}})
    plan.apply(api, change)
    change = plan.inference_service(api.get(kube.INFERENCE_SERVICE, "plate-green"), wanted)
    touch(api, "plate-green", {"annotations": {"isotherm.dev/claimed-by": "run-4"}})
    with pytest.raises(kube.Conflict):
        plan.apply(api, change)


def touch(api: kube.Cluster, name: str, metadata: dict[str, Any]) -> None:
    stored = api.get(kube.INFERENCE_SERVICE, name)
    assert stored is not None
    api.patch(kube.INFERENCE_SERVICE, name, {"metadata": metadata}, version(stored))
