"""Shift a Route's traffic to a colour and prove it on the data plane (Task route-shift).

Reads   DRIVER (route, or isvc: an InferenceService's spec.canary), ROUTE SERVICE_BLUE SERVICE_GREEN, COLOUR (blue,
        green, or previous = rollback), MODEL_DIGEST MODEL_VERSION (empty with previous), WEIGHT (percent to that
        colour), ROUTER_URL VERIFY_REQUESTS VERIFY_TIMEOUT_SECONDS, EXPIRY_SECONDS, PIPELINE_RUN_UID; of a canary
        STEP_WEIGHTS (empty: at once) INTERVAL_SECONDS BAKE_SECONDS HOLD_SECONDS MAX_ERROR_RATE MAX_RATIO
        LATENCY_SECONDS PROBES_PER_SECOND PROMETHEUS_URL (empty: the predictors are asked), optional credentials in
        PROMETHEUS_CREDENTIALS_DIR; folder REPORTS_DIR
Writes  the Route's weights and annotations in one compare-and-set write a step (driver isvc: the InferenceService's
        trafficPercent and notes); an Event on it; shift.json, decisions/WEIGHT.jsonl
Result  RESULT_OUTCOME RESULT_CANARY_VERDICT RESULT_ROUTE_BEFORE RESULT_ROUTE_AFTER RESULT_OBSERVED_SHARE
        RESULT_LIVE_COLOUR RESULT_LIVE_DIGEST RESULT_LIVE_VERSION

A shift that the data plane does not confirm, or a canary that the judge does not promote, is taken back. A rollback is
not: the model it leaves is the one in doubt.
Until it is confirmed a shift is pending: its expiry stands on the Route, and the guard takes it back once that passes.
With driver isvc blue is the predictor and green its canary; a shift ends with the new model on blue and no green.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isotherm import contract, kube, tekton
from isotherm.deploy import notices, routes, settle, shifts, splits, traffic
from isotherm.deploy.bake import Pace
from isotherm.deploy.canary import Canary, Settings, steps, token
from isotherm.deploy.pending import ATTEMPTS, Interfered, Pending
from isotherm.deploy.preconditions import Checked, Preconditions, Request
from isotherm.rollout.judge import Verdict


def _nothing() -> None:
    """Nothing is pending, so nothing has to be kept alive."""


@dataclass
class Course:
    """How far a shift has come: where it began, the step that it is at, and what it leaves on the Route."""

    origin: Checked
    checked: Checked
    pending: Pending | None = None
    settled: splits.Split | None = None
    moved: bool = False  # whether there is something to take back
    confirmed: bool = False  # whether the data plane has shown the last weight
    verdict: traffic.Verdict = field(default_factory=lambda: traffic.Verdict(traffic.Window(), ""))
    steps: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def route(self) -> routes.Route:
        """The Route as this shift knows it last."""
        return self.settled or (self.pending.route if self.pending else self.checked.route)


class Shifter:
    """One shift of one Route: at once, or by the steps of a canary."""

    def __init__(
        self, request: Request, cluster: kube.Cluster, settings: Settings | None = None, reports: Path = Path()
    ) -> None:
        self.request = request
        self.cluster = cluster
        self.settings = settings or Settings()
        self.settings.require_fit(request)
        self.reports = reports
        self.routes = self._driver()
        self.preconditions = Preconditions(request, cluster, self.routes)

    def _driver(self) -> routes.Driver:
        if self.request.driver == contract.DRIVER_ISVC:
            return splits.Splits(self.cluster, self.request.route)
        return routes.Routes(self.cluster, self.request.services)

    def check(self, weight: int | None = None) -> Checked:
        """Check what must hold, anew, for this weight or the last one. Raises `tekton.Refused`."""
        return self.preconditions.check(self.request.weight if weight is None else weight)

    def shift(self) -> dict[str, Any]:
        """Plan, write, verify, judge, and take back what does not hold. Returns the report (`shift.json`).

        Raises `tekton.Refused` where nothing was changed; a report with a `problem` says what was done after the write.
        """
        checked = self.check()
        ahead = self._ahead(checked)
        if ahead:
            checked = self.check(ahead[0])
        course = Course(checked, checked)
        with (
            traffic.Router(self.request.router_url, checked.route.host, tls=checked.route.tls) as client,
            Canary(self.settings, self.cluster, self.routes.services, checked, self.reports, _say) as canary,
        ):
            self._probe(client)
            try:
                problem = self._walk(client, canary, course, ahead) or self._settle(client, course)
            except Interfered as error:
                course.verdict = replace(course.verdict, problem=f"{error}; it is left as it is")
                return self._report(course, error.route, restored=False)
            course.verdict = replace(course.verdict, problem=problem)
            if problem and course.moved and not self.request.rollback and not course.confirmed:
                _say(f"taking the shift back: {problem}")
                return self._restore(client, course)
            after = self._without_canary(course.route) if problem and self.request.rollback else course.route
            return self._report(course, after, restored=False)

    def _walk(self, client: traffic.Router, canary: Canary, course: Course, ahead: Sequence[int]) -> str:
        """Go from step to step to the last weight and confirm it; say why that did not work. Raises `Interfered`."""
        for weight in [*ahead, self.request.weight]:
            try:
                if weight != course.checked.plan.after[course.checked.plan.target] or course.pending:
                    course.checked = self.check(weight)
                pending = course.pending = self._write(course)
            except tekton.TaskError as error:
                if not course.moved:
                    raise
                return error.what
            course.verdict = self._verify(client, course.checked, course.checked.plan.after, beat=pending)
            if course.verdict.problem:
                return course.verdict.problem
            if weight in ahead:
                at = round(time.monotonic() - course.began, 1)
                baked = canary.step(weight, pending)
                target = course.checked.colours[course.checked.plan.target]
                course.steps.append(
                    {
                        "weight": weight,
                        "share": round(course.checked.share, 4),
                        "observed": round(course.verdict.window.share(target.digest), 4),
                        "began": at,
                        **baked.as_dict(),
                    }
                )
                if baked.verdict is not Verdict.PROMOTE:
                    return f"the canary is rolled back at {weight} %: {baked.reason}"
        if course.pending is not None:
            course.pending.confirm()
            course.confirmed = True
            if course.moved:
                judged = ", ".join(f"{step['weight']} % {step['verdict']}" for step in course.steps)
                self._tell(course.route, notices.SHIFTED, f"confirmed by the data plane {judged}".rstrip())
        return ""

    def _settle(self, client: traffic.Router, course: Course) -> str:
        """With driver isvc: leave the live model on the predictor and no canary; say why that did not work."""
        split = course.route
        if not isinstance(self.routes, splits.Splits) or not isinstance(split, splits.Split) or split.live is None:
            return ""
        if split.settled and not self.request.rollback:
            return ""
        settling = settle.Settling(self.routes, _say)
        try:
            after = settling.settle(split)
        except tekton.TaskError as error:
            return f"all traffic is on the right model, but {split} is not settled: {error.what}"
        course.settled = after
        seen = replace(course.checked, route=after, colours=self.preconditions.counted(after.colours))
        again = self._verify(client, seen, after.weights)
        return again.problem and f"{after} is settled, which the data plane does not confirm: {again.problem}"

    def _ahead(self, checked: Checked) -> list[int]:
        """The steps before the last weight; a run that goes on with what it left does not repeat those that it passed,
        and one whose model has all traffic already has none.
        """
        plan = checked.plan
        share = plan.before[plan.target]
        if share == self.request.weight and checked.route.expires is None:
            return []
        return [step for step in self.settings.steps if step >= share]

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

    def _write(self, course: Course) -> Pending:
        """Write weights and notes if the Route is as planned; after a conflict that changed neither, look again."""
        checked = course.checked
        plan = checked.plan
        _say(f"{checked.route}: {routes.describe(plan.before)} -> {routes.describe(plan.after)}")
        if 0 < plan.after[plan.target] < 100:
            # Weights become whole numbers up to 256 per endpoint: not every share can be had.
            _say(f"asked for {plan.after[plan.target]} % on {plan.target}, the router gives {checked.share:.2%}")
        written = checked.route
        if plan.changes:
            written = self._written(course)
        course.moved = course.moved or plan.changes or checked.route.expires is not None
        return Pending(self.routes, written, self.request.expiry_seconds, self.request.expiry)

    def _written(self, course: Course) -> routes.Route:
        for _ in range(ATTEMPTS):
            plan, route = course.checked.plan, course.checked.route
            try:
                return self.routes.write(route, plan.after, plan.annotations, alone=plan.back)
            except kube.Conflict:
                newer = self.check(plan.after[plan.target])
                if shifts.interfered(route, newer.route):
                    if course.moved:
                        raise Interfered(newer.route) from None
                    raise kube.Conflict(
                        f"somebody set {newer.route} to {routes.describe(newer.route.weights)} in the meantime",
                        remedy="find out who, then run again; nothing was changed",
                    ) from None
                course.checked = newer
        raise kube.Conflict(f"{course.checked.route} kept changing", remedy="run again")

    def _verify(
        self, client: traffic.Router, checked: Checked, weights: routes.Weights, *, beat: Callable[[], None] = _nothing
    ) -> traffic.Verdict:
        expected = checked.expected(weights)
        verdict = traffic.verify(
            client,
            expected,
            requests=self.request.verify_requests,
            timeout_seconds=self.request.verify_timeout_seconds,
            say=_say,
            beat=beat,
        )
        seen = ", ".join(f"{one.name} {verdict.window.by_digest[one.digest]}" for one in expected)
        _say(f"answers through the Route: {seen} of {verdict.window.requests}")
        return verdict

    def _restore(self, client: traffic.Router, course: Course) -> dict[str, Any]:
        """Put the former weights back if the Route still is as this shift left it, and verify again."""
        written = after = course.route
        problem = course.verdict.problem
        for _ in range(ATTEMPTS):
            weights, notes = self._former(course, after)
            try:
                after = self.routes.write(after, weights, notes, alone=0 in weights.values())
                break
            except kube.Conflict:
                after = self.routes.require(self.request.route)
                if shifts.interfered(written, after):
                    problem += f"; not restored, as somebody set {routes.describe(after.weights)} in the meantime"
                    course.verdict = replace(course.verdict, problem=problem)
                    return self._report(course, after, restored=False)
        restored = after.weights == weights
        if not restored:
            problem += "; NOT RESTORED, the Route kept changing"
        else:
            again = self._verify(client, course.checked, weights)
            problem += f"; restored to {routes.describe(after.weights)}"
            problem += f", which the data plane does not confirm: {again.problem}" if again.problem else " and verified"
        course.verdict = replace(course.verdict, problem=problem)
        if restored:
            self._tell(after, notices.TAKEN_BACK, problem)
            after = self._without_canary(after)
        return self._report(course, after, restored=restored)

    def _without_canary(self, after: routes.Route) -> routes.Route:
        """With driver isvc: take the canary out whose shift was taken back; where that fails, the guard does."""
        if not isinstance(self.routes, splits.Splits) or not isinstance(after, splits.Split):
            return after
        try:
            return settle.Settling(self.routes, _say).dropped(after)
        except (tekton.TaskError, Interfered) as error:
            _say(f"warning: the canary of {after} stays, without traffic: {error}")
            return after

    def _tell(self, route: routes.Route, reason: str, message: str) -> None:
        about = f"{routes.describe(route.weights)}, PipelineRun {self.request.run_uid}: {message}"
        notices.tell(self.cluster, route, reason, about, tekton.utcnow(), reporter="route-shift", say=_say)

    def _former(self, course: Course, after: routes.Route) -> tuple[routes.Weights, shifts.Notes]:
        """Weights and notes from before this shift; one that went on with what it had left knows the colour only."""
        if course.origin.route.shifting:
            return shifts.take_back(after, tekton.rfc3339(tekton.utcnow()), self.request.run_uid, "taken back")
        return course.origin.plan.before, shifts.undo(course.origin.route, after)

    def _report(self, course: Course, after: routes.Route, *, restored: bool) -> dict[str, Any]:
        plan, verdict, checked = course.origin.plan, course.verdict, course.checked
        live = after.stable or plan.target
        if not after.split and after.live:
            live = after.live
        colours = after.colours if isinstance(after, splits.Split) else checked.colours
        outcome = "failed" if verdict.problem else "shifted"
        if not verdict.problem and dict(plan.before) == dict(checked.plan.after):
            outcome = "unchanged"
        share = verdict.window.share(checked.colours[plan.target].digest)
        return {
            "driver": self.request.driver, "route": after.name, "host": after.host,
            "before": dict(plan.before), "after": dict(after.weights),
            "observed": {plan.target: round(share, 4), "n": verdict.window.requests}, "outcome": outcome,
            "restored": restored, "problem": verdict.problem, "rollback": self.request.rollback,
            "resource_version_before": course.origin.route.resource_version,
            "resource_version_after": after.resource_version, "steps": course.steps,
            "live_colour": live, "live_digest": colours[live].digest,
            "live_version": shifts.registry_version(colours[live].semver),
        }  # fmt: skip


def _say(line: str) -> None:
    print(line, flush=True)


def run() -> None:
    """Shift, and leave report and results."""
    with tekton.results(
        outcome="", canary_verdict="", route_before="", route_after="", observed_share="",
        live_colour="", live_digest="", live_version="",
    ) as results:  # fmt: skip
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_SHIFT, "route-shift") as report:
            report.update(_from_environment(place.reports_dir))
            results.route_before = routes.describe(report["before"])
            results.route_after = routes.describe(report["after"])
            results.canary_verdict = report["steps"][-1]["verdict"] if report["steps"] else ""
            results.live_colour, results.live_digest = report["live_colour"], report["live_digest"]
            results.live_version = report["live_version"]
            share = next(value for key, value in report["observed"].items() if key != "n")
            results.observed_share = f"{share:.4f}"
            if report["problem"]:
                kind = kube.INFERENCE_SERVICE if report["driver"] == contract.DRIVER_ISVC else kube.ROUTE
                what = f"{kind.name} {report['route']}"
                if results.canary_verdict == Verdict.ROLLBACK:
                    raise tekton.Refused(
                        f"{what}: {report['problem']}", remedy="see decisions/ and the model's own log"
                    )
                raise tekton.Refused(
                    f"the data plane does not confirm the shift of {what}: {report['problem']}",
                    remedy="see shift.json and the router's log, then run again",
                )
        results.outcome = report["outcome"]


def _from_environment(reports: Path) -> dict[str, Any]:
    """Shift what the environment asks for."""
    env = tekton.environment(
        driver=str, route=str, service_blue=str, service_green=str, colour=str, model_digest=str, model_version=str,
        weight=int, router_url=str, verify_requests=int, verify_timeout_seconds=float, expiry_seconds=float,
        pipeline_run_uid=str, step_weights=str, interval_seconds=float, bake_seconds=float, hold_seconds=float,
        max_error_rate=float, max_ratio=float, latency_seconds=float, probes_per_second=float, prometheus_url=str,
    )  # fmt: skip
    request = Request(
        route=env.route, services=routes.pair(env.service_blue, env.service_green), colour=env.colour,
        model_digest=env.model_digest, model_version=env.model_version, run_uid=env.pipeline_run_uid,
        driver=env.driver, weight=env.weight, router_url=env.router_url, verify_requests=env.verify_requests,
        verify_timeout_seconds=env.verify_timeout_seconds, expiry_seconds=env.expiry_seconds,
    )  # fmt: skip
    settings = Settings(
        steps=steps(env.step_weights), pace=Pace(env.interval_seconds, env.bake_seconds, env.hold_seconds),
        max_error_rate=env.max_error_rate, max_ratio=env.max_ratio, latency_seconds=env.latency_seconds,
        probes_per_second=env.probes_per_second, prometheus_url=env.prometheus_url,
        prometheus_token=token(os.environ.get("PROMETHEUS_CREDENTIALS_DIR", "")),
    )  # fmt: skip
    return Shifter(request, kube.Cluster.from_config(), settings, reports).shift()


def main() -> int:
    """Run as the Task route-shift does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
