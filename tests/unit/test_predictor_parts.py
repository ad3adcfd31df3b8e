"""Laws of the predictor's parts: what payloads mean, what a window counts, what the prediction log keeps."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_models
import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isotherm import bundle
from isotherm.predictor import payload
from isotherm.predictor.metrics import WINDOW_POINTS, Metrics, Window
from isotherm.predictor.model import Answer, HeatModel, NotFinite
from isotherm.predictor.prediction_log import QUEUE_POINTS, PredictionLog

finite = st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
body = anything | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("instances", "fields", "f", "x", "y", "t", "oob_ratio"), anything)
)


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=20))
def test_instances_arrive_as_they_were_sent(rows: list[tuple[float, float, float]]) -> None:
    question = payload.from_instances({"instances": [list(row) for row in rows]})
    assert question.points.tolist() == [list(row) for row in rows]
    assert question.fields == ("u",)


def understood(read: Callable[[], payload.Question]) -> payload.Question | None:
    """The question read, or None where it was refused with a reason."""
    try:
        return read()
    except payload.Refusal as error:
        refusal = error
    assert refusal.reason
    assert 400 <= refusal.status < 500
    return None


@given(body)
@settings(max_examples=300, deadline=None)
def test_a_payload_is_understood_or_refused_with_a_reason(sent: Any) -> None:
    for read in (payload.from_instances, payload.from_coordinates):
        if question := understood(partial(read, sent)):
            assert question.points.shape == (len(question.points), 3)
            assert np.isfinite(question.points).all()


@given(st.lists(anything, max_size=4), anything, st.sampled_from(["FP64", "FP32", "BYTES"]), anything)
@settings(deadline=None)
def test_a_tensor_is_understood_or_refused_with_a_reason(shape: Any, data: Any, datatype: str, fields: Any) -> None:
    tensor = SimpleNamespace(name="points", shape=shape, datatype=datatype, data=data)
    if question := understood(partial(payload.from_tensors, [tensor], [], {"fields": fields})):
        assert list(question.points.shape) == shape


@pytest.mark.parametrize("data", [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
def test_tensor_data_may_be_flat_or_nested(data: list[Any]) -> None:
    tensor = SimpleNamespace(name="points", shape=[2, 3], datatype="FP64", data=data)
    question = payload.from_tensors([tensor], ["a", "u"], None)
    assert question.points.tolist() == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert question.fields == ("a", "u")


@pytest.mark.parametrize(
    ("row", "outside", "violation"),
    [
        ([0.5, 0.5, 1.0], False, math.nan),
        ([0.0, 0.5, 0.0], False, 0.0),  # on an edge where the boundary residual is 0
        ([0.5, 1.0, 2.0], False, 1.0),
        ([0.5, 0.991, 1.0], False, 1.0),
        ([0.5, 0.98, 1.0], False, math.nan),
        ([0.005, 0.79, 1.0], False, 0.0),  # 0.29 <= 3 x 0.1
        ([0.005, 0.81, 1.0], False, 1.0),
        ([1.0 + 1e-12, 0.5, 1.0], False, 0.0),
        ([1.001, 0.5, 1.0], True, math.nan),
        ([0.5, 0.5, -0.1], True, math.nan),
    ],
)
def test_points_are_judged_against_the_domain_and_its_edges(
    tmp_path: Path, row: list[float], outside: bool, violation: float
) -> None:
    digest = onnx_models.write_bundle(tmp_path)
    answer = HeatModel(bundle.load(tmp_path, digest)).answer(np.array([row]), None)
    assert answer.outside.tolist() == [outside]
    np.testing.assert_equal(answer.violation, [violation])
    np.testing.assert_allclose(answer.r2, (0.1 * row[0]) ** 2 / onnx_models.DENOMINATOR, rtol=1e-12)


def test_an_answer_that_is_not_finite_names_its_row(tmp_path: Path) -> None:
    digest = onnx_models.write_bundle(tmp_path)
    model = HeatModel(bundle.load(tmp_path, digest))
    with pytest.raises(NotFinite) as caught:
        model.answer(np.array([[0.5, 0.5, 0.5], [1e308, 1e308, 1e308]]), None)
    assert (caught.value.row, caught.value.inside) == (1, False)


def answer(outside: np.ndarray, r2: np.ndarray, violation: np.ndarray) -> Answer:
    ones = np.ones(len(outside))
    return Answer(np.ones((len(outside), 3)), ones, ones, np.sqrt(r2), r2, outside, violation)


batches = st.lists(st.integers(1, 700), min_size=1, max_size=6)


@given(batches, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_gauges_are_the_means_of_the_last_thousand_points_however_they_came(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    outside, r2 = rng.random(total) < 0.3, rng.random(total)
    r2[rng.random(total) < 0.2] = np.nan
    violation = rng.choice([0.0, 1.0, np.nan], total)
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry, version="1.0.0", track="blue", boundary=True)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        part = slice(end - size, end)
        metrics.points(answer(outside[part], r2[part], violation[part]))

    def sample(name: str) -> float | None:
        return registry.get_sample_value(name, {"version": "1.0.0", "track": "blue"})

    last = slice(-WINDOW_POINTS, None)
    assert sample("pinn_inputs_oob_ratio") == pytest.approx(outside[last].mean())
    for name, column in {"pinn_pde_residual_mean": r2, "pinn_bcViolation_ratio": violation}.items():
        known = column[last][~np.isnan(column[last])]
        assert sample(name) == (pytest.approx(known.mean()) if known.size else None)
    assert sample("pinn_inputs_total") == total
    assert sample("pinn_inputs_oob_total") == outside.sum()
    assert sample("pinn_pde_residual_count") == np.isfinite(r2).sum()
    assert sample("pinn_pde_residual_sum") == pytest.approx(np.nansum(r2))
    assert sample("pinn_bc_inputs_total") == np.isfinite(violation).sum()
    assert sample("pinn_bc_violations_total") == np.nansum(violation)


def test_a_batch_larger_than_the_window_keeps_its_last_points() -> None:
    window = Window(size=10)
    ramp = np.arange(25, dtype=float)
    window.add(answer(ramp >= 20, ramp, np.full(25, np.nan)))
    assert window.means() == (0.5, ramp[-10:].mean(), None)


def test_without_a_boundary_condition_there_is_no_violation_metric() -> None:
    registry = prometheus_client.CollectorRegistry()
    Metrics(registry, version="1.0.0", track="blue", boundary=False)
    text = prometheus_client.generate_latest(registry).decode()
    assert "pinn_inputs_oob_ratio" in text
    assert "pinn_bc" not in text


def logged(points: int, value: float) -> Answer:
    filled = np.full(points, value)
    return Answer(np.full((points, 3), value), filled, filled, filled, filled, filled > 0, np.full(points, np.nan))


def test_the_prediction_log_rotates_and_the_folder_stays_bounded(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = PredictionLog(
        tmp_path, version="1.0.0", track="blue", dropped=dropped.append, file_bytes=20_000, limit_bytes=100_000
    )
    for number in range(60):
        log.put(datetime.now(UTC), logged(100, float(number)))
    log.close()
    files = sorted(tmp_path.iterdir())
    assert sum(file.stat().st_size for file in files) <= 100_000
    assert all(file.stat().st_size <= 20_000 for file in files)
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [line["x"] for line in lines] == sorted(line["x"] for line in lines), "oldest first"
    assert lines[-1]["x"] == 59.0
    assert set(lines[0]) == {"timestamp", "version", "track", "x", "y", "t", "u", "residual", "bc"}
    assert not dropped


def test_a_writer_that_cannot_keep_up_drops_points_and_never_waits(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = PredictionLog(tmp_path, version="1.0.0", track="blue", dropped=dropped.append)
    log.put(datetime.now(UTC), logged(QUEUE_POINTS + 1, 1.0))
    log.put(datetime.now(UTC), logged(10, 2.0))
    log.close()
    assert dropped == [QUEUE_POINTS + 1]
    kept = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert len(kept) == 10


def test_a_full_disk_costs_log_lines_and_not_the_server(tmp_path: Path) -> None:
    dropped: list[int] = []
    log = PredictionLog(tmp_path, version="1.0.0", track="blue", dropped=dropped.append)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    log.put(datetime.now(UTC), logged(7, 1.0))
    log.put(datetime.now(UTC), logged(5, 2.0))
    log.close()
    assert dropped == [7]
    (kept,) = (file.read_text().splitlines() for file in tmp_path.iterdir())
    assert [json.loads(line)["x"] for line in kept] == [2.0] * 5, "with space again, in a file of its own"
