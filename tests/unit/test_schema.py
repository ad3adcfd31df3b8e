"""Datasets: what is written is read back, in both formats; what is held out depends on the data alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm import tekton
from isotherm.data import benchmarks, schema
from isotherm.physics.problem import Problem

PROBLEM = Problem.model_validate({**benchmarks.HEATINV, "sigma": 0.1})
FORMATS: tuple[schema.Format, ...] = ("h5", "parquet")


def batch(n: int = 40, **more: object) -> schema.Batch:
    rng = np.random.default_rng(0)
    columns = {name: rng.uniform(0, 1, n) for name in "xytu"}
    return schema.Batch(**{**columns, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("sensor_id", [None, np.repeat(np.arange(20), 2), np.repeat(list("abcdefghijklmnopqrst"), 2)])
def test_a_batch_is_read_back_as_it_was_written(tmp_path: Path, fmt: schema.Format, sensor_id: object) -> None:
    written = batch(sigma=np.full(40, 0.1), sensor_id=sensor_id)
    schema.write(tmp_path, written, PROBLEM, fmt, metadata={"licence": "MIT"})
    schema.write(tmp_path, written, PROBLEM, fmt, stem="validation")
    dataset = schema.load(tmp_path)
    assert dataset.problem == PROBLEM
    assert dataset.heldout_rule == f"separate batch validation.{fmt}"
    for read in (dataset.train, dataset.validation):
        assert read.columns().keys() == written.columns().keys()
        for name, values in written.columns().items():
            assert np.array_equal(getattr(read, name), values)
        assert read.u.dtype == np.float64


@pytest.mark.parametrize("fmt", FORMATS)
def test_equal_content_gives_equal_bytes(tmp_path: Path, fmt: schema.Format) -> None:
    first = schema.write(tmp_path / "a", batch(), PROBLEM, fmt).read_bytes()
    assert schema.write(tmp_path / "b", batch(), PROBLEM, fmt).read_bytes() == first


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_tenth_sensor_is_held_out_whole(tmp_path: Path, fmt: schema.Format) -> None:
    sensors = np.random.default_rng(1).permutation(np.repeat(np.arange(100, 125), 4))
    schema.write(tmp_path, batch(100, sensor_id=sensors), PROBLEM, fmt)
    dataset = schema.load(tmp_path)
    held_out = set(dataset.validation.sensor_id)  # type: ignore[arg-type]
    assert len(held_out) == 2
    assert not set(dataset.train.sensor_id) & held_out  # type: ignore[arg-type]
    assert len(dataset.train) + len(dataset.validation) == dataset.measured == 100
    assert "2 of 25" in dataset.heldout_rule


@given(st.integers(10, 300), st.randoms(use_true_random=False))
def test_the_sensors_held_out_do_not_depend_on_the_order_of_the_rows(n: int, random: object) -> None:
    sensors = np.arange(n) % 23
    order = np.array(random.sample(range(n), n))  # type: ignore[attr-defined]
    mask, rule = schema.held_out_rows(batch(n, sensor_id=sensors))
    shuffled, same_rule = schema.held_out_rows(batch(n, sensor_id=sensors[order]))
    if n >= 23:
        assert set(sensors[mask]) == set(sensors[order][shuffled]) == {0, 15}
    assert rule == same_rule
    assert 0 < np.count_nonzero(mask) < n


def test_without_ten_sensors_every_tenth_row_is_held_out() -> None:
    for more in ({}, {"sensor_id": np.arange(40) % 9}):
        mask, rule = schema.held_out_rows(batch(**more))
        assert np.flatnonzero(mask).tolist() == [9, 19, 29, 39]
        assert "row" in rule


def test_too_few_rows_to_hold_out_any_are_refused() -> None:
    with pytest.raises(tekton.BadInput, match="9 rows"):
        schema.held_out_rows(batch(9))


def test_single_precision_and_whole_numbers_are_taken_as_float64(tmp_path: Path) -> None:
    rows = batch(40, t=np.arange(40) % 2, u=np.linspace(0, 1, 40, dtype=np.float32))
    schema.write(tmp_path, rows, PROBLEM, "h5")
    dataset = schema.load(tmp_path)
    assert dataset.train.t.dtype == dataset.train.u.dtype == np.float64
