"""A platform that splits by `spec.canary`, within the test: the embedded API and its KServe; threads for the rest.

The API, its controllers and the objects are the local target's own; what is simulated is the pods' program (it answers
with its model's digest, and errors where the model is a bad one) and HAProxy, by the same arithmetic of weights.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from waiting import eventually

from isotherm import contract, kube, tekton
from isotherm.deploy import (
    canary,
    deploy,
    plan,
    preconditions,
    readiness,
    registered,
    settle,
    shift,
    splits,
    store,
    traffic,
)
from isotherm_local import admission, router
from isotherm_local.api import create_app
from isotherm_local.kinds import DEPLOYMENT, ENDPOINT_SLICE, INFERENCE_SERVICE, ROUTE, Object
from isotherm_local.kserve import Controller
from isotherm_local.pods import Pod, Template
from isotherm_local.ports import free_port
from isotherm_local.store import Store
from isotherm_local.supervisor import Settings

NAMESPACE, NAME, TOKEN = "plates", "plate", "secret"
ONE, TWO, BAD = "a" * 64, "b" * 64, "bad0" * 16
VERSIONS = {ONE: "1", TWO: "2", BAD: "3"}
T = TypeVar("T")
METRICS = """# TYPE pinn_requests counter
pinn_requests_total {of}
# TYPE pinn_errors counter
pinn_errors_total 0
# TYPE pinn_latency_seconds histogram
pinn_latency_seconds_bucket{{le="0.25"}} {of}
pinn_latency_seconds_bucket{{le="+Inf"}} {of}
pinn_latency_seconds_count {of}
pinn_latency_seconds_sum 0.1
"""


class Answers(BaseHTTPRequestHandler):
    """What a predictor answers."""

    def do_GET(self) -> None:
        digest, self.server.asked = self.server.digest, self.server.asked + 1  # type: ignore[attr-defined]
        path, status, body = self.path.partition("?")[0], 200, "{}"
        if path == "/metrics":
            body = METRICS.format(of=self.server.asked)  # type: ignore[attr-defined]
        elif path == contract.PATH_DOMAIN:
            body = json.dumps({axis: [0, 1] for axis in ("x", "y", "t")})
        elif path == "/predict-temperature":
            status, body = (500 if digest == BAD else 200), json.dumps({"u(x,y,t)": 0.5})
        self.send_response(status)
        self.send_header(contract.HEADER_MODEL_DIGEST, digest)
        self.send_header(contract.HEADER_MODEL_VERSION, f"1.{VERSIONS.get(digest, '9')}.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Process:
    """A predictor that is a thread of the test; as much of `subprocess.Popen` as a pod needs."""

    def __init__(self, digest: str, port: int) -> None:
        self.ended: int | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
        self.server.digest, self.server.asked = digest, 0  # type: ignore[attr-defined]
        threading.Thread(target=lambda: self.server.serve_forever(0.02), daemon=True).start()

    def poll(self) -> int | None:
        return self.ended

    def send_signal(self, _: int) -> None:
        if self.ended is None:
            self.ended = 0
            threading.Thread(target=self.stop, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class NoChildren:
    """The pods are threads: there is nothing to record."""

    def forget(self, _: str) -> None:
        """Nothing to forget."""


@dataclass
class Platform:
    """The embedded API with its controllers, in one loop of one thread."""

    folder: Path
    router_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    follows: bool = True  # whether the Route follows spec.canary
    started: list[str] = field(default_factory=list)  # Deployment of every pod that was started
    answered: list[tuple[str, str]] = field(default_factory=list)  # Service and digest of every answer of the router

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "api")
        settings = Settings(self.folder, self.api_port, self.router_port, 0, TOKEN, reload_seconds=0.0)
        self.controller = Controller(self.store, settings, NoChildren())  # type: ignore[arg-type]
        self.controller.drain_seconds = 0.1
        self.loop = asyncio.new_event_loop()
        self.turn = itertools.count()

    def pod(self, namespace: str, deployment: str, template: Template, state: Path, children: Any, now: float) -> Pod:
        """Stands for `Pod.start`."""
        port = free_port()
        env = {entry["name"]: entry.get("value", "") for entry in template.container["env"]}
        self.started.append(deployment)
        process: Any = Process(env[contract.ENV_MODEL_DIGEST], port)
        return Pod(f"{deployment}-{port}", template, port, process, state / "log", now)

    def call(self, work: Callable[[], T]) -> T:
        """Do something in the store's own thread."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    async def serve(self) -> None:
        """Serve the API, run the controller, admit Routes."""
        import uvicorn

        app = create_app(self.store, TOKEN, lambda: {"api": True})
        config = uvicorn.Config(app, host="127.0.0.1", port=self.api_port, log_level="error", lifespan="off")
        self.server = uvicorn.Server(config)
        tasks = [asyncio.create_task(self.controller.run()), asyncio.create_task(self.admit())]
        await self.server._serve()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admit(self) -> None:
        """Every Route is carried."""
        while True:
            routes = self.store.list(ROUTE)
            for route, verdict in ((one, admission.decide(routes)[one["metadata"]["uid"]]) for one in routes):
                if "ingress" not in route.get("status", {}):
                    entries = admission.ingress(route, verdict, tekton.rfc3339(tekton.utcnow()), admission.DOMAIN)
                    self.store.set_status(ROUTE, NAMESPACE, route["metadata"]["name"], {"ingress": entries})
            await asyncio.sleep(0.02)

    def backend(self, cookie: str) -> tuple[str, int]:
        """Service and port of the router's next answer: the cookie's while it is there; no port where none can."""
        route = self.store.find(ROUTE, NAMESPACE, NAME)
        weights = router.route_weights(route["spec"]) if route else {}
        slices = self.store.list(ENDPOINT_SLICE, NAMESPACE)
        ports: dict[str, list[int]] = {name: [] for name in weights}
        for one in slices:
            service = one["metadata"]["labels"]["kubernetes.io/service-name"]
            if service in ports and one["endpoints"]:
                ports[service].append(one["ports"][0]["port"])
        kept, _, port = cookie.partition("=")
        if int(port or 0) in ports.get(kept, []):
            return kept, int(port)
        shares = router.achieved_share(weights, {name: len(found) for name, found in ports.items()})
        # An even walk through [0, 1): each share is met as closely as a count can.
        place, low = (next(self.turn) * 0.6180339887498949) % 1.0, 0.0
        for name, share in shares.items():
            low += share
            if share and place < low:
                return name, ports[name][0]
        return "", 0


