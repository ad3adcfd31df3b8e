"""A `Problem` made nondimensional: the box, the source, and what is known on the edges and at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isotherm.physics import extension, heat, reference, sources
from isotherm.physics import problem as spec
from isotherm.physics.jets import Jet
from isotherm.tekton import BadInput

Array = NDArray[np.float64]
TABLE_NODES = 201


@dataclass(frozen=True)
class PlateMean:
    """The plate's mean temperature U and its rate U' at `times`, all [m] and nondimensional."""

    times: Array
    mean: Array
    rate: Array


@dataclass(frozen=True)
class Setting:
    """What is solved, nondimensional. `source` is None where f is unknown, `sigma` where the noise is."""

    problem: spec.Problem
    lower: Tensor  # [3]: x, y, t
    upper: Tensor  # [3]
    sigma: float | None
    source: sources.Source | None

    def to(self, device: torch.device) -> Setting:
        """Return the same setting for points on a device."""
        source = None if self.source is None else self.source.to(device)
        return replace(self, lower=self.lower.to(device), upper=self.upper.to(device), source=source)

    @property
    def a_edge(self) -> extension.Field | None:
        """`a` where the problem gives it on the boundary: a field that is right there (its inside is not used)."""
        return self._a_field(self.problem.a_boundary)

    def _a_field(self, known: Any) -> extension.Field | None:
        scales = self.problem.scales
        if isinstance(known, spec.Value):
            return extension.constant(known.value / scales.of("a"))
        if not isinstance(known, spec.Builtin):
            return None
        form, length, unit = reference.A[known.name], scales.length, scales.of("a")

        def field(x: Tensor, y: Tensor) -> Jet:
            a = form(x * length, y * length)
            return Jet(a.v / unit, a.x * (length / unit), a.y * (length / unit))

        return field

    def reference_a(self, points: Tensor) -> Tensor | None:
        """True a [n] at points [n, 2 or 3], where the problem knows it."""
        field = self._a_field(self.problem.reference_a)
        return None if field is None else field(points[:, 0], points[:, 1]).v

    def reference_u(self, points: Tensor) -> Tensor | None:
        """True u [n] at points [n, 3], where the problem knows it."""
        return self._u(self.problem.reference_u, points)

    def _u(self, known: Any, points: Tensor) -> Tensor | None:
        scales = self.problem.scales
        if isinstance(known, spec.Value):
            return torch.full_like(points[:, 0], float(scales.to_nondimensional("u", known.value)))
        if not isinstance(known, spec.Builtin):
            return None
        x, y, t = points[:, 0] * scales.length, points[:, 1] * scales.length, points[:, 2] * scales.time
        u: Tensor = scales.to_nondimensional("u", reference.U[known.name](x, y, t).v)
        return u

    @property
    def has_boundary(self) -> bool:
        """Whether the problem declares what u does on the edges."""
        return self.problem.boundary_u is not None

    @property
    def has_initial(self) -> bool:
        """Whether the problem declares u at the first instant."""
        return self.problem.initial_u is not None

    def boundary_residual(self, u: Jet, points: Tensor, normal: Tensor) -> Tensor:
        """Residual [n] of the declared edge condition at edge points [n, 3] with outward normals [n, 2]."""
        if isinstance(self.problem.boundary_u, spec.Insulated):
            return heat.insulated_residual(u, normal)
        edge = self._u(self.problem.boundary_u, points)
        if edge is None:
            raise ValueError("the problem declares no boundary condition")
        return heat.dirichlet_residual(u, edge)

    def initial_residual(self, u: Jet, points: Tensor) -> Tensor:
        """Residual [n] of the declared initial state at points [n, 3] of the first instant."""
        start = self._u(self.problem.initial_u, points)
        if start is None:
            raise ValueError("the problem declares no initial state")
        return heat.initial_residual(u, start)


def from_problem(problem: spec.Problem, folder: Path | None = None, plate_mean: PlateMean | None = None) -> Setting:
    """Make a problem nondimensional. `folder` holds the files that the problem names; a closure needs `plate_mean`.

    Raises `BadInput` naming the file that is missing or malformed.
    """
    box = problem.nondimensional_domain()
    lower, upper = (torch.tensor([box[axis][end] for axis in "xyt"], dtype=torch.float64) for end in (0, 1))
    sigma = None if problem.sigma is None else problem.sigma / problem.scales.u
    return Setting(problem, lower, upper, sigma, _source(problem, folder, plate_mean))


def _source(problem: spec.Problem, folder: Path | None, plate_mean: PlateMean | None) -> sources.Source | None:
    scales, source = problem.scales, problem.source
    if isinstance(source, spec.Zero):
        return sources.Zero()
    if isinstance(source, spec.Builtin):
        return sources.ClosedForm(reference.F[source.name], scales.length, scales.time, scales.of("f"))
    if isinstance(source, spec.Table):
        return _table(problem, _beside(folder, source.file))
    if isinstance(source, spec.AreaMeanClosure):
        if plate_mean is None:
            raise BadInput(
                "source area-mean-closure needs the plate's mean temperature", remedy="give measurements with sensor_id"
            )
        return _closure(problem, source, _beside(folder, source.ambient).parent, plate_mean)
    return None


def _beside(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise BadInput(f"{name} is named by problem.yaml, but no folder is given", remedy="give the dataset's folder")
    return folder / name


def _closure(
    problem: spec.Problem, source: spec.AreaMeanClosure, folder: Path, plate_mean: PlateMean
) -> sources.Source:
    scales, box = problem.scales, problem.nondimensional_domain()
    times, ambient = spec.load_ambient(folder, source)
    nodes = np.linspace(*box["t"], TABLE_NODES)
    b = sources.LogNormal(source.b.value * scales.time, source.b.relative_sigma)
    s = sources.LogNormal(source.s.value / scales.length, source.s.relative_sigma)

    def table(at: Array, values: Array) -> Tensor:
        return torch.from_numpy(np.interp(nodes, at, values))

    return sources.AreaMeanClosure(
        torch.from_numpy(nodes),
        table(plate_mean.times, plate_mean.mean),
        table(plate_mean.times, plate_mean.rate),
        table(times / scales.time, scales.to_nondimensional("u", ambient)),
        (source.x0[0] / scales.length, source.x0[1] / scales.length),
        (box["x"][0], box["y"][0]),
        (box["x"][1], box["y"][1]),
        {"b": b, "s": s},
    )


def _table(problem: spec.Problem, file: Path) -> sources.Source:
    import pyarrow.parquet as parquet

    try:
        columns = parquet.read_table(file, columns=["x", "y", "t", "f"]).to_pydict()
    except Exception as error:  # pyarrow raises a dozen types for a file that is not what it should be
        detail = " ".join(str(error).split())[:160]
        raise BadInput(
            f"{file} is not a Parquet file with the columns x y t f ({detail})", remedy="write the source again"
        ) from None
    x, y, t, f = (np.asarray(columns[name], dtype=np.float64) for name in "xytf")
    axes, place = zip(*(np.unique(c, return_inverse=True) for c in (x, y, t)), strict=True)
    shape = tuple(len(axis) for axis in axes)
    values = np.full(shape, np.nan)
    values[place] = f
    if len(f) != values.size or min(shape) < 2 or not np.isfinite(values).all():
        what = f"{file}: the {len(f)} rows are not one finite f per point of a full grid"
        raise BadInput(what, remedy="write f on a full grid of x, y and t")
    units = problem.scales.length, problem.scales.length, problem.scales.time
    grid: Sequence[Tensor] = [torch.from_numpy(axis / unit) for axis, unit in zip(axes, units, strict=True)]
    return sources.Table((grid[0], grid[1], grid[2]), torch.from_numpy(values / problem.scales.of("f")))
