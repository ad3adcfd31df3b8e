"""Ask a model that has no traffic what clients asked the live one, and judge the answers (Task shadow-replay).

Reads   ROUTE SERVICE_BLUE SERVICE_GREEN, COLOUR and MODEL_DIGEST of the candidate, REPLAY_REQUESTS, MAX_DISAGREEMENT,
        MAX_ERROR_RATE, MAX_RATIO, LATENCY_SECONDS; REPLAY_SOURCE: log (folder REQUESTS_DIR with prediction logs, one
        JSON object a line with x, y, t) or domain (points of the live model's domain); folder REPORTS_DIR
Writes  shadow.json; no traffic moves, and the predictors count these requests as probes
Results RESULT_OUTCOME (pass or fail), RESULT_REASON, RESULT_DISAGREEMENT

A Route cannot mirror requests: both models are asked again, one after the other, at their pods.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from isotherm import contract, kube, tekton
from isotherm.deploy import bake, probes, readiness, routes
from isotherm.deploy.probes import AXES, Answer
from isotherm.rollout.judge import Judge, Look, Plan, Verdict
from isotherm.rollout.sequential import Counts

RESIDUAL_FACTOR = 9.0  # times the live model's mean square residual over the replay
SAY_EVERY_SECONDS = 5.0
SOURCES = ("domain", "log")
Point = Mapping[str, float]


def logged(folder: Path) -> Iterator[Point]:
    """The points of prediction logs, newest file first; a line that is none is skipped."""
    for path in sorted(folder.glob("**/*.jsonl"), reverse=True):
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                    yield {axis: float(record[axis]) for axis in AXES}
                except (ValueError, KeyError, TypeError):
                    continue


class Model:
    """One colour, asked at its first ready endpoint."""

    def __init__(self, cluster: kube.Cluster, service: str, colour: str) -> None:
        import httpx

        ready = readiness.ready(cluster, service)
        if not ready:
            raise tekton.Refused(f"{colour} has no endpoint that is ready", remedy="deploy it, then run again")
        self._url = ready[0].url
        self._client = httpx.Client(headers={contract.HEADER_PROBE: "shadow-replay"}, timeout=10, trust_env=False)
        self._fields = contract.ONNX_RESIDUAL

    def domain(self) -> probes.Domain:
        """Where it may be asked. Raises `tekton.Unavailable`."""
        import httpx

        try:
            return probes.domain(self._client, self._url)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise tekton.Unavailable(
                f"{self._url} does not say its domain ({error or type(error).__name__})",
                remedy="deploy it with this version's predictor, then run again",
            ) from error

    def ask(self, point: Point) -> Answer:
        """Ask for the temperature, and the residual where the model knows its source."""
        answer = probes.ask(self._client, self._url, point, self._fields)
        if answer.status == 400 and self._fields:
            self._fields = ""
            return self.ask(point)
        return answer


@dataclass(frozen=True)
class Limits:
    """What an answer of the candidate may be."""

    disagreement: float  # of the spread (standard deviation) of the live model's temperatures over the replay
    latency_seconds: float
    plan: Plan

    @classmethod
    def of(cls, env: SimpleNamespace) -> Limits:
        """Check the params. Raises `tekton.BadInput`."""
        if env.max_disagreement <= 0 or env.latency_seconds <= 0 or env.replay_requests < 1:
            raise tekton.BadInput(
                "params max-disagreement, latency-seconds and replay-requests must be above 0",
                remedy="give such as 0.1, 0.25 and 1000",
            )
        required = dict.fromkeys(("errors", "latency", "out-of-bounds", "disagreement"), True) | {"residual": False}
        return cls(env.max_disagreement, env.latency_seconds, bake.plan(required, env.max_error_rate, env.max_ratio))


def judge(
    points: Sequence[Point], live: Sequence[Answer], candidate: Sequence[Answer], domain: probes.Domain, limits: Limits
) -> tuple[Judge, float]:
    """Judge answers to the same points; returns the judge and the candidate's root mean square disagreement, as a share
    of the spread of the live model's temperatures.

    What the live model did not answer tells nothing about a disagreement.
    """
    spread = statistics.pstdev([one.u for one in live if not one.failed] or [0.0]) or 1.0
    known = [one.residual**2 for one in live if math.isfinite(one.residual)]
    bound = RESIDUAL_FACTOR * statistics.fmean(known) if known else math.inf
    pairs = [(a, b) for a, b in zip(live, candidate, strict=True) if not a.failed and not b.failed]
    apart = [abs(a.u - b.u) / spread for a, b in pairs]
    outside = sum(any(not low <= p[axis] <= high for axis, (low, high) in domain.items()) for p in points)
    counts = {
        "errors": _counts([one.failed for one in candidate], [one.failed for one in live]),
        "latency": _counts(*([one.seconds > limits.latency_seconds for one in side] for side in (candidate, live))),
        # The live model was asked these points; one that has a smaller domain would have to guess.
        "out-of-bounds": (Counts(outside, len(points)), Counts(0, len(points))),
        "disagreement": (Counts(sum(d > limits.disagreement for d in apart), len(apart)), Counts(0, len(apart))),
    }
    if known:
        counts["residual"] = _counts(*([_over(one.residual, bound) for one in side] for side in (candidate, live)))
    rms = math.sqrt(statistics.fmean(d * d for d in apart)) if apart else math.nan
    return Judge(limits.plan).see(Look(counts)), rms


def _counts(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[Counts, Counts]:
    return Counts(sum(ours), len(ours)), Counts(sum(theirs), len(theirs))


def _over(residual: float, bound: float) -> bool:
    return math.isfinite(residual) and residual**2 > bound


def replay(env: SimpleNamespace, cluster: kube.Cluster, requests: Path | None) -> dict[str, Any]:
    """Ask both models and judge; returns the report (`shadow.json`)."""
    limits = Limits.of(env)
    if env.colour not in contract.COLOURS:
        raise tekton.BadInput(f"param colour is {env.colour[:40]!r}", remedy="give blue or green")
    services = routes.pair(env.service_blue, env.service_green)
    route = routes.Routes(cluster, services).require(env.route)
    if route.weights[env.colour]:
        raise tekton.Refused(
            f"{env.colour} has traffic already ({routes.describe(route.weights)})", remedy="give the idle colour"
        )
    live = Model(cluster, services[routes.other(env.colour)], routes.other(env.colour))
    candidate = Model(cluster, services[env.colour], env.colour)
    source, points = _points(env.replay_requests, requests, live.domain())
    print(f"{len(points)} requests of {source} to {routes.other(env.colour)} and {env.colour}", flush=True)
    theirs, ours = _asked(points, live, candidate)
    strangers = {one.digest for one in ours if one.digest} - {env.model_digest}
    if strangers:
        raise tekton.Refused(
            f"{env.colour} holds model {strangers.pop()[:12]}, not {env.model_digest[:12]}",
            remedy="deploy the candidate, then run again",
        )
    found, rms = judge(points, theirs, ours, candidate.domain(), limits)
    passed = found.verdict() is Verdict.PROMOTE
    return {
        "route": env.route, "colour": env.colour, "model_digest": env.model_digest, "requests": len(points),
        "source": source, "outcome": contract.VERDICT_PASS if passed else contract.VERDICT_FAIL,
        "verdict": found.verdict().value, "reason": found.reason(),
        "disagreement": None if math.isnan(rms) else round(rms, 6),
        "counts": found.totals(),
        "seconds_p50": {name: _median(side) for name, side in (("live", theirs), ("candidate", ours))},
    }  # fmt: skip


def _points(wanted: int, folder: Path | None, domain: probes.Domain) -> tuple[str, list[Point]]:
    """What is asked, and where it comes from."""
    if folder is None:
        return "the live model's domain", [probes.point(domain, number) for number in range(wanted)]
    found = list(islice(logged(folder), wanted))
    if not found:
        raise tekton.BadInput(
            "workspace requests holds no prediction log (*.jsonl, one JSON object with x, y and t a line)",
            remedy="collect the predictors' logs there (component prediction-logs), or give replay-source domain",
        )
    return "the prediction log", found


def _asked(points: Sequence[Point], live: Model, candidate: Model) -> tuple[list[Answer], list[Answer]]:
    """Ask both in turn, so that whatever slows this machine slows both."""
    theirs, ours, said = [], [], time.monotonic()
    for number, point in enumerate(points, start=1):
        theirs.append(live.ask(point))
        ours.append(candidate.ask(point))
        if time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            print(f"{number} of {len(points)} asked", flush=True)
    return theirs, ours


def _median(answers: Sequence[Answer]) -> float:
    return round(statistics.median(one.seconds for one in answers), 5)


def _requests(source: str) -> Path | None:
    """The folder of the prediction logs; None where points of the domain are asked."""
    if source not in SOURCES:
        raise tekton.BadInput(f"param replay-source is {source[:40]!r}", remedy=f"give {' or '.join(SOURCES)}")
    if source == "domain":
        return None
    folder = os.environ.get("REQUESTS_DIR", "")
    if not folder:
        raise tekton.BadInput("param replay-source is log, and workspace requests is not bound", remedy="bind it")
    return Path(folder)


def run() -> None:
    """Replay, write the report, and last the results; `fail` is a result, not an error."""
    with tekton.results(outcome=contract.VERDICT_FAIL, reason="not-replayed", disagreement="") as results:
        place = tekton.environment(reports_dir=Path)
        with tekton.report(place.reports_dir / contract.REPORT_SHADOW, "shadow-replay") as report:
            env = tekton.environment(
                route=str, service_blue=str, service_green=str, colour=str, model_digest=str, replay_requests=int,
                replay_source=str, max_disagreement=float, max_error_rate=float, max_ratio=float, latency_seconds=float,
            )  # fmt: skip
            report.update(replay(env, kube.Cluster.from_config(), _requests(env.replay_source)))
        results.outcome, results.reason = report["outcome"], report["reason"]
        results.disagreement = "" if report["disagreement"] is None else f"{report['disagreement']:.6g}"
        for name, ((bad, asked), (live_bad, live_asked)) in report["counts"].items():
            print(f"{name:<14} candidate {bad}/{asked}, live {live_bad}/{live_asked}")
        print(f"outcome {report['outcome']}: {report['verdict']}, {report['reason']}")


def main() -> int:
    """Run as the Task shadow-replay does."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return tekton.step_main(run)


if __name__ == "__main__":
    raise SystemExit(main())
