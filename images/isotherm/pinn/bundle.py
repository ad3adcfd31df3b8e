"""The model bundle: what evaluation, registration and serving receive (docs/contracts.md, `A model bundle`).

Writes  <model>/bundle/: model.onnx, model.json, problem.yaml, fields.npz, then manifest.sha256 last
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isotherm import __version__, contract, tekton
from isotherm.pinn import graph
from isotherm.pinn.fields import FILE as FIELDS_FILE
from isotherm.pinn.prepare import Inputs
from isotherm.pinn.restarts import Trained

MODEL_PT2 = "model.pt2"
SERVED = (contract.MODEL_METADATA, contract.MODEL_ONNX, contract.PROBLEM_FILE)


def model_digest(inputs: Inputs, trained: Trained) -> str:
    """sha256 over sorted parameters, the problem with its scales, and the constants that the data gave the graph."""
    digest = hashlib.sha256()
    named = {f"parameter {n}": v.numpy() for n, v in trained.model.layout.views(trained.state.theta).items()}
    if inputs.plate_mean is not None:
        named |= {f"constant {name}": values for name, values in vars(inputs.plate_mean).items()}
    for name, values in sorted(named.items()):
        digest.update(f"{name} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    form = "exp" if trained.model.architecture.a_exp else "linear"
    digest.update(f"architecture {trained.model.architecture.name} {form}\n".encode())
    digest.update(f"problem {inputs.problem.digest}\n".encode())
    return digest.hexdigest()


def metadata(
    inputs: Inputs, trained: Trained, fields: graph.FieldGraph, lineage: dict[str, str], metrics: dict[str, float]
) -> dict[str, Any]:
    """Content of model.json; `lineage` holds data_version and dataset_hash."""
    problem = inputs.problem
    points = graph.example(trained.model)
    with torch.no_grad():
        outputs = fields.outputs(points)
    boundary = metrics.get(contract.BC_LOSS)
    return {
        "schema_version": 1,
        "model_digest": model_digest(inputs, trained),
        "problem": problem.tag,
        "problem_digest": problem.digest,
        "domain": problem.domain.model_dump(mode="json"),
        "units": problem.units.model_dump(mode="json"),
        **lineage,
        "validated": {
            contract.PDE_LOSS: metrics[contract.PDE_LOSS],
            contract.VAL_RESIDUAL: metrics[contract.VAL_RESIDUAL],
            "residual_denominator": metrics["residual_denominator"],
            "boundary_rms": None if boundary is None else boundary**0.5,
        },
        "samples": {
            "points": points.tolist(),
            **{name: outputs[name].tolist() for name in (contract.ONNX_U, contract.ONNX_A, contract.ONNX_RESIDUAL)},
        },
        "isotherm_version": __version__,
        "signature": signature(trained),
    }


def signature(trained: Trained) -> dict[str, Any]:
    """Names, types, shapes and units of the graph's inputs and outputs."""
    units = trained.model.setting.problem.units
    known = {contract.ONNX_U: units.u, contract.ONNX_A: units.a}
    outputs = [
        {"name": name, "dtype": "float64", "shape": ["n"], "unit": known.get(name, "1")}
        for name in graph.output_names(trained.model)
    ]
    points = {"name": contract.ONNX_POINTS, "dtype": "float64", "shape": ["n", 3]}
    return {"inputs": [{**points, "columns": ["x", "y", "t"], "unit": [units.x, units.x, units.t]}], "outputs": outputs}


def write(
    folder: Path, inputs: Inputs, trained: Trained, lineage: dict[str, str], metrics: dict[str, float], fields: bytes
) -> dict[str, Any]:
    """Write the bundle (all but pt2 and the run manifest) and return model.json's content."""
    field_graph = graph.FieldGraph(trained.model, trained.state.theta)
    content = metadata(inputs, trained, field_graph, lineage, metrics)
    files = {
        contract.MODEL_ONNX: graph.to_onnx(field_graph),
        contract.MODEL_METADATA: (json.dumps(content, indent=2, allow_nan=False) + "\n").encode(),
        contract.PROBLEM_FILE: inputs.problem.to_yaml().encode(),
        FIELDS_FILE: fields,
    }
    for name, body in files.items():
        tekton.write_atomic(folder / name, body)
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(SERVED)]
    tekton.write_atomic(folder / contract.MANIFEST_FILE, "".join(lines))
    return content
