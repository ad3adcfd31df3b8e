"""The exported graph says what torch says, for any number of points, in physical units."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from trainings import heatinv, inputs_of, plate

from isotherm import contract
from isotherm.pinn import graph
from isotherm.pinn.model import Model
from isotherm.pinn.networks import Architecture

CASES = {
    "heatinv-nn": (heatinv, Architecture()),
    "heatinv-poly": (heatinv, Architecture(a_model="poly", a_exp=True)),
    "heatinv-infer-f": (heatinv, Architecture(infer_f=True)),
    "plate-constant": (plate, Architecture(a_model="constant")),
    "plate-nn": (plate, Architecture()),
    "plate-edge-value": (lambda f: plate(f, boundary_u={"kind": "value", "value": 21}), Architecture()),
}


@pytest.fixture(params=CASES, scope="module")
def fields(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> graph.FieldGraph:
    make, architecture = CASES[request.param]
    model = Model(inputs_of(make(tmp_path_factory.mktemp(request.param))).setting(), architecture)
    return graph.FieldGraph(model, model.initial(5) + 0.05)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_onnx_equals_torch(fields: graph.FieldGraph, rows: int) -> None:
    session = onnxruntime.InferenceSession(graph.to_onnx(fields))
    points = graph.example(fields.model, rows)
    names = [output.name for output in session.get_outputs()]
    assert names == graph.output_names(fields.model)
    assert {o.type for o in session.get_outputs()} == {"tensor(double)"}
    served = dict(zip(names, session.run(None, {contract.ONNX_POINTS: points.numpy()}), strict=True))
    for name, value in fields.outputs(points).items():
        np.testing.assert_allclose(served[name], value.numpy(), rtol=1e-9, atol=1e-9, err_msg=name)


def test_pt2_equals_torch_for_other_row_counts(fields: graph.FieldGraph) -> None:
    loaded = torch.export.load(io.BytesIO(graph.to_pt2(fields))).module()
    for rows in (1, 77):
        points = graph.example(fields.model, rows)
        torch.testing.assert_close(loaded(points), fields(points))


def test_the_graph_is_in_physical_units(fields: graph.FieldGraph) -> None:
    model, scales = fields.model, fields.model.setting.problem.scales
    points = graph.example(model)
    unit = torch.tensor([scales.length, scales.length, scales.time], dtype=torch.float64)
    params, sites = fields._params(), model.sites(points / unit)
    found = fields.outputs(points)
    torch.testing.assert_close(found["u"], scales.u_offset + scales.u * model.u(params, sites).v)
    torch.testing.assert_close(found["a"], model.a(params, sites).v * scales.length**2 / scales.time)
    torch.testing.assert_close(found["residual"], model.residual(params, sites))


def test_the_boundary_residual_takes_the_nearest_edges_normal(tmp_path: Path) -> None:
    model = Model(inputs_of(plate(tmp_path)).setting(), Architecture(a_model="constant"))
    theta = model.initial(3)
    points = torch.tensor([[0.001, 0.05, 10], [0.199, 0.05, 10], [0.1, 0.001, 10], [0.1, 0.099, 10]]).double()
    scales = model.setting.problem.scales
    unit = torch.tensor([scales.length, scales.length, scales.time], dtype=torch.float64)
    u = model.u(model.layout.views(theta), model.sites(points / unit))
    expected = torch.stack([-u.x[0], u.x[1], -u.y[2], u.y[3]])
    torch.testing.assert_close(graph.FieldGraph(model, theta).outputs(points)["boundary_residual"], expected)
