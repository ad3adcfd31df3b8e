"""A model folder is loaded only when every file is what was registered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx_models
import predictor_fixtures
import pytest

from isotherm import bundle, contract, tekton
from isotherm.predictor.model import HeatModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx_models.write_bundle(tmp_path / "model")
    return tmp_path / "model"


def digest(folder: Path) -> str:
    return str(json.loads((folder / contract.MODEL_METADATA).read_text())["model_digest"])


def load(folder: Path) -> HeatModel:
    return HeatModel(bundle.load(folder, digest(folder)))


def test_an_untouched_bundle_loads(folder: Path) -> None:
    model = load(folder)
    assert (model.has_residual, model.has_boundary, model.needs_source) == (True, True, False)


def flip_a_byte(folder: Path) -> None:
    graph = bytearray((folder / contract.MODEL_ONNX).read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / contract.MODEL_ONNX).write_bytes(graph)


def link_the_graph(folder: Path) -> None:
    (folder / contract.MODEL_ONNX).rename(folder.parent / "elsewhere.onnx")
    (folder / contract.MODEL_ONNX).symlink_to(folder.parent / "elsewhere.onnx")


def edit_manifest(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / contract.MANIFEST_FILE
        path.write_text(path.read_text().replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_byte, "the manifest says"),
        (link_the_graph, "not a regular file"),
        (lambda folder: (folder / "model.pkl").write_bytes(b"\x80\x04."), "model.pkl"),
        (lambda folder: (folder / "sub").mkdir(), "sub"),
        (lambda folder: (folder / contract.MANIFEST_FILE).unlink(), "lacks manifest.sha256"),
        (lambda folder: (folder / contract.PROBLEM_FILE).unlink(), "lacks problem.yaml"),
        (lambda folder: (folder / contract.PROBLEM_FILE).write_text("id: other\n"), "problem.yaml has sha256"),
        (edit_manifest("problem.yaml", "../problem.yaml"), "line 3"),
        (edit_manifest("model.onnx", "model.pkl"), "line 2"),
        (edit_manifest("model.onnx", "model.json"), "line 2"),
        (lambda folder: (folder / contract.MANIFEST_FILE).write_text(""), "manifest says nothing"),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    expected = digest(folder)
    damage(folder)
    with pytest.raises(tekton.Refused, match=said):
        bundle.load(folder, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"domain": {"x": [0, 1], "y": [0, 1], "t": [2, 0]}}, "domain"),
        ({"schema_version": 2}, "schema_version"),
        ({"validated": {"residual_denominator": 0}}, "residual_denominator"),
        ({"samples": {"points": [[0, 0, 0]], "u": [5.0], "a": [2.0]}}, "does not repeat the samples of `u`"),
        ({"samples": {"points": [[0, 0, 0]], "u": [1e-5], "a": [2.0]}}, "does not repeat the samples of `u`"),
        ({"samples": {"points": [[0, 0, 0]], "u": [], "a": [2.0]}}, "does not repeat the samples of `u`"),
    ],
)
def test_metadata_that_the_graph_does_not_bear_out_is_refused(folder: Path, change: dict, said: str) -> None:
    path = folder / contract.MODEL_METADATA
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    onnx_models.write_manifest(folder)
    with pytest.raises(tekton.Refused, match=said):
        load(folder)


def test_a_graph_that_is_no_onnx_is_refused(folder: Path) -> None:
    (folder / contract.MODEL_ONNX).write_bytes(b"\x80\x04N.")
    onnx_models.write_manifest(folder)
    with pytest.raises(tekton.Refused, match="does not load in ONNX Runtime"):
        load(folder)


def test_a_missing_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(tekton.BadInput, match="does not exist"):
        bundle.load(tmp_path / "nowhere", "sha256:0")


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"MODEL_DIGEST": "sha256:0"}, 3, "not sha256:0"),
        ({"MODEL_VERSION": "1.3"}, 2, "MODEL_VERSION is '1.3'"),
        ({"TRACK": "blue\r\nX-Evil: 1"}, 2, "TRACK is"),
        ({"MODEL_DIGEST": "x\r\nX-Evil: 1"}, 2, "MODEL_DIGEST is"),
    ],
)
def test_the_server_refuses_to_start_with_one_line(folder: Path, env: dict[str, str], code: int, said: str) -> None:
    process = predictor_fixtures.start(folder, digest(folder), **env)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    event = json.loads(out)
    assert (event["level"], event["message"]) == ("error", "refused to start")
    assert said in event["reason"]


def test_a_taken_port_is_named(folder: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        process = predictor_fixtures.start(folder, digest(folder), port=port)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 4
    assert f"port {port} on 127.0.0.1 cannot be taken" in err


def test_the_environment_of_the_predictor_holds_no_trainer() -> None:
    code = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) for m in ('torch', 'mlflow')))"
    assert subprocess.run([predictor_fixtures.PYTHON, "-c", code], check=False).returncode == 0
