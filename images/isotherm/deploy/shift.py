"""Shift a Route's traffic to a colour and prove it on the data plane (Task route-shift).

Reads   ROUTE SERVICE_BLUE SERVICE_GREEN, COLOUR (blue, green, or previous = rollback), MODEL_DIGEST MODEL_VERSION
        (empty with previous), WEIGHT (percent to that colour), ROUTER_URL VERIFY_REQUESTS VERIFY_TIMEOUT_SECONDS,
        PIPELINE_RUN_UID; folder REPORTS_DIR
Writes  the Route's weights and annotations in one compare-and-set write; shift.json
Result  RESULT_OUTCOME RESULT_ROUTE_BEFORE RESULT_ROUTE_AFTER RESULT_OBSERVED_SHARE RESULT_LIVE_COLOUR
        RESULT_LIVE_DIGEST RESULT_LIVE_VERSION

A shift that the data plane does not confirm is taken back. A rollback is not: the model it leaves is the one in doubt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isotherm import contract, kube, tekton
from isotherm.deploy import readiness, routes, shifts, traffic
from isotherm.deploy import weights as router

ATTEMPTS = 5


@dataclass(frozen=True)
class Request:
    """What to shift: the Task's params, checked."""

    route: str
    services: routes.Services
    colour: str
    model_digest: str
    model_version: str
    run_uid: str
    weight: int = 100
    router_url: str = ""
    verify_requests: int = 200
    verify_timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
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
        if self.rollback and self.weight != 100:
            raise tekton.BadInput("a rollback moves all traffic", remedy="leave param weight at 100")
        if not self.rollback and not self.model_digest:
            raise tekton.BadInput("param model-digest is empty", remedy="give the digest that kserve-deploy returned")

    @property
    def rollback(self) -> bool:
        """Whether this goes back to the colour that was live before."""
        return self.colour == shifts.PREVIOUS


@dataclass(frozen=True)
class Colour:
    """What stands behind a colour: its InferenceService's notes and its endpoints."""

    digest: str
    semver: str
    claimed_by: str
    endpoints: int


@dataclass(frozen=True)
class Checked:
    """A plan whose preconditions hold, with what the verification compares answers to."""

    route: routes.Route
    plan: shifts.Plan
    colours: Mapping[str, Colour]

    def expected(self, weights: routes.Weights) -> list[traffic.Expected]:
        """What the router should make of these weights, with the endpoints that there are."""
        endpoints = {name: colour.endpoints for name, colour in self.colours.items()}
        digests = {name: colour.digest for name, colour in self.colours.items()}
        return traffic.expectations(digests, router.expected_shares(weights, endpoints))


