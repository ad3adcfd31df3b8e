"""What the server says about itself at `/metrics`: computed from what it answered, never from what a client claims.

Gauges look at the last 1,000 points: the share outside the domain, the mean normalised squared PDE residual (points
with an unknown f left out), and the share of points near an edge that violate the boundary condition. A gauge has no
sample until a point gives it one. Counters and the summary hold the same quantities since the start, for rates.

A request that says it is a probe (of route-shift or shadow-replay) is counted as such and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
import prometheus_client
from prometheus_client.core import GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import CollectorRegistry

from isotherm import contract
from isotherm.predictor.model import Answer, Floats

WINDOW_POINTS = 1000
RESIDUAL_LIMIT = contract.GATE_VAL_RESIDUAL_MAX**2  # of the mean over a request's points; one bound for every model
# Whether the request that is being answered is a probe.
PROBING: ContextVar[bool] = ContextVar("probing", default=False)
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)
_HELP = {
    contract.METRIC_REQUESTS: "Prediction requests, answered or not",
    contract.METRIC_ERRORS: "Prediction requests that the server failed to answer (5xx)",
    contract.METRIC_REFUSED: "Prediction requests refused because of what was sent (4xx)",
    contract.METRIC_INPUTS: "Points answered",
    contract.METRIC_INPUTS_OOB: "Points answered that lie outside the domain of the problem",
    contract.METRIC_LOG_DROPPED: "Points that the prediction log could not keep",
    contract.METRIC_REQUESTS_OOB: "Prediction requests with a point outside the domain of the problem",
    contract.METRIC_REQUESTS_RESIDUAL: f"Prediction requests with a mean normalised r2 over {RESIDUAL_LIMIT:g}",
    contract.METRIC_PROBES: "Prediction requests sent to judge this model: in no other metric",
}
_BOUNDARY_HELP = {
    contract.METRIC_BC_INPUTS: "Points within 1 % of an edge of the domain",
    contract.METRIC_BC_VIOLATIONS: "Points near an edge whose boundary residual exceeds 3 times the validated one",
    contract.METRIC_REQUESTS_BC: "Prediction requests with such a violation",
}
_RESIDUAL_HELP = "Normalised squared PDE residual of the points answered"
_GAUGE_HELP = {
    contract.METRIC_OOB_RATIO: "Share of the last 1,000 points outside the domain",
    contract.METRIC_RESIDUAL_MEAN: "Mean normalised squared PDE residual of the last 1,000 points",
    contract.METRIC_BC_RATIO: "Share of the points near an edge, among the last 1,000, that violate the condition",
}


class Window:
    """The last `size` points: outside, r2, violation; one column each, oldest overwritten first."""

    def __init__(self, size: int = WINDOW_POINTS) -> None:
        self._rows = np.full((size, 3), np.nan)
        self._seen = 0

    def add(self, answer: Answer) -> None:
        """Take in the points of an answer, the last of them where there are more than the window holds."""
        size = len(self._rows)
        rows = np.column_stack([answer.outside, answer.r2, answer.violation])[-size:]
        start = self._seen + len(answer.u) - len(rows)
        self._rows[np.arange(start, start + len(rows)) % size] = rows
        self._seen += len(answer.u)

    def means(self) -> tuple[float | None, float | None, float | None]:
        """Return out-of-bounds ratio, residual mean and violation ratio; None where no point counts."""
        outside, r2, violation = (_mean(column) for column in self._rows.T)
        return outside, r2, violation


def _mean(column: Floats) -> float | None:
    known = column[~np.isnan(column)]
    return float(known.mean()) if known.size else None


class Metrics:
    """The `pinn_*` metrics of one model version on one track."""

    def __init__(self, registry: CollectorRegistry, *, version: str, track: str, boundary: bool) -> None:
        prometheus_client.disable_created_metrics()
        labels = {"version": version, "track": track}
        texts = _HELP | (_BOUNDARY_HELP if boundary else {})
        self._counters = {
            name: prometheus_client.Counter(name, text, list(labels), registry=registry).labels(**labels)
            for name, text in texts.items()
        }
        latency = "Seconds from the whole request to the whole answer"
        self._latency = prometheus_client.Histogram(
            contract.METRIC_LATENCY, latency, list(labels), buckets=BUCKETS, registry=registry
        ).labels(**labels)
        self._labels = labels
        self._r2_sum, self._r2_count = 0.0, 0
        self._boundary = boundary
        self._window = Window()
        registry.register(self)

    def request(self, status: int, seconds: float) -> None:
        """Count one prediction request by the status it was answered with."""
        if PROBING.get():
            self._counters[contract.METRIC_PROBES].inc()
            return
        self._counters[contract.METRIC_REQUESTS].inc()
        self._latency.observe(seconds)
        if status >= 500:
            self._counters[contract.METRIC_ERRORS].inc()
        elif status >= 400:
            self._counters[contract.METRIC_REFUSED].inc()

    def points(self, answer: Answer) -> None:
        """Count the points of one request's answer."""
        if PROBING.get():
            return
        self._window.add(answer)
        self._counters[contract.METRIC_INPUTS].inc(len(answer.u))
        self._counters[contract.METRIC_INPUTS_OOB].inc(int(answer.outside.sum()))
        self._counters[contract.METRIC_REQUESTS_OOB].inc(bool(answer.outside.any()))
        known = answer.r2[~np.isnan(answer.r2)]
        self._counters[contract.METRIC_REQUESTS_RESIDUAL].inc(bool(known.size and known.mean() > RESIDUAL_LIMIT))
        self._r2_sum += float(known.sum())
        self._r2_count += known.size
        if self._boundary:
            near = answer.violation[~np.isnan(answer.violation)]
            self._counters[contract.METRIC_BC_INPUTS].inc(near.size)
            self._counters[contract.METRIC_BC_VIOLATIONS].inc(float(near.sum()))
            self._counters[contract.METRIC_REQUESTS_BC].inc(bool(near.any()))

    def dropped(self, points: int) -> None:
        """Count points that the prediction log had no room for."""
        self._counters[contract.METRIC_LOG_DROPPED].inc(points)

    def collect(self) -> Iterator[GaugeMetricFamily | SummaryMetricFamily]:
        """Yield the residual's summary and the gauges over the window, as prometheus_client asks for at each scrape."""
        # prometheus_client's own Summary takes one observation per call: 100,000 calls for one large request.
        summary = SummaryMetricFamily(contract.METRIC_RESIDUAL, _RESIDUAL_HELP, labels=list(self._labels))
        summary.add_metric(list(self._labels.values()), self._r2_count, self._r2_sum)
        yield summary
        for name, value in zip(_GAUGE_HELP, self._window.means(), strict=True):
            if name == contract.METRIC_BC_RATIO and not self._boundary:
                continue
            family = GaugeMetricFamily(name, _GAUGE_HELP[name], labels=list(self._labels))
            if value is not None:
                family.add_metric(list(self._labels.values()), value)
            yield family
