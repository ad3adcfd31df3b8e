"""Counters of both colours: what they grew by over pods that come and go, and how Prometheus' answers are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse
from serving import Quiet, served

from isotherm import contract, tekton
from isotherm.deploy import canary, counters, probes
from isotherm.deploy.prometheus import Prometheus
from isotherm.predictor.metrics import Metrics

DIGEST = "sha256:" + "a" * 64
MODELS = {"green": ("plate-green-predictor", "1.2.0", DIGEST)}


def exposed(latencies: list[float], *, boundary: bool = True) -> dict[tuple[str, str], float]:
    """The samples of a real predictor's metrics after requests of these latencies, every other one failed."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry, version="1.2.0", track="green", boundary=boundary)
    for number, seconds in enumerate(latencies):
        metrics.request(500 if number % 2 else 200, seconds)
    text = prometheus_client.generate_latest(registry).decode()
    return {(s.name, s.labels.get("le", "")): s.value for family in parse(text) for s in family.samples}


def test_what_a_predictor_exposes_is_understood() -> None:
    found = counters.counted(exposed([0.01, 0.2, 0.3, 0.4]), 0.25)
    assert found[counters.ERRORS] == (2, 4)
    assert found[counters.LATENCY] == (2, 4)
    assert found.keys() == {counters.ERRORS, counters.LATENCY, *counters.OF_MODEL}
    assert "boundary" not in counters.counted(exposed([], boundary=False), 0.25)


@pytest.mark.parametrize(("bound", "slow"), [(0.0001, 3), (0.012, 2), (0.25, 1), (9.0, 1), (60.0, 0)])
def test_a_latency_bound_is_rounded_down_to_one_that_is_counted(bound: float, slow: int) -> None:
    assert counters.counted(exposed([0.009, 0.02, 7.0]), bound)[counters.LATENCY][0] == slow


steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 20), st.booleans()), max_size=40)


@given(steps)
def test_growth_is_what_happened_since_each_pod_was_first_seen(moves: list[tuple[str, int, int, bool]]) -> None:
    """Pods that ask, fail, start again from 0; a restart hides what came between the last look and it, no more."""
    growth, pods = counters.Growth(), {}
    seen: dict[str, bool] = {}
    expected = [0, 0]
    for pod, bad, good, restarted in moves:
        old = pods.get(pod, (3, 9))
        now = (0, 0) if restarted else old
        now = (now[0] + bad, now[1] + bad + good)
        if pod in seen:
            # A restarted counter is noticed where it is smaller than before; else its growth is all that shows.
            noticed = now[0] < old[0] or now[1] < old[1]
            expected = [e + (n if noticed else n - o) for e, n, o in zip(expected, now, old, strict=True)]
        seen[pod], pods[pod] = True, now
        sums = growth.add({name: {"errors": tuple(map(float, counts))} for name, counts in pods.items()})
    if moves:
        assert sums["errors"] == tuple(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_counter_that_is_none_comes_out_as_none_and_is_forgotten(value: float) -> None:
    growth = counters.Growth()
    growth.add({"a": {"errors": (0.0, 10.0)}})
    assert all(math.isnan(one) for one in growth.add({"a": {"errors": (0.0, value)}})["errors"])
    assert growth.add({"a": {"errors": (1.0, 30.0)}})["errors"] == (1.0, 20.0)


@contextmanager
def answering(body: Any, status: int = 200) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that gives one answer to everything, and what it was asked: query and Authorization."""
    asked: list[tuple[str, str]] = []

    class Answers(Quiet):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query).get("query", [""])[0]
            asked.append((query, self.headers.get("Authorization", "")))
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with served(Answers) as url:
        yield url, asked


def matrix(samples: dict[tuple[str, str], float], *, version: str = "1.2.0", at: float = 1000.0) -> dict[str, Any]:
    """Prometheus' answer to a range selector, with an older sample before each."""
    series = []
    for (name, le), value in samples.items():
        labels = {"__name__": name, "pod": "plate-green-predictor-1", "version": version, **({"le": le} if le else {})}
        series.append({"metric": labels, "values": [[at - 5, "0"], [at, str(value)]]})
    return {"status": "success", "data": {"resultType": "matrix", "result": series}}


def source(url: str, token: str = "") -> Prometheus:
    return Prometheus(url, "plates", MODELS, latency_seconds=0.25, token=token)


def test_the_newest_samples_of_each_pod_make_a_reading() -> None:
    with answering(matrix(exposed([0.01, 0.2]))) as (url, asked):
        reading = source(url, "secret").read("green")
    assert reading is not None
    # The first reading is where the step begins.
    assert (reading.at, reading.digest, reading.counters[counters.ERRORS]) == (1000.0, DIGEST, (0.0, 0.0))
    query, authorization = asked[0]
    assert 'namespace="plates",track="green",pod=~"plate-green-predictor-.+"' in query
    assert authorization == "Bearer secret"


def test_pods_of_another_version_are_nobody_s() -> None:
    with answering(matrix(exposed([0.01]), version="1.3.0")) as (url, _):
        reading = source(url).read("green")
    assert reading is not None
    assert reading.digest == ""


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (matrix({}), 200), (matrix({("pinn_requests_total", ""): 4.0}), 200), ({"status": "error"}, 200), ([], 200),
        (b"<html>", 200), ({}, 503), ({"data": {"result": [{"metric": {}, "values": []}]}}, 200),
    ],
)  # fmt: skip
def test_an_answer_that_says_nothing_is_no_reading(body: Any, status: int) -> None:
    with answering(body, status) as (url, _):
        assert source(url).read("green") is None


def test_no_answer_is_no_reading_and_a_url_that_is_none_is_refused() -> None:
    assert source("http://127.0.0.1:9").read("green") is None
    with pytest.raises(tekton.BadInput, match="prometheus-url"):
        source("prometheus:9090")


def test_probes_fill_a_domain_evenly_and_stay_inside_it() -> None:
    domain = {"x": (-1.0, 1.0), "y": (0.0, 10.0), "t": (0.0, 0.5)}
    points = [probes.point(domain, number) for number in range(512)]
    for axis, (low, high) in domain.items():
        values = [point[axis] for point in points]
        assert low <= min(values) < max(values) < high
        quarters = [
            sum(low + q * (high - low) / 4 <= v < low + (q + 1) * (high - low) / 4 for v in values) for q in range(4)
        ]
        assert min(quarters) > 120


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": (10, 100)}, "step-weights"), ({"steps": (20, 10)}, "step-weights"),
        ({"steps": (0, 10)}, "step-weights"),
        ({"latency_seconds": 0.0}, "latency-seconds"), ({"probes_per_second": -1.0}, "probes-per-second"),
        ({"max_error_rate": 0.0}, "max-error-rate"), ({"max_ratio": 1.0}, "max-ratio"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(tekton.BadInput, match=reason):
        canary.Settings(**changes)


def test_steps_are_read_from_text() -> None:
    assert (canary.steps(""), canary.steps("10, 25,50")) == ((), (10, 25, 50))
    with pytest.raises(tekton.BadInput, match="step-weights"):
        canary.steps("10;20")


def test_clients_decide_only_where_there_are_no_probes() -> None:
    required = {
        rate: {metric.name for metric in canary.Settings(probes_per_second=rate).plan().metrics if metric.required}
        for rate in (0.0, 5.0)
    }
    assert required == {0.0: {counters.ERRORS, counters.LATENCY}, 5.0: {probes.ERRORS, probes.LATENCY}}
    assert contract.METRIC_PROBES not in counters.OF_MODEL.values()