class Shifter:
    """One shift of one Route."""

    def __init__(self, request: Request, cluster: kube.Cluster) -> None:
        self.request = request
        self.cluster = cluster
        self.routes = routes.Routes(cluster, request.services)

    def check(self) -> Checked:
        """Read everything anew, plan, and check the preconditions. Reads only.

        Raises `tekton.Refused` saying which precondition does not hold.
        """
        request = self.request
        # The model name is the InferenceService's label, found through the Service: rollback gets no model param.
        colours = {colour: self._behind(service) for colour, service in request.services.items()}
        route = self.routes.require(request.route)
        if not route.admitted:
            raise tekton.Refused(
                f"no router carries Route {route.name}: {route.not_admitted_because}",
                remedy="check the router and the Route's host; nothing was changed",
            )
        target = shifts.target(route, request.colour, request.run_uid)
        now = tekton.rfc3339(tekton.utcnow())
        digests = {name: colour.digest for name, (colour, _) in colours.items()}
        plan = shifts.plan(route, target, request.weight, digests, request.run_uid, now)
        self._refuse_wrong_model(route, plan, colours[target][0])
        behind = {}
        for name, (colour, inference_service) in colours.items():
            serving = plan.after[name] > 0 or plan.before[name] > 0
            behind[name] = (
                self._ready(name, colour, inference_service, must=plan.after[name] > 0) if serving else colour
            )
        return Checked(route, plan, behind)

    def _refuse_wrong_model(self, route: routes.Route, plan: shifts.Plan, target: Colour) -> None:
        request, name = self.request, plan.target
        if request.rollback:
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

    def _behind(self, service: str) -> tuple[Colour, str]:
        """Follow a Service's selector to its InferenceService; empty values where one of them is missing."""
        stored = self.cluster.get(kube.SERVICE, service)
        selector = ((stored or {}).get("spec") or {}).get("selector") or {}
        name = selector.get("serving.kserve.io/inferenceservice", "")
        found = self.cluster.get(kube.INFERENCE_SERVICE, name) if name else None
        notes = ((found or {}).get("metadata") or {}).get("annotations") or {}
        keys = (contract.ANNOTATION_MODEL_DIGEST, contract.ANNOTATION_MODEL_VERSION, contract.ANNOTATION_CLAIMED_BY)
        digest, semver, claimed_by = (str(notes.get(key, "")) for key in keys)
        return Colour(digest, semver, claimed_by, 0), name if found else ""

    def _ready(self, name: str, colour: Colour, inference_service: str, *, must: bool) -> Colour:
        """Count a colour's endpoints; a colour that shall get traffic must be ready with its digest."""
        service = self.request.services[name]
        if must:
            lacking = f"Service {service} leads to no InferenceService"
            if inference_service:
                lacking = readiness.state(self.cluster, inference_service, service, colour.digest, colour.claimed_by)
            if lacking:
                raise tekton.Refused(
                    f"{name} cannot take traffic: {lacking}", remedy="make it ready; nothing was changed"
                )
        ready = [endpoint for endpoint in readiness.endpoints(self.cluster, service) if endpoint.ready]
        return replace(colour, endpoints=len(ready))

    def shift(self) -> dict[str, Any]:
        """Plan, write, verify, and take back what the data plane does not confirm. Returns the report (`shift.json`).

        Raises `tekton.Refused` where nothing was changed; a report with a `problem` says what was done after the write.
        """
        checked = self.check()
        plan = checked.plan
        _say(f"Route {checked.route.name}: {routes.describe(plan.before)} -> {routes.describe(plan.after)}")
        with traffic.Router(self.request.router_url, checked.route.host, tls=checked.route.tls) as client:
            self._probe(client)
            if not plan.changes:
                return self._report(checked, checked.route, self._verify(client, checked, plan.after), restored=False)
            checked, written = self._write(checked)
            verdict = self._verify(client, checked, plan.after)
            if not verdict.problem or self.request.rollback:
                return self._report(checked, written, verdict, restored=False)
            _say(f"taking the shift back: {verdict.problem}")
            return self._restore(client, checked, written, verdict)

    def _probe(self, client: traffic.Router) -> None:
        """Wait until the router can be reached, before anything changes; a rollback goes ahead without."""
        deadline = time.monotonic() + self.request.verify_timeout_seconds
        while True:
            try:
                client.ask()
                return
            except tekton.Unavailable as error:
                if self.request.rollback:
                    _say(f"warning: {error.what}")
                    return
                if time.monotonic() >= deadline:
                    raise
            time.sleep(traffic.PAUSE_SECONDS)

    def _write(self, checked: Checked) -> tuple[Checked, routes.Route]:
        """Write weights and notes if the Route is as planned; after a conflict that changed neither, look again."""
        for _ in range(ATTEMPTS):
            try:
                return checked, self.routes.write(checked.route, checked.plan.after, checked.plan.annotations)
            except kube.Conflict:
                newer = self.check()
                if shifts.interfered(checked.route, newer.route):
                    raise kube.Conflict(
                        f"somebody set Route {newer.route.name} to {routes.describe(newer.route.weights)} "
                        f"in the meantime",
                        remedy="find out who, then run again; nothing was changed",
                    ) from None
                checked = newer
        raise kube.Conflict(f"Route {checked.route.name} kept changing", remedy="run again; nothing was changed")

    def _verify(self, client: traffic.Router, checked: Checked, weights: routes.Weights) -> traffic.Verdict:
        expected = checked.expected(weights)
        verdict = traffic.verify(
            client,
            expected,
            requests=self.request.verify_requests,
            timeout_seconds=self.request.verify_timeout_seconds,
            say=_say,
        )
        seen = ", ".join(f"{one.name} {verdict.window.by_digest[one.digest]}" for one in expected)
        _say(f"answers through the Route: {seen} of {verdict.window.requests}")
        return verdict

    def _restore(
        self, client: traffic.Router, checked: Checked, written: routes.Route, verdict: traffic.Verdict
    ) -> dict[str, Any]:
        """Put the former weights back if the Route still is as this shift left it, and verify again."""
        problem, after = verdict.problem, written
        for _ in range(ATTEMPTS):
            try:
                after = self.routes.write(after, checked.plan.before, shifts.undo(checked.route, after))
                break
            except kube.Conflict:
                after = self.routes.require(self.request.route)
                if shifts.interfered(written, after):
                    problem += f"; not restored, as somebody set {routes.describe(after.weights)} in the meantime"
                    return self._report(checked, after, replace(verdict, problem=problem), restored=False)
        restored = after.weights == checked.plan.before
        if not restored:
            problem += "; NOT RESTORED, the Route kept changing"
        else:
            again = self._verify(client, checked, checked.plan.before)
            problem += f"; restored to {routes.describe(after.weights)}"
            problem += f", which the data plane does not confirm: {again.problem}" if again.problem else " and verified"
        return self._report(checked, after, replace(verdict, problem=problem), restored=restored)

    def _report(
        self, checked: Checked, after: routes.Route, verdict: traffic.Verdict, *, restored: bool
    ) -> dict[str, Any]:
        plan, window = checked.plan, verdict.window
        live = after.stable or plan.target
        if not after.split and after.live:
            live = after.live
        outcome = "failed" if verdict.problem else "shifted" if plan.changes else "unchanged"
        share = window.share(checked.colours[plan.target].digest)
        return {
            "route": after.name, "host": after.host, "before": dict(plan.before), "after": dict(after.weights),
            "observed": {plan.target: round(share, 4), "n": window.requests}, "outcome": outcome, "restored": restored,
            "problem": verdict.problem, "rollback": self.request.rollback,
            "resource_version_before": checked.route.resource_version, "resource_version_after": after.resource_version,
            "live_colour": live, "live_digest": checked.colours[live].digest,
            "live_version": shifts.registry_version(checked.colours[live].semver),
        }  # fmt: skip


