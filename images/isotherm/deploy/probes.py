"""Requests of our own to both colours, so that a canary can be judged where clients ask little or nothing.

Reads   EndpointSlices of both Services, `GET /domain` and `GET /predict-temperature` of their ready endpoints
Writes  nothing; the predictors count these requests apart and do not log them

Each colour is asked at the same points of its own domain: what differs is the model. They go to the endpoints, not
through the router: the split would leave a canary too few of them, and the split itself is verified before.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

from isotherm import contract, kube
from isotherm.deploy import readiness, routes
from isotherm.rollout.samples import Reading

ERRORS, LATENCY = "probe-errors", "probe-latency"
ANSWER_SECONDS = 5.0
# Roots of x^4 = x + 1 (M. Roberts' R3 sequence): points that fill a box evenly from the first one on.
_STEPS = tuple(1.2207440846057596**-power for power in (1, 2, 3))

Domain = Mapping[str, tuple[float, float]]  # axis -> interval


class Probes:
    """Asks both colours, and keeps counters of the answers as the predictors keep theirs of the clients'."""

    def __init__(
        self, cluster: kube.Cluster, services: routes.Services, *, per_second: float, latency_seconds: float
    ) -> None:
        import httpx

        self._cluster = cluster
        self._services = services
        self._per_second = per_second
        self._latency_seconds = latency_seconds
        self._client = httpx.Client(
            headers={contract.HEADER_PROBE: "route-shift"}, timeout=ANSWER_SECONDS, trust_env=False
        )
        self._counts = {colour: {ERRORS: [0, 0], LATENCY: [0, 0]} for colour in services}
        self._digests = dict.fromkeys(services, "")
        self._domains: dict[str, Domain] = {}
        self._sent = itertools.count()
        self._owed = 0.0

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def send(self, seconds: float) -> None:
        """Ask each colour as often as its rate asks for in this time. An endpoint that does not answer is an error."""
        self._owed += self._per_second * seconds
        found = {
            colour: [e for e in readiness.endpoints(self._cluster, service) if e.ready]
            for colour, service in self._services.items()
        }
        while self._owed >= 1:
            self._owed -= 1
            number = next(self._sent)
            for colour, endpoints in found.items():
                if endpoints:
                    self._ask(colour, endpoints[number % len(endpoints)].url, number)

    def read(self, colour: str) -> Reading | None:
        """The counters of a colour; None where no endpoint was ready to be asked."""
        counts = self._counts[colour]
        if not counts[ERRORS][1]:
            return None
        return Reading(time.time(), self._digests[colour], {name: (bad, of) for name, (bad, of) in counts.items()})

    def _ask(self, colour: str, url: str, number: int) -> None:
        import httpx

        seconds = math.inf
        try:
            params = point(self._domain(url), number)
            began = time.perf_counter()
            answer = self._client.get(url + "/predict-temperature", params=params)
            seconds = time.perf_counter() - began
            failed = not _sound(answer)
            self._digests[colour] = answer.headers.get(contract.HEADER_MODEL_DIGEST, "") or self._digests[colour]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            failed = True
        for name, bad in ((ERRORS, failed), (LATENCY, failed or seconds > self._latency_seconds)):
            self._counts[colour][name][0] += bad
            self._counts[colour][name][1] += 1

    def _domain(self, url: str) -> Domain:
        """Where an endpoint may be asked; it says so once."""
        if url not in self._domains:
            answer = self._client.get(url + contract.PATH_DOMAIN).raise_for_status().json()
            self._domains[url] = {axis: (float(answer[axis][0]), float(answer[axis][1])) for axis in "xyt"}
        return self._domains[url]


def point(domain: Domain, number: int) -> dict[str, float]:
    """The point of a domain that the probe of this number asks for."""
    fractions = ((0.5 + step * number) % 1 for step in _STEPS)
    return {
        axis: low + fraction * (high - low)
        for (axis, (low, high)), fraction in zip(domain.items(), fractions, strict=True)
    }


def _sound(answer: Any) -> bool:
    """Whether a probe was answered with a finite temperature."""
    if answer.status_code != 200:
        return False
    try:
        value = answer.json()["u(x,y,t)"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(value, int | float) and math.isfinite(value)
