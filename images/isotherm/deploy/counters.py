"""What both colours have counted about their answers, read from the metrics of their own endpoints.

Reads   EndpointSlices of both Services, `GET /metrics` of each ready endpoint
Writes  nothing
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from isotherm import contract, kube, tekton
from isotherm.deploy import answers, readiness, routes
from isotherm.rollout.samples import Reading

if TYPE_CHECKING:
    import httpx

ANSWER_SECONDS = 5.0
ERRORS, LATENCY = "errors", "latency"
# Judged where the models show them: a problem may have no boundary condition.
OF_MODEL = {
    "out-of-bounds": contract.METRIC_REQUESTS_OOB,
    "residual": contract.METRIC_REQUESTS_RESIDUAL,
    "boundary": contract.METRIC_REQUESTS_BC,
}

READ = (contract.METRIC_REQUESTS, contract.METRIC_ERRORS, *OF_MODEL.values())
READ_LATENCY = (f"{contract.METRIC_LATENCY}_bucket", f"{contract.METRIC_LATENCY}_count")

Counted = Mapping[str, tuple[float, float]]  # metric of the judge -> (answers that speak against the model, all)
Samples = Mapping[tuple[str, str], float]  # (name of a sample, its label `le` or "") -> value


def counted(samples: Samples, latency_seconds: float) -> dict[str, tuple[float, float]]:
    """What one endpoint's samples say, by metric of the judge. Raises `KeyError` where one is missing."""
    requests = samples[contract.METRIC_REQUESTS, ""]
    buckets = {float(le): value for (name, le), value in samples.items() if name == READ_LATENCY[0]}
    # The bound is rounded down to one that the predictor keeps a count for.
    bound = max((le for le in buckets if le <= latency_seconds), default=min(buckets, default=math.inf))
    found = {
        ERRORS: (samples[contract.METRIC_ERRORS, ""], requests),
        LATENCY: (samples[READ_LATENCY[1], ""] - buckets.get(bound, math.nan), requests),
    }
    return found | {
        name: (samples[metric, ""], requests) for name, metric in OF_MODEL.items() if (metric, "") in samples
    }


class Growth:
    """By how much the counters of one colour grew, over endpoints that come, go and start again.

    An endpoint counts from when it was first seen: what it did before says nothing about this step.
    """

    def __init__(self) -> None:
        self._last: dict[str, Counted] = {}
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, found: Mapping[str, Counted]) -> Counted:
        """Take in the counters of every endpoint, by its name; return the sums. Counters that are none come out NaN."""
        wrong: set[str] = set()
        for endpoint, counters in found.items():
            bad = {name for name, now in counters.items() if not all(math.isfinite(v) and v >= 0 for v in now)}
            wrong |= bad
            last = self._last.get(endpoint, counters)
            for name in counters.keys() - bad:
                grown = _grown(last.get(name, counters[name]), counters[name])
                self._sums[name] = _plus(self._sums.get(name, (0.0, 0.0)), grown)
            self._last[endpoint] = {**last, **{name: counters[name] for name in counters.keys() - bad}}
        return self._sums | dict.fromkeys(wrong, (math.nan, math.nan))


def _grown(last: tuple[float, float], now: tuple[float, float]) -> tuple[float, float]:
    """Growth of a counter; a smaller one was started again and counts from 0."""
    return now if now[0] < last[0] or now[1] < last[1] else (now[0] - last[0], now[1] - last[1])


def _plus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] + b[0], a[1] + b[1]


class Endpoints:
    """Both colours' counters, scraped."""

    def __init__(self, cluster: kube.Cluster, services: routes.Services, latency_seconds: float) -> None:
        self._cluster = cluster
        self._services = services
        self._latency_seconds = latency_seconds
        self._growth = {colour: Growth() for colour in services}

    def read(self, colour: str) -> Reading | None:
        """Ask every ready endpoint of a colour; None where one does not answer, or answers no metrics of ours."""
        import httpx

        found: dict[str, Counted] = {}
        digests: set[str] = set()
        try:
            with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False) as client:
                for endpoint in readiness.ready(self._cluster, self._services[colour]):
                    digest, samples = _scrape(client, endpoint.url)
                    digests.add(digest)
                    found[endpoint.url] = counted(samples, self._latency_seconds)
        except (httpx.HTTPError, ValueError, KeyError, tekton.Unavailable):
            return None
        if not found:
            return None
        digest = digests.pop() if len(digests) == 1 else ""
        return Reading(time.time(), digest, self._growth[colour].add(found))


def _scrape(client: httpx.Client, url: str) -> tuple[str, dict[tuple[str, str], float]]:
    from prometheus_client.parser import text_string_to_metric_families as parse

    answer = answers.get(client, url + "/metrics").raise_for_status()
    samples = {
        (sample.name, sample.labels.get("le", "")): float(sample.value)
        for family in parse(answer.text)
        for sample in family.samples
        if sample.name.startswith("pinn_")
    }
    return answer.headers.get(contract.HEADER_MODEL_DIGEST, ""), samples
