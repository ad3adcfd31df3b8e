"""Shift a Route's traffic to a colour and prove it on the data plane (Task route-shift).

Reads   ROUTE SERVICE_BLUE SERVICE_GREEN, COLOUR (blue, green, or previous = rollback), MODEL_DIGEST MODEL_VERSION
        (empty with previous), WEIGHT (percent to that colour), ROUTER_URL VERIFY_REQUESTS VERIFY_TIMEOUT_SECONDS,
        EXPIRY_SECONDS, PIPELINE_RUN_UID; folder REPORTS_DIR
Writes  the Route's weights and annotations in one compare-and-set write; shift.json
Result  RESULT_OUTCOME RESULT_ROUTE_BEFORE RESULT_ROUTE_AFTER RESULT_OBSERVED_SHARE RESULT_LIVE_COLOUR
        RESULT_LIVE_DIGEST RESULT_LIVE_VERSION

A shift that the data plane does not confirm is taken back. A rollback is not: the model it leaves is the one in doubt.
Until it is confirmed a shift is pending: its expiry stands on the Route, and the guard takes it back once that passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from isotherm import contract, kube, tekton
from isotherm.deploy import routes, shifts, traffic
from isotherm.deploy.pending import ATTEMPTS, Interfered, Pending
from isotherm.deploy.preconditions import Checked, Preconditions, Request


def _nothing() -> None:
    """Nothing is pending, so nothing has to be kept alive."""


class Shifter:
    """One shift of one Route."""

    def __init__(self, request: Request, cluster: kube.Cluster) -> None:
        self.request = request
        self.cluster = cluster
        self.routes = routes.Routes(cluster, request.services)
        self.preconditions = Preconditions(request, cluster, self.routes)

    def check(self) -> Checked:
        """Check what must hold, anew. Raises `tekton.Refused`."""
        return self.preconditions.check(self.request.weight)

    def shift(self) -> dict[str, Any]:
        """Plan, write, verify, and take back what the data plane does not confirm. Returns the report (`shift.json`).

        Raises `tekton.Refused` where nothing was changed; a report with a `problem` says what was done after the write.
        """
        checked = self.check()
        plan = checked.plan
        _say(f"Route {checked.route.name}: {routes.describe(plan.before)} -> {routes.describe(plan.after)}")
        if 0 < self.request.weight < 100:
            # Weights become whole numbers up to 256 per endpoint: not every share can be had.
            _say(f"asked for {self.request.weight} % on {plan.target}, the router gives {checked.share:.2%}")
        with traffic.Router(self.request.router_url, checked.route.host, tls=checked.route.tls) as client:
            self._probe(client)
            written = checked.route
            if plan.changes:
                checked, written = self._write(checked)
            pending = Pending(self.routes, written, self.request.expiry_seconds, self.request.expiry)
            try:
                verdict = self._verify(client, checked, plan.after, beat=pending)
                if verdict.problem and plan.changes and not self.request.rollback:
                    _say(f"taking the shift back: {verdict.problem}")
                    return self._restore(client, checked, pending.route, verdict)
                if not verdict.problem:
                    pending.confirm()
            except Interfered as error:
                verdict = traffic.Verdict(traffic.Window(), f"{error}; it is left as it is")
                return self._report(checked, error.route, verdict, restored=False)
            return self._report(checked, pending.route, verdict, restored=False)

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
                plan = checked.plan
                return checked, self.routes.write(checked.route, plan.after, plan.annotations, alone=plan.back)
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

    def _restore(
        self, client: traffic.Router, checked: Checked, written: routes.Route, verdict: traffic.Verdict
    ) -> dict[str, Any]:
        """Put the former weights back if the Route still is as this shift left it, and verify again."""
        problem, after = verdict.problem, written
        for _ in range(ATTEMPTS):
            try:
                notes = shifts.undo(checked.route, after)
                after = self.routes.write(after, checked.plan.before, notes, alone=0 in checked.plan.before.values())
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
        router_url=str, verify_requests=int, verify_timeout_seconds=float, expiry_seconds=float,
        pipeline_run_uid=str,
    )  # fmt: skip
    request = Request(
        route=env.route, services=routes.pair(env.service_blue, env.service_green), colour=env.colour,
        model_digest=env.model_digest, model_version=env.model_version, run_uid=env.pipeline_run_uid,
        weight=env.weight, router_url=env.router_url, verify_requests=env.verify_requests,
        verify_timeout_seconds=env.verify_timeout_seconds, expiry_seconds=env.expiry_seconds,
    )  # fmt: skip
    return Shifter(request, kube.Cluster.from_config()).shift()


def main() -> int:
    """Run as the Task route-shift does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
