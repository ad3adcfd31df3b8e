"""Where two judges are shown the same canaries: two predictors that fail at known rates behind one Route of the lab.

Predictors are InferenceServices whose container is `argo_backend.py` in the catalog's image; Prometheus scrapes them as
it does any other. Clients ask through the router at a fixed rate, whatever it answers.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from e2e.cluster import Space, Target
from waiting import eventually

from isotherm import contract, kube
from isotherm.deploy import readiness, render, routes
from isotherm.deploy.prometheus import Prometheus

NAMESPACE, MODEL, UID = "bench-argo", "plate", "bench"
IMAGE = "isotherm/pinn-api:0.1.0"
SERVICES = routes.pair("blue", "green")
CANARY, STABLE = "green", "blue"
DIGESTS = {colour: hashlib.sha256(colour.encode()).hexdigest() for colour in SERVICES}
VERSIONS = {"blue": "1", "green": "2"}
BACKEND = Path(__file__).with_name("argo_backend.py")
SHIFT_NOTES = ("ANNOTATION_SHIFT", "ANNOTATION_PREVIOUS", "ANNOTATION_CANDIDATE", "ANNOTATION_REJECTED")
# What a window of Prometheus still sees of the run before: it reaches back one scrape before the run began, and the
# scrape itself takes a moment.
QUIET_SECONDS = 7.0


@dataclass(frozen=True)
class Answer:
    """One answer that a client got: when, HTTP status (0: none), whether the canary gave it."""

    at: float
    status: int
    canary: bool

    @property
    def bad(self) -> bool:
        """Whether the canary failed."""
        return self.canary and self.status >= 500


@dataclass
class Clients:
    """Requests at a fixed rate through the router; half of them on connections of their own, half on kept ones."""

    address: tuple[str, int]
    host: str
    per_second: float
    workers: int = 6
    answers: list[Answer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.workers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        period = self.workers / self.per_second
        due, kept = time.monotonic() + number / self.per_second, number % 2 == 0
        headers = {"Host": self.host} | ({} if kept else {"Connection": "close"})
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due + period, time.monotonic() - 1)  # a second that was lost is not made up for
            self.answers.append(Answer(*self._once(connection, headers, again=kept)))
        connection.close()

    def _once(
        self, connection: http.client.HTTPConnection, headers: dict[str, str], *, again: bool
    ) -> tuple[float, int, bool]:
        """One request; on a kept connection that a router's reload has closed once more, as clients do."""
        try:
            connection.request("GET", "/predict-temperature?x=0.5&y=0.5&t=0.1", headers=headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it anew
            return self._once(connection, headers, again=False) if again else (time.monotonic(), 0, False)
        by_canary = answer.headers.get(contract.HEADER_MODEL_DIGEST) == DIGESTS[CANARY]
        return time.monotonic(), answer.status, by_canary

    def since(self, moment: float) -> list[Answer]:
        """Answers from a moment on."""
        return [one for one in list(self.answers) if one.at >= moment]


@dataclass
class Stage:
    """The predictors, their Route, and the clients."""

    space: Space
    cluster: kube.Cluster
    clients: Clients

    @property
    def target(self) -> Target:
        """The cluster and its services."""
        return self.space.target

    def weigh(self, canary: int) -> float:
        """Give the canary this share, or take its backend away, as a person would; returns when that was asked."""
        began = time.monotonic()
        change = routes.backends({STABLE: 100 - canary, CANARY: canary}, SERVICES, alone=not canary)
        own = [value for name, value in vars(contract).items() if name.startswith(SHIFT_NOTES)]
        change |= {"metadata": {"annotations": dict.fromkeys(own)}}
        while True:
            stored = self.cluster.get(kube.ROUTE, MODEL) or {}
            try:
                self.cluster.patch(kube.ROUTE, MODEL, change, stored["metadata"]["resourceVersion"])
            except kube.Conflict:
                continue  # the router noted something in the Route's status
            return began

    def completed(self, kind: kube.Kind, name: str, seconds: int) -> kube.Object:
        """Wait until an object says that it is completed, seen within a tenth of a second, and return it."""

        def ended() -> kube.Object | None:
            found = self.cluster.get(kind, name) or {}
            return found if found.get("status", {}).get("completedAt") else None

        return dict(eventually(ended, seconds, every=0.1))

    def prepare(self, rates: dict[str, float], seed: int) -> None:
        """Rest, then let each predictor fail at its rate."""
        self.rest()
        self.clients.answers = []
        for number, (colour, rate) in enumerate(rates.items()):
            for endpoint in readiness.ready(self.cluster, SERVICES[colour]):
                told = httpx.put(f"{endpoint.url}/failing?rate={rate}&seed={2 * seed + number}", trust_env=False)
                told.raise_for_status()

    def rest(self) -> None:
        """All traffic to stable, until no window of Prometheus sees anything else."""
        self.weigh(0)
        eventually(self._quiet, 60, every=0.5)

    def _quiet(self) -> bool:
        found = self.clients.since(time.monotonic() - QUIET_SECONDS)
        return len(found) > QUIET_SECONDS * self.clients.per_second / 2 and not any(one.canary for one in found)


def _inference_service(colour: str) -> kube.Object:
    """A predictor of the catalog with another program in its container."""
    size = render.Size(cpu="100m", memory="512Mi")
    found = render.inference_service(
        model_name=MODEL, colour=colour, digest=DIGESTS[colour], semver=contract.semver(VERSIONS[colour]),
        data_version="", claimed_by=UID, storage_uri="", size=size,
    )  # fmt: skip
    own = found["spec"]["predictor"].pop("model")
    del found["spec"]["predictor"]["serviceAccountName"]
    restricted = {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {
        "name": "kserve-container", "image": IMAGE, "command": ["python", "-c", BACKEND.read_text()],
        "env": own["env"], "resources": own["resources"], "securityContext": restricted,
        "ports": [{"containerPort": contract.PREDICTOR_PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": contract.PREDICTOR_PORT}},
    }  # fmt: skip
    found["spec"]["predictor"]["containers"] = [container]
    return found


def _objects() -> list[kube.Object]:
    services = [render.service(name=SERVICES[c], model_name=MODEL, colour=c) for c in SERVICES]
    route = render.route(
        name=MODEL, model_name=MODEL, live=STABLE, services=SERVICES, host="", termination="none",
        digest=DIGESTS[STABLE], holder=UID, live_since="",
    )  # fmt: skip
    return [*map(_inference_service, SERVICES), *services, route]


def models() -> dict[str, tuple[str, str, str]]:
    """InferenceService, version and digest by colour, as the judge's source wants them."""
    return {
        colour: (render.inference_service_name(MODEL, colour), contract.semver(VERSIONS[colour]), DIGESTS[colour])
        for colour in SERVICES
    }


@contextmanager
def stage(per_second: float) -> Iterator[Stage]:
    """The stage in a namespace of its own, with clients that ask all the time; deleted with the block."""
    from kubernetes import config

    target = Target.find()
    known = target.kubectl("get", "crd", "-o", "name")
    assert "/analysisruns.argoproj.io" in known, "Argo Rollouts is not there: make lab PARTS=rollouts"
    space = Space(target, NAMESPACE)
    space.remove(wait=True)
    target.kubectl("create", "namespace", NAMESPACE)
    try:
        space.apply(_objects())
        cluster = kube.Cluster(config.new_client_from_config(config_file=target.kubeconfig), NAMESPACE)
        for colour in SERVICES:
            readiness.wait(cluster, models()[colour][0], SERVICES[colour], DIGESTS[colour], UID, 120.0, print)
        found = routes.Routes(cluster, SERVICES)
        eventually(lambda: found.require(MODEL).admitted, 60)
        router = urlsplit(target.router)
        clients = Clients((router.hostname or "", router.port or 80), found.require(MODEL).host, per_second)
        with clients:
            one = Stage(space, cluster, clients)
            _warm(one)
            yield one
    finally:
        space.remove()


def _warm(one: Stage) -> None:
    """Give every counter something to stand at, and wait until Prometheus knows it.

    `increase()` extends what it saw to the whole window, but no counter below zero: errors that start there would come
    out smaller than they are, beside requests that do not.
    """
    with httpx.Client(trust_env=False) as client:
        for colour in SERVICES:
            for endpoint in readiness.ready(one.cluster, SERVICES[colour]):
                client.put(f"{endpoint.url}/failing?rate=0.5&seed=0")
                for _ in range(200):
                    client.get(f"{endpoint.url}/predict-temperature")
    source = Prometheus(one.target.prometheus, NAMESPACE, models(), latency_seconds=0.25)
    eventually(lambda: all(source.read(colour) is not None for colour in SERVICES), 90, every=1)
    one.prepare(dict.fromkeys(SERVICES, 0.0), 0)
