"""A dataset folder: measurements in HDF5 or Parquet beside a `problem.yaml`, checked before any training.

Input   `problem.yaml`, `measurements.{h5,parquet}`, optionally `validation.{h5,parquet}` (a separate batch)
Output  `Dataset`: the problem, the training batch and the held-out batch, float64 arrays in physical units
Errors  `tekton.BadInput` in one line that names file, column and row (rows count from 0, as the arrays do)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isotherm.contract import MEASUREMENTS_STEM, PROBLEM_FILE, VALIDATION_STEM
from isotherm.data import columns
from isotherm.physics.problem import AreaMeanClosure, Problem, Table, load_ambient
from isotherm.tekton import BadInput, write_atomic

Array = NDArray[np.float64]
Format = Literal["h5", "parquet"]

SCHEMA_VERSION = columns.SCHEMA_VERSION
HELD_OUT_EVERY = 10
DOMAIN_TOLERANCE = 1e-6  # of the domain's width: rounding of coordinates, nothing more


@dataclass(frozen=True)
class Batch:
    """Measurements in physical units: every array is [n] and row k of each belongs together.

    `sigma` is the noise of each u where the batch knows it; `sensor_id` (whole numbers or text) groups rows by sensor.
    """

    x: Array
    y: Array
    t: Array
    u: Array
    sigma: Array | None = None
    sensor_id: NDArray[Any] | None = None

    def __len__(self) -> int:
        return int(self.u.size)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns that the batch has, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def rows(self, chosen: NDArray[Any]) -> Batch:
        """Return the rows that a mask or an index array chooses."""
        return Batch(**{name: values[chosen] for name, values in self.columns().items()})


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is judged by; `measured` counts the rows of the measurements file."""

    problem: Problem
    train: Batch
    validation: Batch
    heldout_rule: str
    measured: int


def load(folder: Path, name: str | None = None) -> Dataset:
    """Read and check a dataset folder; `name` is what error messages call it (default: its path).

    Raises `BadInput` for the first thing that is wrong with it.
    """
    label = name or str(folder)
    problem = Problem.load(folder / PROBLEM_FILE, f"{label}/{PROBLEM_FILE}")
    measurements = _read_batch(folder, MEASUREMENTS_STEM, label, problem)
    if measurements is None:
        what = f"{label} holds neither {MEASUREMENTS_STEM}.h5 nor {MEASUREMENTS_STEM}.parquet"
        raise BadInput(what, remedy="add the measurements to the dataset")
    batch, file = measurements
    if np.unique(batch.t).size < 2:
        what = f"{file}, column t, row 0: every row has t = {batch.t[0]:g}, only one time level"
        raise BadInput(what, remedy="diffusion shows only over time: give measurements at two times or more")
    _check_companions(folder, label, problem, batch)
    validation = _read_batch(folder, VALIDATION_STEM, label, problem)
    if validation is not None:
        return Dataset(problem, batch, validation[0], f"separate batch {Path(validation[1]).name}", len(batch))
    held_out, rule = held_out_rows(batch, file)
    return Dataset(problem, batch.rows(~held_out), batch.rows(held_out), rule, len(batch))


