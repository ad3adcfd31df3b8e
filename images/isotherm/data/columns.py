"""Named columns in HDF5 and Parquet files: what a batch of measurements looks like on disk.

HDF5     1-D datasets at the root; root attribute `schema_version`; attribute `units` on each column but `sensor_id`
Parquet  columns of the same names; file metadata `schema_version` and `units` (JSON: column -> unit)
Errors   `tekton.BadInput` naming file and column; a file is refused that reaches into another file or is too large
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isotherm.tekton import BadInput

SCHEMA_VERSION = 1
REQUIRED = ("x", "y", "t", "u")
OPTIONAL = ("sigma", "sensor_id")
MAX_ROWS = 20_000_000


@dataclass(frozen=True)
class Columns:
    """Columns by name, all [n], and the unit of each but `sensor_id`."""

    values: dict[str, NDArray[Any]]
    units: dict[str, str]


def read_hdf5(path: Path, file: str) -> Columns:
    """Read a batch from HDF5; `file` is what error messages call it."""
    import h5py

    try:
        # No lock: the workspace may be mounted read-only or on NFS.
        with h5py.File(path, "r", locking=False) as root:
            _check_version(root.attrs.get("schema_version"), file)
            names = [name for name in (*REQUIRED, *OPTIONAL) if root.get(name, getlink=True) is not None]
            _check_names(names, file)
            # Lengths first: a file of a few bytes can claim columns that no memory holds.
            lengths = {name: _hdf5_rows(root, name, file) for name in names}
            _check_lengths(lengths, file)
            values = {name: _hdf5_column(root[name], name, file) for name in names}
            units = {name: _text(root[name].attrs.get("units")) for name in names if name != "sensor_id"}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        what = f"{file} is not a readable HDF5 file, empty or truncated ({_short(error)})"
        raise BadInput(what, remedy="write it again, or push and fetch it again") from error
    return _checked(values, units, file)


def read_parquet(path: Path, file: str) -> Columns:
    """Read a batch from Parquet; `file` is what error messages call it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
            _check_version(metadata.get(b"schema_version"), file)
            names = [name for name in (*REQUIRED, *OPTIONAL) if name in parquet.schema_arrow.names]
            _check_names(names, file)
            _check_lengths(dict.fromkeys(names, parquet.metadata.num_rows), file)
            table = parquet.read(columns=names)
    except (OSError, pa.ArrowException) as error:
        what = f"{file} is not a readable Parquet file, empty or truncated ({_short(error)})"
        raise BadInput(what, remedy="write it again, or push and fetch it again") from error
    values = {name: _arrow_column(table.column(name), name, file) for name in names}
    try:
        units = json.loads(metadata.get(b"units", b"{}"))
        declared = {name: str(units[name]) for name in names if name in units and name != "sensor_id"}
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise BadInput(f"{file}: metadata `units` is not JSON of column -> unit", remedy="write it again") from error
    return _checked(values, declared, file)


def read_source(path: Path, file: str) -> dict[str, NDArray[np.float64]]:
    """Read a tabulated source, Parquet columns `x y t f` [n], finite."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ["x", "y", "t", "f"]
    try:
        with pq.ParquetFile(path) as parquet:
            missing = [name for name in wanted if name not in parquet.schema_arrow.names]
            if missing:
                raise BadInput(f"{file}: column {missing[0]} is missing", remedy="give the columns x y t f")
            _check_lengths({"x": parquet.metadata.num_rows}, file)
            table = parquet.read(columns=wanted)
    except (OSError, pa.ArrowException) as error:
        what = f"{file}, named by source.file, is no readable Parquet file ({_short(error)})"
        raise BadInput(what, remedy="add the table to the dataset, or write it again") from error
    values = {name: _arrow_column(table.column(name), name, file) for name in wanted}
    for name, column in values.items():
        if not np.isfinite(column).all():
            row = int(np.argmin(np.isfinite(column)))
            raise BadInput(f"{file}, column {name}, row {row}: {column[row]} is not finite", remedy="mend the row")
    return values


def hdf5_bytes(values: Mapping[str, NDArray[Any]], units: Mapping[str, str], metadata: Mapping[str, str]) -> bytes:
    """Write columns as an HDF5 file in memory."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as root:
        root.attrs["schema_version"] = SCHEMA_VERSION
        for key, text in metadata.items():
            root.attrs[key] = text
        for name, column in values.items():
            text_type = h5py.string_dtype() if column.dtype.kind == "U" else column.dtype
            dataset = root.create_dataset(name, data=column.astype(text_type))
            if name in units:
                dataset.attrs["units"] = units[name]
    return buffer.getvalue()


