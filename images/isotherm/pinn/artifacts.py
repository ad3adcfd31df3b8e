"""Files for people beside a model: pictures, the hardware report, the run manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isotherm import contract, tekton
from isotherm.pinn import hardware, manifest, plots
from isotherm.pinn.fields import HISTORY
from isotherm.pinn.model import Model
from isotherm.pinn.prepare import Inputs
from isotherm.pinn.quality import GRID_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

RESIDUAL_TIMES = 9


@dataclass(frozen=True)
class Picture:
    """A picture in the reports folder, with its CSV beside it."""

    title: str
    path: Path
    caption: str

    def entry(self, reports: Path) -> dict[str, str]:
        """The form that reports list."""
        return {"title": self.title, "file": self.path.relative_to(reports).as_posix(), "caption": self.caption}


def hardware_report(folder: Path) -> tuple[dict[str, str], list[Path]]:
    """Write hardware.json and hardware.txt; returns the sections and the files."""
    sections = hardware.report()
    files = [folder / "hardware.json", folder / "hardware.txt"]
    tekton.write_atomic(files[0], json.dumps(sections, indent=2) + "\n")
    tekton.write_atomic(files[1], hardware.text(sections))
    return sections, files


def run_manifest(path: Path, **blocks: Mapping[str, Any]) -> str:
    """Write E = (D, M, Theta, R) and return its digest."""
    built = manifest.build(**blocks)
    tekton.write_atomic(path, json.dumps(built, indent=2, allow_nan=False) + "\n")
    return str(built["digest"])


def draw(
    folder: Path, inputs: Inputs, model: Model, theta: Tensor, fields: Mapping[str, NDArray[Any]]
) -> list[Picture]:
    """Draw every picture of a training into `folder`."""
    problem = inputs.problem
    x, y = np.meshgrid(fields["grid_x"], fields["grid_y"])
    chosen = int(fields["chosen"])
    a = fields["a"].transpose(0, 2, 1)
    spread = a.std(axis=0, ddof=1) if len(a) > 1 else None
    middle = (problem.domain.t[0] + problem.domain.t[1]) / 2
    u, u_true, a_true, r2 = _on_grid(model, theta, fields, middle)
    units = problem.units
    histories = [dict(zip(HISTORY, fields[f"history_{k}"].T, strict=True)) for k in range(len(a))]
    when = f"t = {middle:.3g}" + ("" if units.t == "1" else f" {units.t}")
    return [
        Picture(
            "Diffusivity a(x, y)",
            plots.diffusivity(folder / "a", x, y, a[chosen], truth=a_true, spread=spread, unit=units.a),
            "The inferred field, the truth and the error where it is known, and the spread over restarts.",
        ),
        Picture(
            "Temperature u",
            plots.temperature(folder / "u", x, y, u, t=middle, truth=u_true, unit=units.u, time_unit=units.t),
            f"The fitted temperature at {when}.",
        ),
        Picture(
            "Residual map",
            plots.residual_map(folder / "residual_map", x, y, r2),
            "Mean square of the equation's residual over time: where the solution does not obey the equation.",
        ),
        Picture(
            "Training curves",
            plots.training_curves(folder / "training_curves", histories, chosen),
            "Objective, misfit and residual of every restart; steps up are where the equation's weight rises.",
        ),
        Picture(
            "Sample points",
            plots.samples(folder / "samples", fields["train"][:, :3], fields["heldout"][:, :3], fields["collocation"]),
            "Where the plate was measured, what was held out, and where the equation was enforced.",
        ),
    ]


def _on_grid(
    model: Model, theta: Tensor, fields: Mapping[str, NDArray[Any]], middle: float
) -> tuple[Array, Array | None, Array | None, Array]:
    """u, true u and true a at the middle of the time, and mean r^2 over time, each [ny, nx]."""
    import torch

    setting, params = model.setting, model.layout.views(theta)
    scales = setting.problem.scales
    x, y = np.meshgrid(fields["grid_x"], fields["grid_y"])

    def points(t: float) -> Tensor:
        unit = np.array([scales.length, scales.length, scales.time])
        return torch.from_numpy(np.column_stack([x.ravel(), y.ravel(), np.full(x.size, t)]) / unit)

    def shaped(values: Tensor | None, quantity: Any) -> Array | None:
        if values is None:
            return None
        physical: Array = scales.to_physical(quantity, values.numpy()).reshape(GRID_SIDE, GRID_SIDE)
        return physical

    with torch.no_grad():
        at = points(middle)
        u = shaped(model.u(params, model.sites(at, "")).v, "u")
        times = np.linspace(*setting.problem.domain.t, RESIDUAL_TIMES)
        r2 = torch.stack([model.residual(params, model.sites(points(t))).square() for t in times]).mean(dim=0)
    if u is None:
        raise ValueError("the model gives no temperature")
    truth = setting.reference_a(at) if isinstance_field(setting.problem.reference_a) else None
    residual: Array = r2.numpy().reshape(GRID_SIDE, GRID_SIDE)
    return u, shaped(setting.reference_u(at), "u"), shaped(truth, "a"), residual


def isinstance_field(reference: Any) -> bool:
    """Whether the truth is a field worth a picture, not one number."""
    return reference is not None and reference.kind == "builtin"


def summary(metrics: Mapping[str, float]) -> str:
    """One line of metrics for the log."""
    names = (contract.PDE_LOSS, contract.VAL_RESIDUAL, contract.VAL_MISFIT, contract.A_SPREAD, contract.A_REL_L2)
    return "  ".join(f"{name} {metrics[name]:.3g}" for name in names if name in metrics)
