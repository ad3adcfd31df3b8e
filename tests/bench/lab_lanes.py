"""Lanes on the lab: each a Route of the real API with two light models behind it, so that several rollouts run at once.

The first lane has the catalog's own names, so that Task route-shift works there with the rights it is installed with.
The guard of the namespace is the catalog's Deployment, with a variable and a right more for each further lane, as
rollout/guard.yaml says.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import lab_objects
import yaml
from deploy_target import SHIFT_NOTES
from e2e import reach
from e2e.cluster import Space, Target
from e2e.written import Written
from lab_objects import VERSIONS
from rollout_history import Version, violations
from spread import Job, Row, spread
from waiting import eventually

from isotherm import contract, kube
from isotherm.deploy import canary, preconditions, readiness, routes, shift, shifts
from isotherm.deploy.render import inference_service_name

NAMESPACE = "bench-rollout"
LANES = 5
UID = "run-2"  # of a shift that needs no name of its own
EXPIRY_SECONDS = 6.0  # a tenth of the Task's default
ALL_BLUE, ALL_GREEN = {"blue": 100, "green": 0}, {"blue": 0, "green": 100}
MOST_CONFLICTS = 10
KINDS = (kube.ROUTE, kube.INFERENCE_SERVICE, kube.SERVING_RUNTIME, kube.DEPLOYMENT, kube.LEASE, kube.PIPELINE_RUN)


@dataclass(frozen=True)
class Lane:
    """A Route `name`, the Services of its colours, and what a rollout needs to know of them."""

    target: Target
    name: str
    services: routes.Services
    folder: Path

    @property
    def digests(self) -> dict[str, str]:
        """Digest of the model behind each colour; no two lanes share one."""
        return {c: hashlib.sha256(f"{self.name} {c}".encode()).hexdigest() for c in contract.COLOURS}

    @cached_property
    def api(self) -> kube.Cluster:
        """A connection for looking."""
        found: kube.Cluster = self.cluster()
        return found

    @cached_property
    def kubeconfig(self) -> Path:
        """The administrator's, with this namespace as its context's."""
        content = yaml.safe_load(Path(self.target.kubeconfig).read_text())
        for one in content["contexts"]:
            one["context"]["namespace"] = NAMESPACE
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def client(self) -> Any:
        """The administrator's client of the API."""
        from kubernetes import config

        return config.new_client_from_config(self.target.kubeconfig)

    def cluster(self, kind: Callable[..., Any] = kube.Cluster, **options: Any) -> Any:
        """A connection of its own."""
        return kind(self.client(), NAMESPACE, **options)

    def route(self) -> routes.Route:
        """Read the Route."""
        return routes.Routes(self.api, self.services).require(self.name)

    def shifter(
        self, colour: str, settings: canary.Settings | None = None, *, cluster: Any = None, **changes: Any
    ) -> shift.Shifter:
        """Build a shift that runs within this process, against the lab's API."""
        named = colour in contract.COLOURS
        values: dict[str, Any] = {
            "route": self.name, "services": self.services, "colour": colour, "run_uid": UID,
            "model_digest": self.digests[colour] if named else "", "model_version": VERSIONS[colour] if named else "",
            "router_url": self.target.router, "verify_requests": 50, "verify_timeout_seconds": 40.0,
            "expiry_seconds": EXPIRY_SECONDS,
        }  # fmt: skip
        request = preconditions.Request(**(values | changes))
        return shift.Shifter(request, cluster or self.cluster(), settings, self.folder)

    def patch(self, kind: kube.Kind, name: str, change: kube.Object) -> kube.Object:
        """Change an object as somebody else would; the router's notes in between do not matter."""
        for _ in range(MOST_CONFLICTS):
            stored = self.api.get(kind, name)
            assert stored is not None, f"{kind.name} {name}"
            try:
                return self.api.patch(kind, name, change, stored["metadata"]["resourceVersion"])
            except kube.Conflict:
                continue
        raise AssertionError(f"{kind.name} {name} kept changing")

    def claim(self, uid: str) -> None:
        """Let both colours be a PipelineRun's, as kserve-deploy leaves the one that it prepared."""
        for colour in contract.COLOURS:
            notes = {"metadata": {"annotations": {contract.ANNOTATION_CLAIMED_BY: uid}}}
            self.patch(kube.INFERENCE_SERVICE, inference_service_name(self.name, colour), notes)

    def reset(self, uid: str = UID) -> str:
        """Everything to blue, no owner, no note of a former shift, both colours `uid`'s, both models well. Returns the
        Route's resourceVersion.
        """
        self.claim(uid)
        for colour in contract.COLOURS:
            self.behave(colour)
        own = [value for name, value in vars(contract).items() if name.startswith(SHIFT_NOTES)]
        notes = dict.fromkeys(own, None) | {contract.ANNOTATION_LIVE_DIGEST: self.digests["blue"]}
        change = routes.backends(ALL_BLUE, self.services)
        change["metadata"] = {"annotations": notes, "ownerReferences": None}
        found = self.patch(kube.ROUTE, self.name, change)
        return str(found["metadata"]["resourceVersion"])

    def wait_until_served(self) -> None:
        """Wait for the router, and begin."""
        eventually(lambda: self.route().admitted and self.route().host, 60)
        self.reset()
        eventually(lambda: set(self.answers(5)) == {"blue"}, 60)

    def split(self, weights: routes.Weights) -> None:
        """Set weights as a person does."""
        self.patch(kube.ROUTE, self.name, routes.backends(weights, self.services))

    def behave(self, colour: str, **how: float) -> None:
        """Tell a colour's pods what to do to those who ask (`light_predictor.Behaviour`)."""
        for endpoint in readiness.ready(self.api, self.services[colour]):
            httpx.post(f"{endpoint.url}/behave", params=how, timeout=10, trust_env=False).raise_for_status()

    def answers(self, requests: int) -> Counter[str]:
        """Who answers that many requests through the router, each on a connection of its own; what is no model's answer
        counts by its status.
        """
        where, host = urlsplit(self.target.router), self.route().host
        colours, found = {digest: colour for colour, digest in self.digests.items()}, Counter[str]()
        for _ in range(requests):
            connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=10)
            connection.request("GET", readiness.MODEL_PATH, headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            found[colours.get(answer.getheader(contract.HEADER_MODEL_DIGEST) or "", str(answer.status))] += 1
        return found

    def objects(self) -> set[str]:
        """Kind and name of all that a deployment or a shift could add to the namespace; Events are counted apart."""
        found = {f"{kind.name} {one['metadata']['name']}" for kind in KINDS for one in self.api.list(kind, "")}
        core = self.api._core
        for call in (core.list_namespaced_service, core.list_namespaced_config_map, core.list_namespaced_secret):
            found |= {f"{call.__name__} {one.metadata.name}" for one in call(NAMESPACE).items}
        return found

    def events(self) -> int:
        """How many Events tell of this Route."""
        return sum(one.get("regarding", {}).get("name") == self.name for one in self.api.list(kube.EVENT, ""))

    def legal(self, *ends: routes.Weights) -> str:
        """Say what is wrong with the Route where a shift should have ended; empty where nothing is."""
        found = self.route()
        if found.shifting or dict(found.weights) not in (ends or (ALL_BLUE, ALL_GREEN)):
            return f"the Route ends with {routes.describe(found.weights)}, pending: {found.shifting}"
        return ""


@dataclass(frozen=True)
class Stage:
    """The namespace, its lanes, and the watch over their Routes."""

    space: Space
    lanes: list[Lane]
    written: Written

    def spread(self, jobs: Iterable[Job], work: Callable[[Lane, Job], Row], lanes: int = LANES) -> list[Row]:
        """Do the jobs on so many lanes at once."""
        return spread(self.lanes[:lanes], jobs, work)

    def history(self, lane: Lane, since: str) -> list[Version]:
        """The versions of a lane's Route from this one on, once the watch has seen the newest."""
        newest = int(lane.route().resource_version)

        def caught_up() -> list[Version] | None:
            found = [v for place, seen in self.written.histories() if place[1] == lane.name for v in seen]
            seen = [version for version in found if int(version.resource_version) >= int(since)]
            return seen if seen and int(seen[-1].resource_version) >= newest else None

        seen: list[Version] = eventually(caught_up, 60)
        return seen

    def holders(self, lane: Lane, since: str) -> set[str]:
        """The runs that have held a lane's Route from this version on; the guard is none."""
        return {version.holder for version in self.history(lane, since)} - {"", shifts.GUARD}

    def wrong(self, lane: Lane, since: str, *holders: str, steps: tuple[int, ...] = ()) -> list[str]:
        """What must never happen to a Route and did; `steps` are those that the holders may give the colour."""
        assert not self.written.gap, "the watch has missed versions"
        plans: dict[str, Sequence[int]] | None = dict.fromkeys(holders, (*steps, 100)) if steps else None
        return violations(self.history(lane, since), plans)


@contextmanager
def stage(count: int = LANES) -> Iterator[Stage]:
    """Everything made anew, and removed with the block."""
    target = Target.find()
    folder = Path(tempfile.mkdtemp(prefix="lanes-"))
    names = {contract.DEFAULT_MODEL_NAME: routes.pair("blue", "green")}
    names |= {f"lane-{n}": routes.pair(f"lane-{n}-blue", f"lane-{n}-green") for n in range(1, count)}
    lanes = [Lane(target, name, services, folder / name) for name, services in names.items()]
    try:
        with reach.namespace(NAMESPACE, reach.RESTRICTED), Written(target.kubeconfig, {NAMESPACE}, names) as written:
            space = Space(target, NAMESPACE)
            space.apply(lab_objects.catalog(names, NAMESPACE))
            for lane in lanes:
                lane.folder.mkdir()
                space.apply(lab_objects.lane(lane.name, lane.services, lane.digests))
            for deployment in space.kubectl("get", "deployments", "-o", "name").split():
                space.kubectl("rollout", "status", deployment, "--timeout=180s")
            for lane in lanes:
                lane.wait_until_served()
            yield Stage(space, lanes, written)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
