"""What must hold before a Route's weights change: checked against everything as it is now, reads only.

Reads   the Route, both colours' Services, InferenceServices, Deployments and EndpointSlices
Writes  nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from isotherm import contract, kube, tekton
from isotherm.deploy import readiness, routes, shifts, traffic
from isotherm.deploy import weights as router
from isotherm.deploy.behind import Colour


@dataclass(frozen=True)
class Request:
    """What to shift: the Task's params, checked."""

    route: str
    services: routes.Services
    colour: str
    model_digest: str
    model_version: str
    run_uid: str
    driver: str = contract.DRIVER_ROUTE
    weight: int = 100
    router_url: str = ""
    verify_requests: int = 200
    verify_timeout_seconds: float = 60.0
    expiry_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.driver not in contract.DRIVERS:
            raise tekton.BadInput(f"param driver is {self.driver[:40]!r}", remedy="give route or isvc")
        if self.colour not in (*contract.COLOURS, shifts.PREVIOUS):
            raise tekton.BadInput(f"param colour is {self.colour[:40]!r}", remedy="give blue, green or previous")
        if not 0 <= self.weight <= 100:
            raise tekton.BadInput(f"param weight is {self.weight}", remedy="give 0 to 100")
        if not self.run_uid:
            raise tekton.BadInput("param pipeline-run-uid is empty", remedy="give $(context.pipelineRun.uid)")
        if self.verify_requests < 1 or not self.verify_timeout_seconds > 0:
            raise tekton.BadInput(
                "params verify-requests and verify-timeout-seconds must be above 0", remedy="give such as 200 and 60"
            )
        if not self.expiry_seconds > 0:
            raise tekton.BadInput("param expiry-seconds must be above 0", remedy="give such as 60")
        if self.rollback and self.weight != 100:
            raise tekton.BadInput("a rollback moves all traffic", remedy="leave param weight at 100")
        if not self.rollback and not self.model_digest:
            raise tekton.BadInput("param model-digest is empty", remedy="give the digest that kserve-deploy returned")

    @property
    def rollback(self) -> bool:
        """Whether this goes back to the colour that was live before."""
        return self.colour == shifts.PREVIOUS

    def expiry(self) -> str:
        """Until when a write of now may stay unconfirmed."""
        return tekton.rfc3339(tekton.utcnow() + timedelta(seconds=self.expiry_seconds))


@dataclass(frozen=True)
class Checked:
    """A plan whose preconditions hold, with what the verification compares answers to."""

    route: routes.Route
    plan: shifts.Plan
    colours: Mapping[str, Colour]

    def expected(self, weights: routes.Weights) -> list[traffic.Expected]:
        """What the router should make of these weights, with the endpoints that there are."""
        digests = {name: colour.digest for name, colour in self.colours.items()}
        return traffic.expectations(digests, self._shares(weights))

    @property
    def share(self) -> float:
        """Share of the traffic, 0 to 1, that the target really gets of the planned weights."""
        return self._shares(self.plan.after)[self.plan.target]

    def _shares(self, weights: routes.Weights) -> dict[str, float]:
        return router.expected_shares(weights, {name: colour.endpoints for name, colour in self.colours.items()})


class Preconditions:
    """Looks at a Route and what stands behind it, for one request."""

    def __init__(self, request: Request, cluster: kube.Cluster, found: routes.Driver) -> None:
        self.request = request
        self.cluster = cluster
        self.routes = found

    def check(self, weight: int) -> Checked:
        """Read everything anew, plan to give the colour `weight` percent, and check what must hold.

        Raises `tekton.Refused` saying which precondition does not hold.
        """
        request = self.request
        route, colours = self.routes.look(request.route)
        route.refuse_unserved()
        target = shifts.target(route, self._asked(route, colours), request.run_uid)
        now = tekton.rfc3339(tekton.utcnow())
        digests = {name: colour.digest for name, colour in colours.items()}
        expires = "" if request.rollback else request.expiry()
        plan = shifts.plan(route, target, weight, digests, request.run_uid, now, expires)
        self._refuse_wrong_model(route, plan, colours[target])
        behind = {}
        for name, colour in colours.items():
            serving = plan.after[name] > 0 or plan.before[name] > 0
            behind[name] = self._ready(name, colour, must=plan.after[name] > 0) if serving else colour
        return Checked(route, plan, behind)

    def counted(self, colours: Mapping[str, Colour]) -> Mapping[str, Colour]:
        """These colours with the endpoints that are ready now."""
        return {
            name: replace(colour, endpoints=len(readiness.ready(self.cluster, self.routes.services[name])))
            for name, colour in colours.items()
        }

    def _asked(self, route: routes.Route, colours: Mapping[str, Colour]) -> str:
        """The colour asked for; where it is empty and the live one has its model already, that one."""
        colour, live = self.request.colour, route.live
        settled = live is not None and colour in colours and not colours[colour].digest
        return live if live and settled and colours[live].digest == self.request.model_digest else colour

    def _refuse_wrong_model(self, route: routes.Route, plan: shifts.Plan, target: Colour) -> None:
        request, name = self.request, plan.target
        if request.rollback:
            if plan.changes:
                route.refuse_no_way_back(name)
            if plan.changes and target.digest == route.annotations.get(contract.ANNOTATION_REJECTED_DIGEST):
                raise tekton.Refused(
                    f"{name} holds model {target.digest[:12]}, whose shift was taken back: that is no way back",
                    remedy="deploy and shift the registered version that you want",
                )
            noted = route.annotations.get(contract.ANNOTATION_PREVIOUS_DIGEST, "")
            if noted and plan.target == route.annotations.get(contract.ANNOTATION_PREVIOUS) and target.digest != noted:
                raise tekton.Refused(
                    f"{name} holds model {target.digest[:12]} by now, not {noted[:12]}, which was live before",
                    remedy="deploy and shift the registered version that you want back",
                )
            return
        if target.digest != request.model_digest:
            raise tekton.Refused(
                f"{name} holds model {target.digest[:12] or '(none)'}, not {request.model_digest[:12]}",
                remedy="run kserve-deploy again; nothing was changed",
            )
        if request.model_version and target.semver != contract.semver(request.model_version):
            raise tekton.Refused(
                f"{name} holds version {target.semver}, not registry version {request.model_version}",
                remedy="run kserve-deploy again; nothing was changed",
            )
        if plan.changes and target.claimed_by != request.run_uid:
            raise tekton.Refused(
                f"{name} was claimed by PipelineRun {target.claimed_by or '(unknown)'} in the meantime, not "
                f"by {request.run_uid}",
                remedy="start the pipeline again; nothing was changed",
            )

    def _ready(self, name: str, colour: Colour, *, must: bool) -> Colour:
        """Count a colour's endpoints; a colour that shall get traffic must be ready with its digest."""
        service = self.routes.services[name]
        if must:
            lacking = f"Service {service} leads to no InferenceService"
            if colour.inference_service:
                lacking = readiness.state(
                    self.cluster, colour.inference_service, service, colour.digest, colour.claimed_by, colour.deployment
                )
            if lacking:
                raise tekton.Refused(
                    f"{name} cannot take traffic: {lacking}", remedy="make it ready; nothing was changed"
                )
        return replace(colour, endpoints=len(readiness.ready(self.cluster, service)))
