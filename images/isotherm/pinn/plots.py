"""Pictures of a solution, each with its numbers as CSV beside it: contours of `a` and `u`, residual map, training
curves, samples.

Inputs are numpy arrays in physical units; nothing here knows how a field was computed. Every function writes
        `PATH.png` and `PATH.csv`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DPI = 110
FIELD, ERROR, RESIDUAL = "viridis", "RdBu_r", "magma"


# Inches. Places are given, not found: a layout that measures every label takes longer than the drawing.
LEFT, BOTTOM, WIDTH, HEIGHT = 0.72, 0.48, 2.85, 2.85
BAR_GAP, BAR_WIDTH, BAR_LABELS, RIGHT, TOP = 0.1, 0.13, 0.62, 0.15, 0.36
NARROWEST, TALLEST = 1.2, 4.0  # of a plate's picture
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False}
Drawing = TypeVar("Drawing", bound=Callable[..., Path])


def _styled(draw: Drawing) -> Drawing:
    @functools.wraps(draw)
    def styled(*arguments: Any, **named: Any) -> Path:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **named)

    return cast("Drawing", styled)


def _figure(
    columns: int, *, bars: bool = False, width: float = WIDTH, height: float = HEIGHT, below: float = 0.0
) -> tuple[Any, list[Any]]:
    """A row of equal axes, with room for colour bars where wanted. `below`: inches under them, for a legend."""
    from matplotlib.figure import Figure  # not pyplot: no window is managed, no state is shared

    step = LEFT + width + (BAR_GAP + BAR_WIDTH + BAR_LABELS if bars else RIGHT)
    across, up = step * columns, BOTTOM + below + height + TOP
    figure = Figure(figsize=(across, up))
    starts = [LEFT + step * column for column in range(columns)]
    size = (width / across, height / up)
    return figure, [figure.add_axes((x / across, (BOTTOM + below) / up, *size)) for x in starts]


def _maps(columns: int, x: Array, y: Array) -> tuple[Any, list[Any]]:
    """A row of axes for maps of a plate, as high as the plate is beside its width."""
    height = min(max(WIDTH * float(np.ptp(y)) / float(np.ptp(x)), NARROWEST), TALLEST)
    return _figure(columns, bars=True, height=height)


def _save(figure: Any, path: Path, header: Sequence[str], rows: Sequence[Sequence[float]] | Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=DPI)
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([[f"{value:.8g}" for value in row] for row in rows])
    return path.with_suffix(".png")


def _contour(
    axis: Any, x: Array, y: Array, z: Array, title: str, *, cmap: str, unit: str = "", symmetric: bool = False,
    like: Array | None = None,
) -> None:  # fmt: skip
    from matplotlib.ticker import MaxNLocator

    # `like`: another field that shares the colour scale, so that the eye compares values and not scales.
    span = float(np.nanmax(np.abs(z))) if symmetric else 0.0
    constant = float(np.ptp(z)) <= 1e-9 * max(float(np.max(np.abs(z))), 1e-300)
    if constant:  # contour levels need a range; one number is shown as one colour
        centre = float(z.flat[0])
        drawn = axis.pcolormesh(x, y, z, cmap=cmap, vmin=centre * 0.95, vmax=centre * 1.05, shading="auto")
    else:
        both = z if like is None else np.concatenate([z.ravel(), like.ravel()])
        levels = np.linspace(-span, span, 25) if symmetric else np.linspace(both.min(), both.max(), 25)
        drawn = axis.contourf(x, y, z, levels=levels, cmap=cmap)
    axis.set_aspect("equal")
    axis.apply_aspect()  # a plate that is no square fills its place in one direction
    box, across = axis.get_position(), axis.figure.get_figwidth()
    beside = (box.x1 + BAR_GAP / across, box.y0, BAR_WIDTH / across, box.height)
    ticks = MaxNLocator(5)
    axis.figure.colorbar(drawn, cax=axis.figure.add_axes(beside), ticks=ticks).ax.tick_params(labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.set_title(title + (f" [{unit}]" if unit not in ("", "1") else ""))
    axis.set_xlabel("x")
    axis.set_ylabel("y")


def _flat(*columns: Array) -> Array:
    return np.column_stack([column.ravel() for column in columns])


@_styled
def diffusivity(
    path: Path, x: Array, y: Array, a: Array, *, truth: Array | None, spread: Array | None, unit: str
) -> Path:
    """Draw the inferred `a` [ny, nx], then the truth and the pointwise error, or the spread over restarts where no
    truth is known.
    """
    extra = (2 if truth is not None else 0) + (1 if spread is not None else 0)
    figure, axes = _maps(1 + extra, x, y)
    _contour(axes[0], x, y, a, "inferred a(x, y)", cmap=FIELD, unit=unit, like=truth)
    columns, header, at = [x, y, a], ["x", "y", "a"], 1
    if truth is not None:
        _contour(axes[1], x, y, truth, "true a(x, y)", cmap=FIELD, unit=unit, like=a)
        _contour(axes[2], x, y, a - truth, "pointwise error", cmap=ERROR, unit=unit, symmetric=True)
        columns, header, at = [*columns, truth], [*header, "a_true"], 3
    if spread is not None:
        _contour(axes[at], x, y, spread, "std over restarts", cmap=RESIDUAL, unit=unit)
        columns, header = [*columns, spread], [*header, "a_std"]
    return _save(figure, path, header, _flat(*columns))


@_styled
def temperature(
    path: Path, x: Array, y: Array, u: Array, *, t: float, truth: Array | None, unit: str, time_unit: str
) -> Path:
    """Draw `u` [ny, nx] at time t, and the pointwise error where the truth is known."""
    figure, axes = _maps(1 if truth is None else 2, x, y)
    when = f"t = {t:.3g}" + (f" {time_unit}" if time_unit != "1" else "")
    _contour(axes[0], x, y, u, f"u at {when}", cmap="inferno", unit=unit)
    columns, header = [x, y, u], ["x", "y", "u"]
    if truth is not None:
        _contour(axes[1], x, y, u - truth, f"pointwise error of u at {when}", cmap=ERROR, unit=unit, symmetric=True)
        columns, header = [*columns, truth], [*header, "u_true"]
    return _save(figure, path, header, _flat(*columns))


@_styled
def residual_map(path: Path, x: Array, y: Array, r2: Array) -> Path:
    """Draw the mean square PDE residual over time [ny, nx] on a logarithmic scale (nondimensional)."""
    figure, axes = _maps(1, x, y)
    _contour(axes[0], x, y, np.log10(np.maximum(r2, 1e-300)), "log10 of mean r2 over time", cmap=RESIDUAL)
    return _save(figure, path, ["x", "y", "mean_r2"], _flat(x, y, r2))


@_styled
def training_curves(path: Path, histories: Sequence[Mapping[str, Array]], chosen: int) -> Path:
    """Draw objective, data misfit and PDE mean square against iterations, one line per restart, the chosen one heavier.

    Each history holds 1-D arrays `iteration objective misfit pde stage` of equal length.
    """
    names = {"objective": "objective", "misfit": "data misfit", "pde": "mean square PDE residual"}
    figure, axes = _figure(3)
    rows: list[list[float]] = []
    for index, history in enumerate(histories):
        style = {"lw": 1.8, "alpha": 1.0} if index == chosen else {"lw": 1.0, "alpha": 0.55}
        for axis, (key, title) in zip(axes, names.items(), strict=True):
            label = f"restart {index}" + (" (chosen)" if index == chosen else "")
            axis.semilogy(history["iteration"], np.maximum(history[key], 1e-300), label=label, **style)
            axis.set_title(title)
            axis.set_xlabel("iteration")
            axis.grid(alpha=0.25)
        keys = ("iteration", "stage", *names)
        rows += [[float(index), *values] for values in zip(*(history[key] for key in keys), strict=True)]
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path, ["restart", "iteration", "stage", *names], rows)


@_styled
def samples(path: Path, train: Array, heldout: Array, collocation: Array) -> Path:
    """Draw where the data and the collocation points [n, 3] lie in the plane, and how they are spread over time."""
    figure, axes = _figure(2, below=0.3)
    kinds = (
        ("collocation", collocation, "0.75", 2),
        ("measurements", train, "tab:blue", 7),
        ("held out", heldout, "tab:orange", 9),
    )
    rows: list[list[float]] = []
    for number, (name, points, colour, size) in enumerate(kinds):
        if len(points) == 0:
            continue
        axes[0].scatter(points[:, 0], points[:, 1], s=size, c=colour, lw=0, label=f"{name} ({len(points)})")
        axes[1].hist(points[:, 2], bins=30, histtype="step", color=colour, density=True, lw=1.5)
        rows += [[float(number), *point] for point in points.tolist()]
    axes[0].set(title="sample points", xlabel="x", ylabel="y")
    axes[0].set_aspect("equal")
    figure.legend(frameon=False, fontsize=8, loc="lower center", ncols=3)
    axes[1].set(title="spread over time", xlabel="t", ylabel="density")
    return _save(figure, path, ["kind", "x", "y", "t"], rows)


@_styled
def misfits(path: Path, candidate: Array, champion: Array | None) -> Path:
    """Draw the distribution of (u - measured) / sigma on held-out rows against the unit normal, candidate beside
    champion.
    """
    figure, axes = _figure(1, width=4.4)
    edges = np.linspace(-4, 4, 41)
    grid = np.linspace(-4, 4, 200)
    axes[0].hist(candidate, bins=edges, density=True, alpha=0.55, color="tab:green", label="candidate")
    if champion is not None:
        axes[0].hist(champion, bins=edges, density=True, histtype="step", lw=1.6, color="tab:blue", label="champion")
    axes[0].plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), "k--", lw=1, label="noise alone")
    axes[0].set(title="held-out misfit in units of the noise", xlabel="(u - measured) / sigma")
    axes[0].legend(frameon=False, fontsize=8)
    both = candidate if champion is None else np.column_stack([candidate, champion])
    header = ["candidate"] if champion is None else ["candidate", "champion"]
    return _save(figure, path, header, both.reshape(len(candidate), -1))
