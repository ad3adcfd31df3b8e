"""Bad data never reaches the trainer: each kind is refused in one line that names file, column and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isotherm import tekton
from isotherm.data import benchmarks, schema
from isotherm.physics.problem import Problem

N = 40
CLOSURE = {
    "kind": "area-mean-closure",
    "b": {"value": 1.2e-3, "relative_sigma": 0.2},
    "s": {"value": 0.3, "relative_sigma": 0.05},
    "x0": [0, 0],
    "ambient": "ambient.csv",
}


def problem(**changed: object) -> Problem:
    return Problem.model_validate({**benchmarks.HEATINV, "sigma": 0.1, **changed})


def columns() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0, 1, N) for name in "xytu"} | {"sigma": np.full(N, 0.1), "sensor_id": np.arange(N)}


def units() -> dict[str, str]:
    return dict.fromkeys(("x", "y", "t", "u", "sigma"), "1")


def save(folder: Path, fmt: str, values: dict[str, Any], unit: dict[str, str], version: object = 1) -> Path:
    """Write a file as a user's own program would, without our writer's care."""
    path = folder / f"measurements.{fmt}"
    (folder / "problem.yaml").write_text(problem().to_yaml())
    if fmt == "h5":
        with h5py.File(path, "w") as root:
            root.attrs["schema_version"] = version
            for name, column in values.items():
                root[name] = column
                if name in unit:
                    root[name].attrs["units"] = unit[name]
    else:
        metadata = {"schema_version": str(version), "units": json.dumps(unit)}
        pq.write_table(pa.table(values).replace_schema_metadata(metadata), path)
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(tekton.BadInput) as error:
        schema.load(folder, "data/plate")
    line = error.value.line()
    assert "\n" not in line
    return line


def put(name: str, row: int, value: float) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(values: dict[str, Any], _: dict[str, str]) -> None:
        values[name][row] = value

    return change


def drop(name: str) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(values: dict[str, Any], _: dict[str, str]) -> None:
        del values[name]

    return change


@pytest.mark.parametrize("fmt", ["h5", "parquet"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop("x"), "column x is missing"),
        (drop("u"), "column u is missing"),
        (put("u", 7, np.nan), "column u, row 7: nan is not a finite number"),
        (put("x", 39, np.inf), "column x, row 39: inf is not a finite number"),
        (put("sigma", 3, np.nan), "column sigma, row 3"),
        (put("sigma", 3, 0.0), "column sigma, row 3: 0 is not above 0"),
        (put("sigma", 0, -1.0), "column sigma, row 0: -1 is not above 0"),
        (put("x", 12, 1.5), "column x, row 12: 1.5 is outside the domain, -1 to 1"),
        (put("t", 1, -0.01), "column t, row 1: -0.01 is outside the domain, 0 to 1"),
        (lambda v, _: v.update(t=np.zeros(N)), "column t, row 0: every row has t = 0, only one time level"),
        (lambda _, u: u.update(u="K"), "column u: the unit is 'K', but problem.yaml says '1'"),
        (lambda _, u: u.update(sigma="K"), "column sigma: the unit is 'K'"),
        (lambda _, u: u.pop("t"), "column t has no units"),
        (lambda v, _: v.update({name: column[:0] for name, column in v.items()}), "has 0 rows"),
        (lambda v, _: v.update(u=np.full(N, "warm", dtype="S4")), "column u holds"),
        (lambda v, _: v.update(sensor_id=np.arange(N) + 0.5), "column sensor_id, row 0: 0.5 is not a whole number"),
    ],
)
def test_a_wrong_column_is_named_with_file_and_row(tmp_path: Path, fmt: str, change: Any, named: str) -> None:
    values, unit = columns(), units()
    change(values, unit)
    save(tmp_path, fmt, values, unit)
    line = refusal(tmp_path)
    assert f"data/plate/measurements.{fmt}" in line
    assert named in line


@pytest.mark.parametrize("fmt", ["h5", "parquet"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.98])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, fmt: str, kept: float) -> None:
    path = save(tmp_path, fmt, columns(), units())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert f"data/plate/measurements.{fmt} is not a readable" in refusal(tmp_path)


@pytest.mark.parametrize("fmt", ["h5", "parquet"])
@pytest.mark.parametrize("version", [2, ""])
def test_another_schema_version_is_refused(tmp_path: Path, fmt: str, version: object) -> None:
    save(tmp_path, fmt, columns(), units(), version)
    assert "schema_version" in refusal(tmp_path)


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "h5", columns() | {"u": np.zeros(N - 1)}, units())
    assert f"column u has {N - 1} rows, column x has {N}" in refusal(tmp_path)


def test_a_missing_value_in_parquet_is_refused(tmp_path: Path) -> None:
    values = columns()
    save(tmp_path, "parquet", values | {"u": [None if row == 5 else 0.5 for row in range(N)]}, units())
    assert "column u, row 5: the value is missing" in refusal(tmp_path)


def test_a_two_dimensional_column_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "h5", columns() | {"u": np.zeros((N, 2))}, units())
    assert "column u has 2 dimensions" in refusal(tmp_path)


@pytest.mark.parametrize("way", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_that_reaches_into_another_file_is_refused(tmp_path: Path, way: str) -> None:
    path = save(tmp_path, "h5", columns(), units())
    elsewhere = tmp_path / "elsewhere.h5"
    with h5py.File(elsewhere, "w") as other:
        other["u"] = np.zeros(N)
    with h5py.File(path, "r+") as root:
        del root["u"]
        if way == "external link":
            root["u"] = h5py.ExternalLink(str(elsewhere), "u")
        elif way == "soft link":
            root["u"] = h5py.SoftLink("/x")
        elif way == "external storage":
            root.create_dataset("u", (N,), "f8", external=[(str(elsewhere), 0, 8 * N)])
        else:
            layout = h5py.VirtualLayout((N,), "f8")
            layout[:] = h5py.VirtualSource(str(elsewhere), "u", (N,))
            root.create_virtual_dataset("u", layout)
    assert "column u" in refusal(tmp_path)


def test_a_claim_of_more_rows_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, "h5", {}, {})
    with h5py.File(path, "r+") as root:
        for name in "xytu":
            root.create_dataset(name, (10**12,), "f8", chunks=(1024,))
    assert "has 1000000000000 rows" in refusal(tmp_path)


def test_no_measurements_two_of_them_or_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "problem.yaml").write_text(problem().to_yaml())
    assert "neither measurements.h5 nor measurements.parquet" in refusal(tmp_path)
    real = save(tmp_path, "h5", columns(), units())
    save(tmp_path, "parquet", columns(), units())
    assert "both" in refusal(tmp_path)
    (tmp_path / "measurements.parquet").unlink()
    real.rename(tmp_path / "real.h5")
    real.symlink_to(tmp_path / "real.h5")
    assert "not a plain file" in refusal(tmp_path)


def test_an_ambient_record_must_cover_the_measurement(tmp_path: Path) -> None:
    save(tmp_path, "h5", columns(), units())
    (tmp_path / "problem.yaml").write_text(problem(source=CLOSURE).to_yaml())
    assert "ambient.csv" in refusal(tmp_path)
    (tmp_path / "ambient.csv").write_text("t,ambient\n0,18\n0.5,18\n")
    assert "covers 0 to 0.5" in refusal(tmp_path)
    (tmp_path / "ambient.csv").write_text("t,ambient\n0,18\n1,18\n")
    schema.load(tmp_path)


def test_a_source_table_must_be_a_full_grid(tmp_path: Path) -> None:
    save(tmp_path, "h5", columns(), units())
    (tmp_path / "problem.yaml").write_text(problem(source={"kind": "table", "file": "f.parquet"}).to_yaml())
    assert "f.parquet" in refusal(tmp_path)
    x, y, t = (axis.ravel() for axis in np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 0.5, 1.0], indexing="ij"))
    grid = {"x": x, "y": y, "t": t, "f": x + t}
    pq.write_table(pa.table(grid), tmp_path / "f.parquet")
    schema.load(tmp_path)
    for broken in ({k: v[:-1] for k, v in grid.items()}, grid | {"x": np.zeros_like(x)}):
        pq.write_table(pa.table(broken), tmp_path / "f.parquet")
        assert "full grid" in refusal(tmp_path)
