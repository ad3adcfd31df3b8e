"""A small model bundle with known answers, built with the onnx package: what the trainer exports, without training.

At points p = (x, y, t), all float64:
    u = shift + 2 x + 3 y + 4 t      a = 2 + x y      residual = 0.1 x - f (f only with `source_input`)
    residual_power = 1 + x^2         boundary_residual = y - 0.5
With `hole`, u is NaN where x = 0.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from isotherm import contract

DOMAIN = {"x": [0.0, 1.0], "y": [0.0, 1.0], "t": [0.0, 2.0]}
DENOMINATOR = 4.0
BOUNDARY_RMS = 0.1
PROBLEM_YAML = "schema_version: 1\nid: plate\n"


def expected(points: Any, shift: float = 0.0, f: Any = 0.0) -> dict[str, np.ndarray]:
    """The bundle's answers at points [n, 3], computed with numpy."""
    x, y, t = np.asarray(points, dtype=np.float64).T
    return {
        contract.ONNX_U: shift + 2 * x + 3 * y + 4 * t,
        contract.ONNX_A: 2 + x * y,
        contract.ONNX_RESIDUAL: 0.1 * x - f,
        contract.ONNX_RESIDUAL_POWER: 1 + x**2,
        contract.ONNX_BOUNDARY_RESIDUAL: y - 0.5,
    }


def graph(*, shift: float = 0.0, boundary: bool = True, source_input: bool = False, hole: bool = False) -> bytes:
    """Serialise the float64 graph."""
    constants = {
        "weights": np.array([2.0, 3.0, 4.0]),
        "shift": np.array(shift),
        "two": np.array(2.0),
        "one": np.array(1.0),
        "zero": np.array(0.0),
        "tenth": np.array(0.1),
        "half": np.array(0.5),
        "ix": np.array(0),
        "iy": np.array(1),
    }
    nodes = [
        helper.make_node("MatMul", [contract.ONNX_POINTS, "weights"], ["linear"]),
        helper.make_node("Add", ["linear", "shift"], ["shifted" if hole else contract.ONNX_U]),
        helper.make_node("Gather", [contract.ONNX_POINTS, "ix"], ["x"], axis=1),
        helper.make_node("Gather", [contract.ONNX_POINTS, "iy"], ["y"], axis=1),
        helper.make_node("Mul", ["x", "y"], ["xy"]),
        helper.make_node("Add", ["xy", "two"], [contract.ONNX_A]),
        helper.make_node("Mul", ["x", "tenth"], ["operator" if source_input else contract.ONNX_RESIDUAL]),
        helper.make_node("Mul", ["x", "x"], ["xx"]),
        helper.make_node("Add", ["xx", "one"], [contract.ONNX_RESIDUAL_POWER]),
    ]
    inputs = [helper.make_tensor_value_info(contract.ONNX_POINTS, TensorProto.DOUBLE, ["n", 3])]
    outputs = [contract.ONNX_U, contract.ONNX_A, contract.ONNX_RESIDUAL, contract.ONNX_RESIDUAL_POWER]
    if source_input:
        inputs.append(helper.make_tensor_value_info(contract.ONNX_SOURCE, TensorProto.DOUBLE, ["n"]))
        nodes.append(helper.make_node("Sub", ["operator", contract.ONNX_SOURCE], [contract.ONNX_RESIDUAL]))
    if hole:
        nodes.append(helper.make_node("Log", ["xx"], ["log"]))
        nodes.append(helper.make_node("Mul", ["log", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["shifted", "nothing"], [contract.ONNX_U]))
    if boundary:
        nodes.append(helper.make_node("Sub", ["y", "half"], [contract.ONNX_BOUNDARY_RESIDUAL]))
        outputs.append(contract.ONNX_BOUNDARY_RESIDUAL)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    infos = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n"]) for name in outputs]
    plate = helper.make_graph(nodes, "plate", inputs, infos, tensors)
    model = helper.make_model(plate, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def metadata(
    *, shift: float = 0.0, boundary: bool = True, source_input: bool = False, hole: bool = False
) -> dict[str, Any]:
    """Return `model.json`; the digest depends on what changes the answers, as the trainer's does."""
    key = json.dumps([shift, boundary, source_input, hole]).encode()
    points = np.random.default_rng(0).uniform([0, 0, 0], [1, 1, 2], (8, 3))
    samples = expected(points, shift)
    names = [contract.ONNX_U, contract.ONNX_A, *([] if source_input else [contract.ONNX_RESIDUAL])]
    return {
        "schema_version": 1,
        "model_digest": f"sha256:{hashlib.sha256(key).hexdigest()}",
        "problem": "plate:u_t - div(a grad u) = f",
        "problem_digest": hashlib.sha256(PROBLEM_YAML.encode()).hexdigest(),
        "domain": DOMAIN,
        "units": {"x": "m", "t": "s", "u": "K", "a": "m2/s"},
        "data_version": "dvc-8fa23b",
        "dataset_hash": "8fa23b" + 26 * "0",
        "validated": {
            "pde_loss": 1e-4,
            "val_residual": 1e-3,
            "residual_denominator": DENOMINATOR,
            "boundary_rms": BOUNDARY_RMS if boundary else None,
        },
        "samples": {"points": points.tolist(), **{name: samples[name].tolist() for name in names}},
        "isotherm_version": "0.1.0",
        "signature": {"inputs": [contract.ONNX_POINTS], "outputs": names},
    }


def write_bundle(folder: Path, **options: Any) -> str:
    """Write a whole bundle into `folder` and return its model digest; options as `graph`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    described = metadata(**options)
    (folder / contract.MODEL_ONNX).write_bytes(graph(**options))
    (folder / contract.MODEL_METADATA).write_text(json.dumps(described, indent=2))
    (folder / contract.PROBLEM_FILE).write_text(PROBLEM_YAML)
    write_manifest(folder)
    return str(described["model_digest"])


def write_manifest(folder: Path) -> None:
    """Write `manifest.sha256` over what the folder holds now."""
    names = sorted([contract.MODEL_ONNX, contract.MODEL_METADATA, contract.PROBLEM_FILE])
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / contract.MANIFEST_FILE).write_text("".join(lines))