class Router(BaseHTTPRequestHandler):
    """Passes a request on as the Route's weights say."""

    def do_GET(self) -> None:
        import httpx

        platform: Platform = self.server.platform  # type: ignore[attr-defined]
        service, port = platform.call(lambda: platform.backend(self.headers.get("Cookie", "")))
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{self.path}", trust_env=False) if port else None
        except httpx.HTTPError:
            answer = None
        digest = answer.headers.get(contract.HEADER_MODEL_DIGEST, "") if answer else ""
        platform.answered.append((service, digest))
        self.send_response(answer.status_code if answer else 503)
        if answer:
            self.send_header(contract.HEADER_MODEL_DIGEST, digest)
            self.send_header("Set-Cookie", f"{service}={port}; path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@dataclass
class Target:
    """The platform as the programs see it."""

    platform: Platform
    reports: Path

    def connect(self, kind: type[kube.Cluster] = kube.Cluster) -> kube.Cluster:
        """A connection to the API."""
        from kubernetes import client

        where = client.Configuration(host=f"http://127.0.0.1:{self.platform.api_port}/{TOKEN}")
        where.retries = False
        return kind(client.ApiClient(where), NAMESPACE, deadline_seconds=5)

    @property
    def cluster(self) -> kube.Cluster:
        """A connection of its own."""
        return self.connect()

    def split(self) -> splits.Split:
        """The InferenceService as the driver reads it."""
        return splits.Splits(self.cluster, NAME).require(NAME)

    def stored(self, kind: kube.Kind = kube.INFERENCE_SERVICE, name: str = NAME) -> kube.Object:
        """An object that must exist."""
        found = self.cluster.get(kind, name)
        assert found is not None, f"{kind.name} {name}"
        return found

    def patch(self, change: kube.Object, kind: kube.Kind = kube.INFERENCE_SERVICE) -> None:
        """Change an object as a person would."""
        stored = self.stored(kind)
        self.cluster.patch(kind, NAME, change, stored["metadata"]["resourceVersion"])

    def deploy(self, digest: str, uid: str, **changes: Any) -> deploy.Prepared:
        """Deploy one of the models."""
        return deployed(self.cluster, NAME, digest, VERSIONS[digest], uid, **changes)

    def shifter(
        self, colour: str, digest: str, uid: str, settings: canary.Settings | None = None,
        cluster: kube.Cluster | None = None, **changes: Any,
    ) -> shift.Shifter:  # fmt: skip
        """A shift within this process."""
        given: dict[str, Any] = {
            "model_digest": digest, "model_version": VERSIONS.get(digest, ""), "verify_requests": 20,
            "router_url": f"http://127.0.0.1:{self.platform.router_port}", "verify_timeout_seconds": 10.0,
        }  # fmt: skip
        request = requested(NAME, colour, uid, **given | changes)
        return shift.Shifter(request, cluster or self.cluster, settings, self.reports)


def deployed(
    cluster: kube.Cluster, name: str, digest: str, version: str, uid: str, **changes: Any
) -> deploy.Prepared:  # fmt: skip
    """Deploy as kserve-deploy does, without registry, copy to the store and smoke test."""
    given: dict[str, Any] = {
        "model_name": name, "model_version": version, "model_digest": digest, "route": name, "run_uid": uid,
        "services": {"blue": "unused-blue", "green": "unused-green"}, "model_store": "pvc://claim/models",
        "predictor_image": "isotherm/pinn-api:0.1.0", "driver": contract.DRIVER_ISVC,
    }  # fmt: skip
    model = registered.RegisteredModel(name, version, digest, "dvc-000000")
    location = store.locate("pvc://claim/models", name, digest)
    prepared = deploy.prepare(deploy.Request(**given | changes), cluster, model, location)
    for change in prepared.changes:
        plan.apply(cluster, change)
    readiness.wait(
        cluster, name, prepared.workload, digest, prepared.claimed_by, 60, print, workload=prepared.workload
    )  # fmt: skip
    splits.Splits(cluster, name).refuse_handed_down(prepared.workload)
    return prepared


def requested(name: str, colour: str, uid: str, **given: Any) -> preconditions.Request:
    """Params of route-shift with driver isvc."""
    return preconditions.Request(
        driver=contract.DRIVER_ISVC, route=name, services=splits.services(name), colour=colour, run_uid=uid, **given
    )


@contextmanager
def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A platform without any object."""
    platform = Platform(folder)
    monkeypatch.setattr(Pod, "start", platform.pod)
    expose = platform.controller._expose
    monkeypatch.setattr(platform.controller, "_expose", lambda one: platform.follows and expose(one))
    thread = threading.Thread(target=lambda: platform.loop.run_until_complete(platform.serve()), daemon=True)
    thread.start()
    front = ThreadingHTTPServer(("127.0.0.1", platform.router_port), Router)
    front.platform = platform  # type: ignore[attr-defined]
    threading.Thread(target=lambda: front.serve_forever(0.02), daemon=True).start()
    try:
        eventually(lambda: getattr(platform, "server", None) and platform.server.started, 20, every=0.02)
        yield Target(platform, folder / "reports")
    finally:
        front.shutdown()
        front.server_close()
        platform.server.should_exit = True
        thread.join(10)
        for workload in platform.controller.workloads.values():
            for pod in workload.pods:
                pod.process.send_signal(15)


def objects(target: Target) -> dict[str, list[str]]:
    """Names of what KServe has made."""
    held: dict[str, list[Object]] = target.platform.call(
        lambda: {kind.kind: target.platform.store.list(kind) for kind in (DEPLOYMENT, INFERENCE_SERVICE)}
    )
    return {kind: [one["metadata"]["name"] for one in found] for kind, found in held.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "DRAIN_SECONDS", 0.3)
    monkeypatch.setattr(readiness, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(traffic, "PAUSE_SECONDS", 0.05)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """Version 1 serves, deployed by run-1."""
    with started(tmp_path, monkeypatch) as found:
        found.deploy(ONE, "run-1")
        yield found


@pytest.fixture
def dark(target: Target) -> Target:
    """Version 2 beside it, without traffic, claimed by run-2."""
    target.deploy(TWO, "run-2")
    return target
