"""The KServe stand-in with real predictors."""

from __future__ import annotations

import os
import signal
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from local_target import (
    INFERENCE_SERVICES,
    ROUTES,
    SERVING_RUNTIMES,
    Clients,
    clients,
    cluster,
    named,
    route,
)
from waiting import eventually

from isotherm import contract
from isotherm_local.cluster import Cluster
from isotherm_local.kinds import Object

sys.path.append(str(Path(__file__).parents[1] / "unit"))
import onnx_models

__all__ = ["clients", "cluster"]

DEPLOYMENTS = ("apps", "v1", "deployments")
SLICES = ("discovery.k8s.io", "v1", "endpointslices")
PREDICTOR = {
    "name": "kserve-container",
    "image": "registry.example/isotherm/pinn-api:0.1.0@sha256:" + "0" * 64,
    "command": ["python", "-m", "isotherm.predictor.serve"],
    "args": ["--model_name=inverse-heat-pinn", "--model_dir=/mnt/models", "--http_port=8080"],
    "ports": [{"containerPort": 8080}],
    "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
}


def deploy(
    clients: Clients, name: str, digest: str, *, uri: str | None = None, container: Object | None = None, **more: Any
) -> None:
    """Create (or patch) an InferenceService as kserve-deploy does, with its runtime and colour's Service."""
    env = [
        {"name": "MODEL_VERSION", "value": "1.1.0"},
        {"name": "MODEL_DIGEST", "value": digest},
        {"name": "TRACK", "value": name},
    ]
    model = {"modelFormat": {"name": "isotherm-pinn"}, "runtime": f"runtime-{name}", "env": env}
    model["storageUri"] = uri or f"pvc://store/{digest}"
    body = {
        "metadata": {"name": name, "annotations": {contract.ANNOTATION_MODEL_DIGEST: digest}},
        "spec": {"predictor": {"model": model, **more}},
    }
    if [o for o in clients.list(INFERENCE_SERVICES) if o["metadata"]["name"] == name]:
        clients.patch(INFERENCE_SERVICES, name, body)
        return
    formats = [{"name": "isotherm-pinn", "version": "1"}]
    clients.create(
        SERVING_RUNTIMES,
        named(f"runtime-{name}", spec={"supportedModelFormats": formats, "containers": [container or PREDICTOR]}),
    )
    clients.create(INFERENCE_SERVICES, body)
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    spec = {"selector": {"serving.kserve.io/inferenceservice": name}, "ports": ports}
    clients.core.create_namespaced_service(clients.namespace, named(name, spec=spec))


def bundle(clients: Clients, **options: Any) -> str:
    """Put a small model into the namespace's claim `store`; return its digest."""
    claim = clients.cluster.state / "namespaces" / clients.namespace / "pvcs" / "store"
    digest = onnx_models.write_bundle(claim / "new", **options)
    (claim / "new").rename(claim / digest)
    return digest


def rolled_out(clients: Clients, name: str, digest: str) -> bool:
    """Contracts.md's readiness, as far as the objects tell it."""
    found = [d for d in clients.list(DEPLOYMENTS) if d["metadata"]["name"] == f"{name}-predictor"]
    if not found or found[0].get("status", {}).get("observedGeneration") != found[0]["metadata"]["generation"]:
        return False
    [deployment], [container] = found, found[0]["spec"]["template"]["spec"]["containers"]
    counts = {deployment["status"][f] for f in ("replicas", "updatedReplicas", "readyReplicas")}
    carried = {e["name"]: e.get("value") for e in container["env"]}["MODEL_DIGEST"]
    return counts == {deployment["spec"]["replicas"]} and carried == digest


def addresses(clients: Clients, service: str) -> list[str]:
    """URLs of a Service's ready endpoints."""
    found = clients.list(SLICES, label_selector=f"kubernetes.io/service-name={service}")
    return [f"http://{e['addresses'][0]}:{s['ports'][0]['port']}" for s in found for e in s["endpoints"]]


def condition(item: Object, kind: str) -> Object:
    return next((c for c in item.get("status", {}).get("conditions", []) if c["type"] == kind), {})


def served_digest(url: str, host: str = "") -> str:
    request = urllib.request.Request(url + "/v2/models/inverse-heat-pinn", headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.headers[contract.HEADER_MODEL_DIGEST])


