"""The infrared import: rows mean what the frames meant, in SI units, and the licence goes along."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from isotherm import tekton
from isotherm.data import thermography
from isotherm.physics.problem import AreaMeanClosure, load_ambient

REAL = Path(__file__).resolve().parents[3] / "shared/data/battery_pouch_cell_2d"
NX, NY, NT = 4, 3, 100


def frames(y: np.ndarray, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return 18.05 + 0.01 * x[None, :, None] + 0.02 * y[:, None, None] + 0.03 * t[None, None, :]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a small measurement in the form of the published one: y decreases, lengths in mm."""
    folder = tmp_path / "source"
    folder.mkdir()
    x, y = np.linspace(10, 180, NX), np.linspace(140, 6, NY)
    savemat(folder / "Exp.mat", {"E": frames(y, x, np.arange(NT)), "xe": x[None, :], "ye": y[None, :]})
    (folder / "Ta.txt").write_text("".join(f"{t} {18.0 + t / 1000}\n" for t in range(NT)))
    (folder / "LICENSE.txt").write_text("BSD 2-Clause\n")
    return folder


@pytest.mark.parametrize("seconds", [0, 1, 7, 40])
def test_every_row_says_where_when_and_how_warm(source: Path, tmp_path: Path, seconds: float) -> None:
    out = tmp_path / "out"
    dataset = thermography.import_measurement(source, out, bin_seconds=seconds)
    for batch in (dataset.train, dataset.validation):
        # u is linear in t, so a mean over a bin is the value at the bin's mean time.
        expected = 18.05 + 10 * batch.x + 20 * batch.y + 0.03 * batch.t
        assert np.allclose(batch.u, expected, atol=1e-9)
    levels = NT if seconds == 0 else int(np.ceil(NT / seconds))
    assert dataset.measured == NX * NY * levels
    t, ambient = load_ambient(out, AreaMeanClosure.model_validate(dataset.problem.source.model_dump()))
    assert np.allclose(ambient, 18 + t / 1000)
    assert (out / "LICENSE.txt").read_text() == "BSD 2-Clause\n"
    with h5py.File(out / "measurements.h5") as root:
        assert "BSD-2-Clause" in root.attrs["licence"]


@given(st.integers(2, 200), st.floats(0.5, 60))
def test_binning_keeps_the_mean_of_all_frames(nt: int, seconds: float) -> None:
    u = np.random.default_rng(nt).normal(size=(2, 2, nt))
    t, binned = thermography.bin_frames(u, seconds)
    _, counts = np.unique(np.floor(np.arange(nt) / seconds), return_counts=True)
    assert np.allclose((binned * counts).sum(axis=2), u.sum(axis=2))
    assert np.all(np.diff(t) > 0)


@pytest.mark.parametrize(
    ("seconds", "named"), [(-1, "-1"), (float("nan"), "nan"), (1e9, "one time level"), (100, "one time level")]
)
def test_bins_that_leave_no_time_are_refused(source: Path, tmp_path: Path, seconds: float, named: str) -> None:
    with pytest.raises(tekton.BadInput, match=named):
        thermography.import_measurement(source, tmp_path / "out", bin_seconds=seconds)


def test_a_source_that_is_not_the_measurement_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "Ta.txt").rename(tmp_path / "kept")
    with pytest.raises(tekton.BadInput, match=r"Ta\.txt does not exist"):
        thermography.import_measurement(source, tmp_path / "out")
    whole = (source / "Exp.mat").read_bytes()
    for content in (b"", whole[:200], b"no mat file" * 50):
        (source / "Exp.mat").write_bytes(content)
        with pytest.raises(tekton.BadInput, match=r"Exp\.mat"):
            thermography.import_measurement(source, tmp_path / "out")
    savemat(source / "Exp.mat", {"E": np.zeros((2, 2)), "xe": [[1, 2]], "ye": [[1, 2]]})
    with pytest.raises(tekton.BadInput, match="shape"):
        thermography.import_measurement(source, tmp_path / "out")


@pytest.mark.skipif(not REAL.is_dir(), reason="the infrared measurement is not beside this checkout")
def test_the_real_measurement_poses_the_documented_problem(tmp_path: Path) -> None:
    dataset = thermography.import_measurement(REAL, tmp_path)
    problem = dataset.problem
    assert dataset.measured == 121 * 25
    assert "12 of 121" in dataset.heldout_rule
    assert 17.9 < dataset.train.u.min() < dataset.train.u.max() < 25
    assert problem.domain.x == (0, 0.19)
    assert problem.domain.y == (0, 0.15)
    hottest = np.argmax(dataset.train.u)
    assert abs(dataset.train.x[hottest] - 0.09524) < 0.02  # under the heated disc
    assert abs(dataset.train.y[hottest] - 0.07308) < 0.02
    assert problem.gate.val_misfit == (0.5, 2.0)
    assert np.abs(problem.scales.to_nondimensional("u", dataset.train.u)).max() < 1
