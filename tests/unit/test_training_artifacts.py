"""Pictures carry their numbers, the hardware report never fails, equal experiments have equal manifests."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isotherm.pinn import hardware, manifest, plots

X, Y = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 2, 7))
PNG = b"\x89PNG"


def rows(picture: Path) -> list[dict[str, str]]:
    with picture.with_suffix(".csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("truth", [None, X + 1])
@pytest.mark.parametrize("spread", [None, 0.1 * Y])
@pytest.mark.parametrize("a", [X * Y + 1, np.full_like(X, 1.1e-5)])
def test_a_field_is_drawn_with_or_without_truth_and_even_when_constant(
    tmp_path: Path, a: np.ndarray, truth: np.ndarray | None, spread: np.ndarray | None
) -> None:
    picture = plots.diffusivity(tmp_path / "a", X, Y, a, truth=truth, spread=spread, unit="m2/s")
    assert picture.read_bytes().startswith(PNG)
    table = rows(picture)
    assert len(table) == a.size
    assert ("a_true" in table[0]) == (truth is not None)
    assert np.allclose([float(row["a"]) for row in table], a.ravel(), rtol=1e-6)


def test_residuals_curves_samples_and_misfits_are_drawn(tmp_path: Path) -> None:
    history = {name: np.linspace(1, 0.1, 5) for name in ("iteration", "objective", "misfit", "pde", "stage")}
    points = np.random.default_rng(0).random((40, 3))
    drawn = [
        plots.residual_map(tmp_path / "r", X, Y, np.zeros_like(X)),
        plots.training_curves(tmp_path / "c", [history, history], chosen=1),
        plots.samples(tmp_path / "s", points, points[:4], np.empty((0, 3))),
        plots.misfits(tmp_path / "m", points[:, 0], None),
        plots.temperature(tmp_path / "u", X, Y, X * Y, t=0.5, truth=X * Y, unit="1", time_unit="1"),
    ]
    assert all(picture.read_bytes().startswith(PNG) for picture in drawn)
    assert len(rows(drawn[1])) == 10


def test_the_hardware_report_has_every_section_even_without_tools() -> None:
    command = [sys.executable, "-m", "isotherm.pinn.hardware", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nonexistent"}, check=True)
    report = json.loads(done.stdout)
    assert set(hardware.SECTIONS) <= set(report)
    assert "lsblk not found" in report["DISKS"]
    assert "Model name" in report["CPU"]  # /proc serves where lscpu is missing


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)))
def test_a_manifest_does_not_depend_on_the_order_of_its_fields(block: dict[str, float | str]) -> None:
    first = manifest.build(D=block, M={}, Theta={"seed": 1}, R={})
    second = manifest.build(D=dict(reversed(block.items())), M={}, Theta={"seed": 1}, R={})
    assert first["digest"] == second["digest"]
    assert manifest.build(D=block, M={}, Theta={"seed": 2}, R={})["digest"] != first["digest"]


def test_a_manifest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        manifest.build(D={}, M={}, Theta={}, R={"pde_loss": math.nan})
