"""`problem.yaml`: the one place that says which inverse heat problem a dataset poses.

Input   a YAML file of at most 64 KiB beside the measurements
Output  `Problem`, a frozen model whose values are in the units that the file names; `Scales` turns them nondimensional
Errors  `tekton.BadInput` in one line that names the file and the field
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from isotherm.contract import EQUATION, PROBLEM_FILE
from isotherm.tekton import BadInput

BUILTINS = ("heatinv",)  # problems whose closed forms live in `isotherm.physics`
LIMIT_BYTES = 64 * 1024
REMEDY = "see docs/contracts.md, section `A dataset`, for the fields and their meaning"

Array = NDArray[np.float64]
Quantity = Literal["x", "y", "t", "u", "a", "f"]


def _number(value: object) -> float:
    # YAML 1.1 reads `1e-3` (no dot) as text and `on` as true: take the first as the number it is, refuse the second.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("give a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"give a number, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError("give a finite number")
    return number


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise ValueError(f"the lower bound {pair[0]:g} is not below the upper bound {pair[1]:g}")
    return pair


def _beside(name: str) -> str:
    # A file named by the problem lies in the dataset's own folder: a path could lead out of the workspace.
    if not name or PurePosixPath(name).name != name or name in (".", ".."):
        raise ValueError(f"{name!r} is not the plain name of a file beside problem.yaml")
    return name


def _known(name: str) -> str:
    if name not in BUILTINS:
        raise ValueError(f"{name!r} is none of the built-in problems ({', '.join(BUILTINS)})")
    return name


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Interval = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
FileBeside = Annotated[str, AfterValidator(_beside)]
Unit = Annotated[str, Field(min_length=1, max_length=32)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Builtin(_Model):
    """A closed form that the package knows by name, in physical units."""

    kind: Literal["builtin"]
    name: Annotated[str, AfterValidator(_known)]


class Value(_Model):
    """One number, everywhere, in physical units."""

    kind: Literal["value"]
    value: Number


class Unknown(_Model):
    """Nothing is known: the quantity is inferred (source) or left free (`a` on the boundary)."""

    kind: Literal["unknown"]


class Zero(_Model):
    """No source: `f = 0`."""

    kind: Literal["zero"]


class Table(_Model):
    """A source given on points: a Parquet file of columns `x y t f` on a full grid, physical units."""

    kind: Literal["table"]
    file: FileBeside


class Prior(_Model):
    """A positive nuisance parameter with a log-normal prior: median `value`, sd of the logarithm `relative_sigma`."""

    value: Positive
    relative_sigma: Annotated[float, BeforeValidator(_number), Field(ge=0, le=2)]


class AreaMeanClosure(_Model):
    """A heater under the plate, seen only through the area mean U(t) of the measured u.

    f = [U' + b (U - ambient)] g_s(x - x0) - b (u - ambient); g_s is a Gaussian of sd s and mean 1 over the plate.
    `b` is in 1/t, `s` and `x0` in the unit of x; `ambient` names a CSV file with the columns `t,ambient`.
    """

    kind: Literal["area-mean-closure"]
    b: Prior
    s: Prior
    x0: tuple[Number, Number]
    ambient: FileBeside


class Insulated(_Model):
    """No heat crosses the edges: the normal derivative of u is zero."""

    kind: Literal["insulated"]


class FieldDiffusivity(_Model):
    """`a` varies over the plate."""

    kind: Literal["field"]


class ConstantDiffusivity(_Model):
    """One number `a` for the whole plate."""

    kind: Literal["constant"]


Source = Annotated[Builtin | Zero | Table | AreaMeanClosure | Unknown, Field(discriminator="kind")]
BoundaryU = Annotated[Insulated | Value | Builtin, Field(discriminator="kind")]
Known = Annotated[Value | Builtin, Field(discriminator="kind")]
BoundaryA = Annotated[Value | Builtin | Unknown, Field(discriminator="kind")]
DiffusivityModel = Annotated[FieldDiffusivity | ConstantDiffusivity, Field(discriminator="kind")]


class Units(_Model):
    """Unit strings, as on the measurements; `1` is dimensionless. `x` stands for x and y, `a` is x^2/t."""

    x: Unit
    t: Unit
    u: Unit
    a: Unit

    @model_validator(mode="after")
    def _a_is_x2_per_t(self) -> Units:
        squares = [f"{self.x}{power}" for power in ("2", "^2", "²", "**2")] if self.x != "1" else ["1"]
        allowed = squares if self.t == "1" else [f"{square}/{self.t}" for square in squares]
        if self.a not in allowed:
            raise ValueError(f"a is in {self.a!r}, but x in {self.x!r} and t in {self.t!r} make it {allowed[0]!r}")
        return self

    def of(self, column: str) -> str:
        """Return the unit of a measurement column: `x y t u`, or `sigma`, which is in u's."""
        units: dict[str, str] = {"x": self.x, "y": self.x, "t": self.t, "u": self.u, "sigma": self.u}
        return units[column]


class Domain(_Model):
    """The box in which the equation holds, in physical units."""

    x: Interval
    y: Interval
    t: Interval


class Scales(_Model):
    """physical = offset + scale * nondimensional; only u has an offset.

    Methods take floats, numpy arrays and torch tensors alike.
    """

    length: Positive
    time: Positive
    u: Positive
    u_offset: Number

    def of(self, quantity: Quantity) -> float:
        """Return the scale of a quantity: a's is length^2/time, f's is u/time."""
        scales: dict[str, float] = {
            "x": self.length,
            "y": self.length,
            "t": self.time,
            "u": self.u,
            "a": self.length**2 / self.time,
            "f": self.u / self.time,
        }
        return scales[quantity]

    def to_nondimensional(self, quantity: Quantity, value: Any) -> Any:
        """Turn a physical value into its nondimensional one."""
        return (value - self.u_offset) / self.u if quantity == "u" else value / self.of(quantity)

    def to_physical(self, quantity: Quantity, value: Any) -> Any:
        """Turn a nondimensional value into its physical one."""
        return self.u_offset + self.u * value if quantity == "u" else self.of(quantity) * value


class Gate(_Model):
    """The problem's own limits; None leaves the catalog's default (`contract.GATE_*`) in force."""

    pde_loss_max: Positive | None = None
    val_residual_max: Positive | None = None
    val_misfit: Interval | None = None
    a_spread_max: Positive | None = None


class Problem(_Model):
    """An inverse heat problem `u_t - div(a grad u) = f` on a box, as a dataset's `problem.yaml` poses it."""

    schema_version: Literal[1]
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    units: Units
    domain: Domain
    scales: Scales
    sigma: Positive | None = None
    source: Source
    boundary_u: BoundaryU | None = None
    initial_u: Known | None = None
    a_boundary: BoundaryA
    a_model: DiffusivityModel
    reference_a: Known | None = None
    reference_u: Builtin | None = None
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _heater_is_on_the_plate(self) -> Problem:
        if isinstance(self.source, AreaMeanClosure):
            for axis, at in zip("xy", self.source.x0, strict=True):
                lower, upper = getattr(self.domain, axis)
                if not lower <= at <= upper:
                    raise ValueError(f"source.x0 has {axis} = {at:g}, outside the domain {lower:g} to {upper:g}")
        return self

    @classmethod
    def load(cls, path: Path, name: str | None = None) -> Problem:
        """Read a problem from its file, or from the folder that holds `problem.yaml`.

        `name` is what error messages call the file. Raises `BadInput` naming it and the first wrong field.
        """
        file = path / PROBLEM_FILE if path.is_dir() else path
        name = name or str(file)
        try:
            if file.stat().st_size > LIMIT_BYTES:
                raise BadInput(f"{name} is larger than {LIMIT_BYTES} bytes", remedy="a problem.yaml has some 20 lines")
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadInput(f"{name} does not exist", remedy="put a problem.yaml beside the measurements") from None
        except UnicodeDecodeError as error:
            raise BadInput(f"{name} is not UTF-8 text ({error.reason})", remedy="save it as UTF-8") from None
        return cls.parse(text, name)

    @classmethod
    def parse(cls, text: str, name: str = PROBLEM_FILE) -> Problem:
        """Read a problem from YAML text; `name` is what error messages call it."""
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            detail = " ".join(str(error).split())[:200]
            raise BadInput(f"{name} is not YAML: {detail}", remedy="mend that line") from None
        if not isinstance(content, dict):
            raise BadInput(f"{name} holds {type(content).__name__}, not fields", remedy=REMEDY)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BadInput(f"{name}: {_first_error(error)}", remedy=REMEDY) from None

    def to_yaml(self) -> str:
        """Write the problem as `problem.yaml` text, fields in the order of the model."""
        content = self.model_dump(mode="json")
        text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
        return text

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON: defaults filled in, keys sorted, numbers as floats."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def tag(self) -> str:
        """The value of tag `problem`: `<id>:<equation>`."""
        return f"{self.id}:{EQUATION}"

    def nondimensional_domain(self) -> dict[str, tuple[float, float]]:
        """Return the box as `{"x": (lower, upper), "y": ..., "t": ...}` in nondimensional units."""
        axes: tuple[Literal["x", "y", "t"], ...] = ("x", "y", "t")
        box: dict[str, tuple[float, float]] = {}
        for axis in axes:
            lower, upper = getattr(self.domain, axis)
            box[axis] = (self.scales.to_nondimensional(axis, lower), self.scales.to_nondimensional(axis, upper))
        return box


def _first_error(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_input=False)
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    message = {"extra_forbidden": "is no field of a problem", "missing": "is missing"}.get(first["type"])
    text = message or first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"field {field}: {text}{more}"


def load_ambient(folder: Path, closure: AreaMeanClosure, name: str | None = None) -> tuple[Array, Array]:
    """Read the ambient record of a closure: times (strictly increasing) and ambient values, both [n], physical units.

    `name` is what error messages call the file. Raises `BadInput` naming it and the row.
    """
    path = folder / closure.ambient
    file = name or str(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = _ambient_rows(file, csv.reader(stream))
    except FileNotFoundError:
        raise BadInput(f"{file}, named by source.ambient, does not exist", remedy="add it to the dataset") from None
    except (UnicodeDecodeError, csv.Error):
        raise BadInput(f"{file} is not CSV text", remedy="write it as CSV with the columns t,ambient") from None
    if len(rows) < 2:
        raise BadInput(f"{file} has {len(rows)} rows", remedy="give the ambient at two times or more")
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _ambient_rows(file: str, lines: Iterator[list[str]]) -> list[tuple[float, float]]:
    rows: list[tuple[float, float]] = []
    if next(lines, None) != ["t", "ambient"]:
        raise BadInput(f"{file}, row 1: the header is not `t,ambient`", remedy="name the two columns t,ambient")
    for number, row in enumerate(lines, start=2):
        try:
            t, ambient = (_number(cell) for cell in row)
        except ValueError as error:
            raise BadInput(f"{file}, row {number}: {error}", remedy="give two numbers, t and ambient") from None
        if rows and t <= rows[-1][0]:
            what = f"{file}, row {number}, column t: {t:g} does not follow {rows[-1][0]:g}"
            raise BadInput(what, remedy="sort the rows by time, each time once")
        rows.append((t, ambient))
    return rows
