"""The solution as one graph in physical units, for PyTorch's pt2 and for ONNX: fields and residuals at asked points.

Input    points [n, 3]: x, y, t in the problem's units
Outputs  u, a (physical), residual, residual_power and, where the problem declares an edge condition, boundary_residual
         (nondimensional), each [n]; pt2 gives them as the columns of one tensor, ONNX by name
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor

from isotherm import contract
from isotherm.physics import heat
from isotherm.physics.jets import Jet
from isotherm.pinn.model import Model, Sites

OPSET = 17
EXAMPLE_ROWS = 8  # more than one: a batch of one would be frozen into the graph


def output_names(model: Model) -> list[str]:
    """Names of the graph's outputs, in the order of pt2's columns."""
    names = [contract.ONNX_U, contract.ONNX_A, contract.ONNX_RESIDUAL, contract.ONNX_RESIDUAL_POWER]
    return [*names, contract.ONNX_BOUNDARY_RESIDUAL] if model.setting.has_boundary else names


class FieldGraph(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Fields and residuals of a trained model. `forward` returns [n, outputs]."""

    def __init__(self, model: Model, theta: Tensor) -> None:
        super().__init__()
        self.model = model
        for name, value in model.layout.views(theta.detach().clone()).items():
            self.register_buffer(name.replace(".", "_"), value.clone())
        self.nuisance: dict[str, Tensor] = {}
        if model.priors:
            self.nuisance = self._frozen_nuisance(model, theta)

    @staticmethod
    def _frozen_nuisance(model: Model, theta: Tensor) -> dict[str, Tensor]:
        values = {name: v.detach().clone() for name, v in model.nuisance(model.layout.views(theta), 1).items()}
        # The error function has no float64 kernel in ONNX Runtime, and the spot's mean is one number once s is known.
        spot_mean = getattr(model.setting.source, "spot_mean", None)
        return values if spot_mean is None else {**values, "g_mean": spot_mean(values["s"])}

    def _params(self) -> dict[str, Tensor]:
        return {name: getattr(self, name.replace(".", "_")) for name in self.model.layout.shapes}

    def outputs(self, points: Tensor) -> dict[str, Tensor]:
        """Every output by name, [n] each."""
        model, scales, params = self.model, self.model.setting.problem.scales, self._params()
        unit = torch.tensor([scales.length, scales.length, scales.time], dtype=torch.float64)
        sites = model.sites(points / unit)
        u, a = model.u(params, sites), model.a(params, sites)
        f = self._source(params, sites, u)
        found = {
            contract.ONNX_U: scales.to_physical("u", u.v),
            contract.ONNX_A: scales.to_physical("a", a.v),
            contract.ONNX_RESIDUAL: heat.pde_residual(u, a, f),
            contract.ONNX_RESIDUAL_POWER: heat.residual_power(u, a, f),
        }
        if model.setting.has_boundary:
            found[contract.ONNX_BOUNDARY_RESIDUAL] = self._boundary(u, sites.points)
        return found

    def _source(self, params: dict[str, Tensor], sites: Sites, u: Jet) -> Tensor:
        source = self.model.setting.source
        if self.nuisance and source is not None:
            return source(sites.points, u, self.nuisance)
        return self.model.f(params, sites, u)

    def _boundary(self, u: Jet, points: Tensor) -> Tensor:
        # Every point is judged by the condition of its nearest edge; the caller asks near edges only.
        setting = self.model.setting
        to_lower, to_upper = points[:, :2] - setting.lower[:2], setting.upper[:2] - points[:, :2]
        distance = torch.minimum(to_lower, to_upper)
        outward = torch.where(to_lower < to_upper, -torch.ones_like(distance), torch.ones_like(distance))
        vertical_edge = (distance[:, 0] <= distance[:, 1]).to(torch.float64)
        normal = torch.stack([outward[:, 0] * vertical_edge, outward[:, 1] * (1 - vertical_edge)], dim=1)
        return setting.boundary_residual(u, points, normal)

    def forward(self, points: Tensor) -> Tensor:
        """Points [n, 3] to [n, outputs], columns in the order of `output_names`."""
        found = self.outputs(points)
        return torch.stack([found[name] for name in output_names(self.model)], dim=1)


class _Named(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, graph: FieldGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, points: Tensor) -> tuple[Tensor, ...]:
        found = self.graph.outputs(points)
        return tuple(found[name] for name in output_names(self.graph.model))


def example(model: Model, rows: int = EXAMPLE_ROWS) -> Tensor:
    """A few points [rows, 3] inside the box, physical units, the same at every call."""
    setting, scales = model.setting, model.setting.problem.scales
    unit = torch.tensor([scales.length, scales.length, scales.time], dtype=torch.float64)
    inside = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(rows, dtype=torch.float64)
    return (setting.lower + (setting.upper - setting.lower) * inside) * unit


def to_onnx(graph: FieldGraph) -> bytes:
    """Export with named float64 outputs and any number of rows."""
    buffer = io.BytesIO()
    names = output_names(graph.model)
    with warnings.catch_warnings(), torch.no_grad():
        # The newer exporter needs onnxscript; this one warns of its age, and its parity is checked to rounding.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Named(graph),
            (example(graph.model),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[contract.ONNX_POINTS],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in [contract.ONNX_POINTS, *names]},
        )
    return buffer.getvalue()


def to_pt2(graph: FieldGraph) -> bytes:
    """Export through torch.export with any number of rows."""
    buffer = io.BytesIO()
    rows = torch.export.Dim("n", min=1, max=10_000_000)
    with torch.no_grad():
        program = torch.export.export(graph, (example(graph.model),), dynamic_shapes=({0: rows},))
    torch.export.save(program, buffer)
    return buffer.getvalue()
