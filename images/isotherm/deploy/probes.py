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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isotherm import contract, kube
from isotherm.deploy import answers, readiness, routes
from isotherm.rollout.samples import Reading

if TYPE_CHECKING:
    import httpx

AXES = ("x", "y", "t")
ERRORS, LATENCY = "probe-errors", "probe-latency"
ANSWER_SECONDS = 5.0
# Roots of x^4 = x + 1 (M. Roberts' R3 sequence): points that fill a box evenly from the first one on.
_STEPS = tuple(1.2207440846057596**-power for power in (1, 2, 3))

Domain = Mapping[str, tuple[float, float]]  # axis -> interval


class Probes:
    """Asks both colours, and keeps counters of the answers as the predictors keep theirs of the clients'."""

    def __init__(
        self, cluster: kube.Cluster, services: routes.Services, *, per_second: float, latency_seconds: float,
        look_seconds: float,
    ) -> None:  # fmt: skip
        import httpx

        self._cluster = cluster
        self._services = services
        self._per_second = per_second
        self._latency_seconds = latency_seconds
        self._look_seconds = look_seconds
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
        """Ask each colour as often as its rate asks for in this time. An endpoint that does not answer is an error.

        Models so slow that a look would end late are asked less: who waits for answers does not renew the shift.
        """
        self._owed += self._per_second * seconds
        deadline = time.monotonic() + self._look_seconds
        found = {colour: readiness.ready(self._cluster, service) for colour, service in self._services.items()}
        while self._owed >= 1:
            self._owed -= 1
            number = next(self._sent)
            for colour, endpoints in found.items():
                if endpoints:
                    self._ask(colour, endpoints[number % len(endpoints)].url, number)
            if time.monotonic() > deadline:
                self._owed = 0.0

    def read(self, colour: str) -> Reading | None:
        """The counters of a colour; None where no endpoint was ready to be asked."""
        counts = self._counts[colour]
        if not counts[ERRORS][1]:
            return None
        return Reading(time.time(), self._digests[colour], {name: (bad, of) for name, (bad, of) in counts.items()})

    def _ask(self, colour: str, url: str, number: int) -> None:
        import httpx

        try:
            answer = ask(self._client, url, point(self._domain(url), number))
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            answer = Answer()
        self._digests[colour] = answer.digest or self._digests[colour]
        slow = answer.failed or answer.seconds > self._latency_seconds
        for name, bad in ((ERRORS, answer.failed), (LATENCY, slow)):
            self._counts[colour][name][0] += bad
            self._counts[colour][name][1] += 1

    def _domain(self, url: str) -> Domain:
        """Where an endpoint may be asked; it says so once."""
        if url not in self._domains:
            self._domains[url] = domain(self._client, url)
        return self._domains[url]


@dataclass(frozen=True)
class Answer:
    """What a model said at one point; u is NaN where it said nothing, residual where it gives none."""

    status: int = 0  # 0: no answer
    u: float = math.nan
    residual: float = math.nan
    seconds: float = math.inf
    digest: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no temperature."""
        return not math.isfinite(self.u)


def ask(client: httpx.Client, url: str, where: Mapping[str, float], fields: str = "") -> Answer:
    """Ask an endpoint for the temperature at a point, and for more fields. Never raises on what it answers."""
    import httpx

    began = time.perf_counter()
    try:
        asked = {**where, **({"fields": fields} if fields else {})}
        answer = answers.get(client, url + "/predict-temperature", params=asked)
    except httpx.HTTPError:
        return Answer(seconds=time.perf_counter() - began)
    seconds, digest = time.perf_counter() - began, answer.headers.get(contract.HEADER_MODEL_DIGEST, "")
    try:
        said = answer.json() if answer.status_code == 200 else {}
        u, residual = float(said["u(x,y,t)"]), float(said.get(contract.ONNX_RESIDUAL, math.nan))
    except (ValueError, KeyError, TypeError, AttributeError):
        u = residual = math.nan
    return Answer(answer.status_code, u, residual, seconds, digest)


def domain(client: httpx.Client, url: str) -> Domain:
    """Where an endpoint may be asked. Raises `httpx.HTTPError`, or `ValueError`, `KeyError`, `TypeError` where it does
    not say.
    """
    said = answers.get(client, url + contract.PATH_DOMAIN).raise_for_status().json()
    return {axis: (float(said[axis][0]), float(said[axis][1])) for axis in AXES}


def point(within: Domain, number: int) -> dict[str, float]:
    """The point of a domain that the probe of this number asks for."""
    fractions = ((0.5 + step * number) % 1 for step in _STEPS)
    return {
        axis: low + fraction * (high - low)
        for (axis, (low, high)), fraction in zip(within.items(), fractions, strict=True)
    }