def parquet_bytes(values: Mapping[str, NDArray[Any]], units: Mapping[str, str], metadata: Mapping[str, str]) -> bytes:
    """Write columns as a Parquet file in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = {"schema_version": str(SCHEMA_VERSION), "units": json.dumps(dict(units), sort_keys=True)}
    table = pa.table({name: pa.array(column) for name, column in values.items()})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**metadata, **own}), buffer, compression="zstd")
    return buffer.getvalue()


def _check_version(version: object, file: str) -> None:
    text = _text(version)
    if text != str(SCHEMA_VERSION):
        found = f"has schema_version {text!r}" if text else "has no schema_version"
        remedy = f"write it with schema_version = {SCHEMA_VERSION} (docs/contracts.md, section `A dataset`)"
        raise BadInput(f"{file} {found}, this program reads {SCHEMA_VERSION}", remedy=remedy)


def _check_names(names: list[str], file: str) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise BadInput(f"{file}: column {missing[0]} is missing", remedy=f"give the columns {' '.join(REQUIRED)}")


def _check_lengths(lengths: Mapping[str, int], file: str) -> None:
    first, n = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != n:
            what = f"{file}: column {name} has {length} rows, column {first} has {n}"
            raise BadInput(what, remedy="give every column the same number of rows")
    if not 0 < n <= MAX_ROWS:
        remedy = "give at least one measurement" if n == 0 else f"thin the measurements to {MAX_ROWS} rows"
        raise BadInput(f"{file} has {n} rows", remedy=remedy)


def _hdf5_rows(root: Any, name: str, file: str) -> int:
    import h5py

    if not isinstance(root.get(name, getlink=True), h5py.HardLink) or not isinstance(root[name], h5py.Dataset):
        raise BadInput(f"{file}: column {name} is a link or a group", remedy="store the column itself at the root")
    dataset = root[name]
    if dataset.is_virtual or dataset.external:
        raise BadInput(f"{file}: column {name} keeps its data in another file", remedy="store the column itself")
    if dataset.ndim != 1:
        what = f"{file}: column {name} has {dataset.ndim} dimensions"
        raise BadInput(what, remedy="store one number per row, one dimension")
    return int(dataset.shape[0])


def _hdf5_column(dataset: Any, name: str, file: str) -> NDArray[Any]:
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is not None:
        return _typed(dataset.asstr()[:].astype(np.str_), name, file)
    return _typed(dataset[:], name, file)


def _arrow_column(column: Any, name: str, file: str) -> NDArray[Any]:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise BadInput(f"{file}, column {name}, row {row}: the value is missing", remedy="drop or mend the row")
    return _typed(np.asarray(column.to_numpy()), name, file)


def _typed(values: NDArray[Any], name: str, file: str) -> NDArray[Any]:
    """Turn a column into float64, or for `sensor_id` into whole numbers or text."""
    if name == "sensor_id":
        if values.dtype.kind == "O":
            return values.astype(np.str_)
        if values.dtype.kind in "iu":
            return values.astype(np.int64)
        if values.dtype.kind == "f":
            whole = np.isfinite(values) & (values == np.round(values))
            if not whole.all():
                row = int(np.argmin(whole))
                what = f"{file}, column sensor_id, row {row}: {values[row]} is not a whole number"
                raise BadInput(what, remedy="name each sensor by a whole number or text")
            return values.astype(np.int64)
    if name == "sensor_id" and values.dtype.kind == "U":
        return values
    if values.dtype.kind not in "iuf":
        raise BadInput(f"{file}: column {name} holds {values.dtype}, not real numbers", remedy="store it as float64")
    return values.astype(np.float64)


def _checked(values: dict[str, NDArray[Any]], units: dict[str, str], file: str) -> Columns:
    for name in REQUIRED:
        if not units.get(name):
            what = f"{file}: column {name} has no units"
            raise BadInput(what, remedy="name the unit of x, y, t and u in the file (1 = dimensionless)")
    return Columns(values, {name: unit for name, unit in units.items() if unit})


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
