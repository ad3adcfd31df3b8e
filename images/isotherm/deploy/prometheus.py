"""What both colours have counted about their answers, as Prometheus has scraped it.

Reads   `GET /api/v1/query` of a Prometheus (OpenShift's thanos-querier has the same): the newest samples of each pod
Writes  nothing

Raw samples, not rates: their own times tell whether they are fresh, and what a counter grew by is computed as from the
endpoints themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from isotherm import tekton
from isotherm.deploy import answers
from isotherm.deploy.counters import READ, READ_LATENCY, Counted, Growth, counted
from isotherm.rollout.samples import Reading

ANSWER_SECONDS = 10.0
# Twice the slowest scrape interval that is common: an older sample would not be fresh anyway.
LOOKBACK = "2m"
_NAMES = "|".join((*READ, *READ_LATENCY))


class Prometheus:
    """Both colours' counters, queried."""

    def __init__(
        self,
        url: str,
        namespace: str,
        models: Mapping[str, tuple[str, str, str]],
        *,
        latency_seconds: float,
        token: str = "",
    ) -> None:
        """`models` has the pods' Deployment, semantic version and digest by colour."""
        if not url.startswith(("http://", "https://")):
            raise tekton.BadInput(f"param prometheus-url is {url[:80]!r}", remedy="give http://HOST:PORT, or https")
        self._url = url.rstrip("/") + "/api/v1/query"
        self._namespace = namespace
        self._models = models
        self._latency_seconds = latency_seconds
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._growth = {colour: Growth() for colour in models}

    def read(self, colour: str) -> Reading | None:
        """Query a colour; None where Prometheus does not answer, or knows no whole set of counters of it."""
        import httpx

        try:
            with httpx.Client(headers=self._headers, timeout=ANSWER_SECONDS, trust_env=False) as client:
                answer = answers.get(client, self._url, params={"query": self.query(colour)})
            answer.raise_for_status()
            return self._reading(colour, answer.json()["data"]["result"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            return None

    def query(self, colour: str) -> str:
        """PromQL of a colour's raw samples."""
        deployment = self._models[colour][0]
        return (
            f'{{__name__=~"{_NAMES}",namespace="{self._namespace}",track="{colour}",pod=~"{deployment}-.+"}}'
            f"[{LOOKBACK}]"
        )

    def _reading(self, colour: str, series: list[Any]) -> Reading | None:
        samples: dict[str, dict[tuple[str, str], float]] = {}
        versions: set[str] = set()
        newest = -math.inf
        for one in series:
            labels, (at, value) = one["metric"], one["values"][-1]
            samples.setdefault(labels["pod"], {})[labels["__name__"], labels.get("le", "")] = float(value)
            versions.add(labels["version"])
            newest = max(newest, float(at))
        found: dict[str, Counted] = {pod: counted(mine, self._latency_seconds) for pod, mine in samples.items()}
        if not found:
            return None
        _, version, digest = self._models[colour]
        return Reading(newest, digest if versions == {version} else "", self._growth[colour].add(found))