def test_a_model_is_served_and_replaced_without_a_lost_request(cluster: Cluster, clients: Clients) -> None:
    first, second = bundle(clients), bundle(clients, shift=1.0)
    deploy(clients, "blue", first)
    clients.create(ROUTES, route("heat", {"blue": 100}))
    eventually(lambda: rolled_out(clients, "blue", first), 60)
    assert condition(clients.get(INFERENCE_SERVICES, "blue"), "Ready")["status"] == "True"
    [pod] = addresses(clients, "blue")
    assert addresses(clients, "blue-predictor") == [pod]
    assert served_digest(pod) == first
    host = clients.get(ROUTES, "heat")["spec"]["host"]
    through = cluster.router_url
    eventually(lambda: cluster_answers(through, host))

    seen: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            try:
                seen[served_digest(through, host)] += 1
            except OSError as error:
                seen[str(error)] += 1

    client = threading.Thread(target=ask)
    client.start()
    try:
        eventually(lambda: seen[first])  # the client is asking before anything is replaced
        deploy(clients, "blue", second)
        eventually(lambda: rolled_out(clients, "blue", second), 60)
        eventually(lambda: len(addresses(clients, "blue")) == 1)
        eventually(lambda: all(served_digest(through, host) == second for _ in range(5)))
        eventually(lambda: seen[second])  # the client too, however slow the machine makes it
    finally:
        stop.set()
        client.join()
    assert set(seen) == {first, second}
    assert served_digest(addresses(clients, "blue")[0]) == second
    log = cluster.state / "namespaces" / clients.namespace / "predictors" / "blue" / "log"
    assert log.read_text().count('"message": "serving"') == 2


def cluster_answers(url: str, host: str) -> bool:
    try:
        return bool(served_digest(url, host))
    except OSError:
        return False


def test_a_predictor_that_dies_is_started_again(clients: Clients) -> None:
    digest = bundle(clients)
    deploy(clients, "blue", digest)
    eventually(lambda: rolled_out(clients, "blue", digest), 60)
    [before] = addresses(clients, "blue")
    port = before.rpartition(":")[2]
    [part] = [p for p in clients.cluster.status() if p.name.endswith(f"-{port}")]
    os.kill(part.pid, signal.SIGKILL)
    eventually(lambda: addresses(clients, "blue") not in ([], [before]), 60)
    assert rolled_out(clients, "blue", digest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"uri": "pvc://store/none"}, "there is no model in", id="no model"),
        pytest.param({"uri": "s3://bucket/x"}, "reads pvc://CLAIM/PATH only", id="s3"),
        pytest.param({"uri": "pvc://store/../../../x"}, "leads out of its claim", id="path"),
        pytest.param({"container": {**PREDICTOR, "image": "x/none:1"}}, "there is no environment", id="family"),
        pytest.param({"container": {**PREDICTOR, "command": ["/bin/sh"]}}, "must start with `python`", id="command"),
        pytest.param({"container": {**PREDICTOR, "args": []}}, "--http_port=PORT", id="port"),
        pytest.param({"container": {**PREDICTOR, "name": "other"}}, "one container named kserve-container", id="name"),
        pytest.param({"container": {**PREDICTOR, "env": [{"name": "A", "valueFrom": {}}]}}, "no valueFrom", id="env"),
        pytest.param(
            {"container": {**PREDICTOR, "args": [*PREDICTOR["args"], "$(HOME)"]}}, "does not expand", id="expand"
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_the_condition(clients: Clients, change: dict[str, Any], words: str) -> None:
    digest = bundle(clients)
    deploy(clients, "blue", digest, **change)
    found = eventually(lambda: condition(clients.get(INFERENCE_SERVICES, "blue"), "Ready").get("message"))
    assert words in found
    assert condition(clients.get(INFERENCE_SERVICES, "blue"), "Ready")["status"] == "False"
    assert addresses(clients, "blue") == []


def last_failure(service: dict[str, Any]) -> dict[str, Any]:
    """Why the model was not loaded; empty while its controller has not written a status yet."""
    info: dict[str, Any] = service.get("status", {}).get("modelStatus", {}).get("lastFailureInfo", {})
    return info


def test_a_predictor_that_refuses_its_model_shows_its_last_line(clients: Clients) -> None:
    digest = bundle(clients)
    deploy(clients, "blue", "0" * 64, uri=f"pvc://store/{digest}")
    failed = eventually(lambda: last_failure(clients.get(INFERENCE_SERVICES, "blue")), 60)
    assert failed["exitCode"] > 0
    assert "digest" in failed["message"]
    [deployment] = clients.list(DEPLOYMENTS)
    assert condition(deployment, "Available")["status"] == "False"
    assert failed["message"] == condition(deployment, "Available")["message"]
