"""The HeatInv generator: its formulas satisfy the equation, its batches are what their seed and noise say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from isotherm import tekton
from isotherm.data import benchmarks
from isotherm.physics import heatinv, reference

POINTS = np.random.default_rng(0).uniform(-0.99, 0.99, size=(200, 3))
X, Y, T = POINTS[:, 0], POINTS[:, 1], (POINTS[:, 2] + 1) / 2


def test_the_source_balances_the_equation() -> None:
    h = 1e-4

    def flux_divergence() -> np.ndarray:
        """Return div(a grad u) by conservative central differences."""
        total = np.zeros_like(X)
        for dx, dy in ((h, 0.0), (0.0, h)):
            for sign in (1, -1):
                slope = (heatinv.u(X + sign * dx, Y + sign * dy, T) - heatinv.u(X, Y, T)) / h
                total += heatinv.a(X + sign * dx / 2, Y + sign * dy / 2) * slope / h
        return total

    u_t = (heatinv.u(X, Y, T + h) - heatinv.u(X, Y, T - h)) / (2 * h)
    assert np.allclose(u_t - flux_divergence(), heatinv.f(X, Y, T), atol=1e-4)


def test_the_trainer_knows_the_same_truth() -> None:
    x, y, t = (torch.from_numpy(axis.copy()) for axis in (X, Y, T))
    for twin, ours in (
        (reference.U["heatinv"](x, y, t).v, heatinv.u(X, Y, T)),
        (reference.A["heatinv"](x, y).v, heatinv.a(X, Y)),
        (reference.F["heatinv"](x, y, t), heatinv.f(X, Y, T)),
    ):
        assert np.allclose(twin.numpy(), ours, rtol=1e-12, atol=1e-12)


def test_a_batch_carries_its_noise_and_a_validation_batch_of_other_points(tmp_path: Path) -> None:
    dataset = benchmarks.generate(tmp_path, n=2500, seed=3, noise=0.1)
    train, validation = dataset.train, dataset.validation
    assert len(train) == dataset.measured == 2500
    assert len(validation) == 1000
    assert not set(train.x) & set(validation.x)
    for batch in (train, validation):
        error = batch.u - heatinv.u(batch.x, batch.y, batch.t)
        assert abs(error.mean()) < 4 * 0.1 / np.sqrt(len(batch))
        assert error.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * len(batch)))
    assert dataset.problem.sigma == 0.1
    assert dataset.problem.tag == "heatinv:u_t - div(a grad u) = f"


def test_one_seed_gives_one_batch_and_a_smaller_batch_begins_it(tmp_path: Path) -> None:
    small = benchmarks.generate(tmp_path / "a", n=100, seed=5)
    large = benchmarks.generate(tmp_path / "b", n=300, seed=5)
    other = benchmarks.generate(tmp_path / "c", n=100, seed=6)
    assert np.array_equal(small.train.u, large.train.u[:100])
    assert np.array_equal(small.validation.u, large.validation.u)
    assert not np.array_equal(small.train.u, other.train.u)
    again = benchmarks.generate(tmp_path / "d", n=100, seed=5)
    assert (tmp_path / "a/measurements.h5").read_bytes() == (tmp_path / "d/measurements.h5").read_bytes()
    assert again.problem == small.problem


def test_without_noise_the_problem_knows_no_sigma(tmp_path: Path) -> None:
    dataset = benchmarks.generate(tmp_path, n=50, noise=0, fmt="parquet")
    assert dataset.problem.sigma is None
    assert np.array_equal(dataset.train.u, heatinv.u(dataset.train.x, dataset.train.y, dataset.train.t))


def test_points_come_from_a_file_where_one_is_given(tmp_path: Path) -> None:
    file = tmp_path / "points.dat"
    np.savetxt(file, np.column_stack([X, Y, T]))
    dataset = benchmarks.generate(tmp_path / "out", n=150, points_file=file)
    assert np.allclose(dataset.train.x, X[:150])


@pytest.mark.parametrize(
    ("content", "named"),
    [("0.1 0.2\n", "1 rows of 2"), ("0 0 0\n", "1 rows of 3"), ("a b c\n", "points.dat"), (None, "not exist")],
)
def test_a_points_file_that_does_not_fit_is_refused(tmp_path: Path, content: str | None, named: str) -> None:
    file = tmp_path / "points.dat"
    if content:
        file.write_text(content)
    with pytest.raises(tekton.BadInput, match=named):
        benchmarks.generate(tmp_path / "out", n=5, points_file=file)


def test_the_command_says_where_its_points_come_from_and_writes_the_dataset(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isotherm.data.generate", "heatinv", str(tmp_path / "out"), "--points", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "64 uniform points, seed 0" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"measurements.h5", "validation.h5", "problem.yaml"}
    refused = subprocess.run([*command, "--noise", "-1"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "noise of 0 or more" in refused.stderr.splitlines()[-1]