def held_out_rows(batch: Batch, file: str = "measurements") -> tuple[NDArray[np.bool_], str]:
    """Choose the rows to hold out, from the data alone: a tenth of the sensors, or every tenth row without ten sensors.

    Returns a mask [n] and the rule in words. Raises `BadInput` for fewer than ten rows.
    """
    if len(batch) < HELD_OUT_EVERY:
        what = f"{file} has {len(batch)} rows and there is no {VALIDATION_STEM} batch"
        raise BadInput(what, remedy=f"give {HELD_OUT_EVERY} rows or more: every tenth is held out")
    if batch.sensor_id is not None:
        sensors = np.unique(batch.sensor_id)
        # In the order of a hash: every tenth of a numbered grid would be a diagonal line across the plate.
        sensors = np.array(sorted(sensors, key=lambda sensor: hashlib.sha256(str(sensor).encode()).digest()))
        chosen = sensors[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        if chosen.size:
            rule = f"every tenth sensor by the hash of sensor_id ({chosen.size} of {sensors.size})"
            return np.isin(batch.sensor_id, chosen), rule
    mask = np.arange(len(batch)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return mask, f"every tenth row ({np.count_nonzero(mask)} of {len(batch)})"


def write(
    folder: Path,
    batch: Batch,
    problem: Problem,
    fmt: Format,
    *,
    stem: str = MEASUREMENTS_STEM,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write `problem.yaml` and one batch into a dataset folder, atomically; equal content gives equal bytes.

    `metadata` (licence, citation, ...) is kept in the file beside the data. Returns the batch's file.
    """
    writer: Callable[..., bytes] = columns.hdf5_bytes if fmt == "h5" else columns.parquet_bytes
    units = {name: problem.units.of(name) for name in batch.columns() if name != "sensor_id"}
    path = folder / f"{stem}.{fmt}"
    write_atomic(path, writer(batch.columns(), units, metadata or {}))
    write_atomic(folder / PROBLEM_FILE, problem.to_yaml())
    return path


def _read_batch(folder: Path, stem: str, label: str, problem: Problem) -> tuple[Batch, str] | None:
    found = [folder / f"{stem}.{fmt}" for fmt in ("h5", "parquet") if os.path.lexists(folder / f"{stem}.{fmt}")]
    if len(found) > 1:
        raise BadInput(f"{label} holds both {found[0].name} and {found[1].name}", remedy="keep one of the two")
    if not found:
        return None
    path, file = found[0], f"{label}/{found[0].name}"
    if path.is_symlink() or not path.is_file():
        raise BadInput(f"{file} is not a plain file", remedy="put the data itself there, not a link")
    table = columns.read_hdf5(path, file) if path.suffix == ".h5" else columns.read_parquet(path, file)
    for column, unit in table.units.items():
        if unit != problem.units.of(column):
            what = f"{file}, column {column}: the unit is {unit!r}, but problem.yaml says {problem.units.of(column)!r}"
            raise BadInput(what, remedy="convert the data or correct problem.yaml")
    batch = Batch(**table.values)
    _check_values(batch, file)
    _check_domain(batch, file, problem)
    return batch, file


def _check_values(batch: Batch, file: str) -> None:
    for column, values in batch.columns().items():
        if column == "sensor_id":
            continue
        _refuse_rows(~np.isfinite(values), values, file, column, "is not a finite number", "drop or mend the row")
    if batch.sigma is not None:
        _refuse_rows(
            batch.sigma <= 0, batch.sigma, file, "sigma", "is not above 0", "give the noise as a positive number"
        )


def _check_domain(batch: Batch, file: str, problem: Problem) -> None:
    for axis in ("x", "y", "t"):
        lower, upper = getattr(problem.domain, axis)
        slack = DOMAIN_TOLERANCE * (upper - lower)
        values = getattr(batch, axis)
        outside = (values < lower - slack) | (values > upper + slack)
        why = f"is outside the domain, {lower:g} to {upper:g} {problem.units.of(axis)}"
        _refuse_rows(outside, values, file, axis, why, "check the unit, or correct `domain` in problem.yaml")


def _refuse_rows(bad: NDArray[np.bool_], values: Array, file: str, column: str, why: str, remedy: str) -> None:
    count = int(np.count_nonzero(bad))
    if count:
        row = int(np.argmax(bad))
        more = f" (first of {count} such rows)" if count > 1 else ""
        raise BadInput(f"{file}, column {column}, row {row}: {values[row]:g} {why}{more}", remedy=remedy)


def _check_companions(folder: Path, label: str, problem: Problem, batch: Batch) -> None:
    """Refuse a source whose own file is missing, broken or does not cover the measurements."""
    if isinstance(problem.source, AreaMeanClosure):
        name = f"{label}/{problem.source.ambient}"
        t, _ = load_ambient(folder, problem.source, name)
        if t[0] > batch.t.min() or t[-1] < batch.t.max():
            span = f"{batch.t.min():g} to {batch.t.max():g}"
            what = f"{name}, column t: covers {t[0]:g} to {t[-1]:g}, the measurements {span}"
            raise BadInput(what, remedy="give the ambient over the whole measurement")
    if isinstance(problem.source, Table):
        _check_source_table(folder / problem.source.file, f"{label}/{problem.source.file}")


def _check_source_table(path: Path, file: str) -> None:
    """Refuse a tabulated source whose rows are not exactly one per point of a full grid."""
    values = columns.read_source(path, file)
    axes = [np.unique(values[axis]) for axis in ("x", "y", "t")]
    shape = tuple(axis.size for axis in axes)
    index = [np.searchsorted(axis, values[q]) for axis, q in zip(axes, ("x", "y", "t"), strict=True)]
    flat = np.ravel_multi_index(index, shape)
    if min(shape) < 2 or flat.size != np.prod(shape) or np.unique(flat).size != flat.size:
        what = (
            f"{file}: {flat.size} rows are not the full grid of {shape[0]} x {shape[1]} x {shape[2]} points (x, y, t)"
        )
        raise BadInput(what, remedy="give f once at every point of a grid with two values or more on each axis")


def describe(dataset: Dataset) -> str:
    """Say in one line what a dataset holds, for the log."""
    counts = f"{len(dataset.train)} rows to train, {len(dataset.validation)} held out: {dataset.heldout_rule}"
    return json.dumps(dataset.problem.title, ensure_ascii=False)[1:-1] + f" ({dataset.problem.id}): {counts}"