def _say(line: str) -> None:
    print(line, flush=True)


def run() -> None:
    """Shift, and leave report and results."""
    empty = dict.fromkeys(
        ("outcome", "route_before", "route_after", "observed_share", "live_colour", "live_digest", "live_version"), ""
    )
    with tekton.results(**empty) as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_SHIFT, "route-shift") as report:
            report.update(_from_environment())
            results.route_before = routes.describe(report["before"])
            results.route_after = routes.describe(report["after"])
            results.live_colour, results.live_digest = report["live_colour"], report["live_digest"]
            results.live_version = report["live_version"]
            share = next(value for key, value in report["observed"].items() if key != "n")
            results.observed_share = f"{share:.4f}"
            if report["problem"]:
                raise tekton.Refused(
                    f"the data plane does not confirm the shift of Route {report['route']}: {report['problem']}",
                    remedy="see shift.json and the router's log, then run again",
                )
        results.outcome = report["outcome"]


def _from_environment() -> dict[str, Any]:
    """Shift what the environment asks for."""
    env = tekton.environment(
        route=str, service_blue=str, service_green=str, colour=str, model_digest=str, model_version=str, weight=int,
        router_url=str, verify_requests=int, verify_timeout_seconds=float, pipeline_run_uid=str,
    )  # fmt: skip
    request = Request(
        route=env.route, services=routes.pair(env.service_blue, env.service_green), colour=env.colour,
        model_digest=env.model_digest, model_version=env.model_version, run_uid=env.pipeline_run_uid,
        weight=env.weight, router_url=env.router_url, verify_requests=env.verify_requests,
        verify_timeout_seconds=env.verify_timeout_seconds,
    )  # fmt: skip
    return Shifter(request, kube.Cluster.from_config()).shift()


def main() -> int:
    """Run as the Task route-shift does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
