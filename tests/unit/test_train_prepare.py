"""Rows, the plate's mean, recipes and content keys before any training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import heatinv, inputs_of, plan_of, plate

from isotherm import tekton
from isotherm.data import schema
from isotherm.data.schema import Batch
from isotherm.pinn import lineage, prepare, recipe
from isotherm.pinn.wishes import Wishes


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
def test_the_plates_mean_is_exact_for_planes_and_weights_sum_to_one(n: int, seed: int, p: float, q: float) -> None:
    positions = np.random.default_rng(seed).random((n, 2))
    lower, upper = positions.min(axis=0), positions.max(axis=0)
    weights = prepare.plate_weights(positions, lower, upper)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    expected = 1 + p * (lower[0] + upper[0]) / 2 + q * (lower[1] + upper[1]) / 2
    assert weights @ (1 + positions @ [p, q]) == pytest.approx(expected, abs=1e-5)


def test_many_rows_are_averaged_per_sensor_over_time_bins() -> None:
    t = np.tile(np.arange(1000.0), 12)
    sensor = np.repeat(np.arange(12), 1000)
    batch = Batch(sensor * 1.0, -sensor * 1.0, t, 3 * t + sensor, None, sensor)
    thinned = prepare.thin(batch, rows_max=240)
    assert len(thinned) == 240
    np.testing.assert_allclose(thinned.u, 3 * thinned.t + thinned.x)
    np.testing.assert_array_equal(thinned.sensor_id, thinned.x)
    assert prepare.thin(batch, rows_max=20_000) is batch
    assert prepare.thin(replace(batch, sensor_id=None), rows_max=10) is not None


def test_a_closure_refuses_sensors_that_do_not_share_their_times(tmp_path: Path) -> None:
    inputs = inputs_of(plate(tmp_path))
    assert inputs.plate_mean is not None
    ragged = Batch(np.arange(5.0), np.arange(5.0), np.arange(5.0), np.arange(5.0), None, np.arange(5))
    with pytest.raises(tekton.BadInput, match="5 sensors at 5 times do not fill a table"):
        prepare.mean_over_plate(inputs.problem, ragged)
    with pytest.raises(tekton.BadInput, match="sensor_id"):
        prepare.mean_over_plate(inputs.problem, replace(ragged, sensor_id=None))


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"lr": 0.1}, "recipe lm has no learning rate"),
        ({"a_model": "constant"}, "contradicts a_boundary"),
        ({"restarts": 0}, "restarts is 0"),
        ({"w_pde": -1.0}, "param w-pde is -1"),
    ],
)
def test_contradicting_wishes_are_refused(wishes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(tekton.BadInput, match=message) as caught:
        plan_of(heatinv(tmp_path), **wishes)
    assert caught.value.remedy


def test_an_unknown_source_must_be_inferred(tmp_path: Path) -> None:
    folder = plate(tmp_path, source={"kind": "unknown"})
    with pytest.raises(tekton.BadInput, match="source is unknown"):
        plan_of(folder)
    assert plan_of(folder, infer_f=True).architecture.infer_f


def test_recipes_say_what_really_runs(tmp_path: Path) -> None:
    folder = heatinv(tmp_path)
    ours, theirs = plan_of(folder), plan_of(folder, recipe="source", epochs=7, lr=0.01)
    assert (ours.optimizer, ours.lr, ours.epochs) == ("LevenbergMarquardt", None, 110)
    assert (theirs.optimizer, theirs.lr, theirs.epochs, theirs.depth) == ("Adam", 0.01, 7, 5)
    assert theirs.architecture.name.startswith("PINN-5x128")
    assert theirs.weights.a_reg == 1e-3


def test_epochs_caps_the_iterations_in_all(tmp_path: Path) -> None:
    problem = schema.load(heatinv(tmp_path)).problem
    for cap in range(3, 300):
        assert recipe.resolve(Wishes(epochs=cap), problem).epochs <= cap


def test_the_content_key_changes_with_anything_that_changes_the_result(tmp_path: Path) -> None:
    plan = plan_of(heatinv(tmp_path))
    origin = lineage.Lineage("d" * 32, "g", "code", "image", "run-1")
    key = lineage.content_key(origin, plan, "p")
    assert key == lineage.content_key(replace(origin, pipeline_run="run-2", data_git_sha="h"), plan, "p")
    others = [
        lineage.content_key(replace(origin, dataset_hash="e" * 32), plan, "p"),
        lineage.content_key(replace(origin, git_sha="other"), plan, "p"),
        lineage.content_key(origin, replace(plan, seed=1), "p"),
        lineage.content_key(origin, plan, "q"),
    ]
    assert len({key, *others}) == 5


def test_a_folder_without_dataset_json_gets_the_md5_that_dvc_would_give(tmp_path: Path) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.meta import Meta
    from dvc_data.hashfile.tree import Tree

    heatinv(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note.txt").write_text("x")
    tree = Tree()
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        tree.add(path.relative_to(tmp_path).parts, Meta(), HashInfo("md5", md5))
    tree.digest()
    assert tree.hash_info.value == f"{lineage.dvc_md5(tmp_path)}.dir"
    (tmp_path / "dataset.json").write_text(json.dumps({"dataset_hash": "f" * 32, "data_git_sha": "g"}))
    found = lineage.read(tmp_path, "", "")
    assert (found.dataset_hash, found.data_version, found.data_git_sha) == ("f" * 32, "dvc-ffffff", "g")


@pytest.mark.parametrize(
    ("told", "built", "known"),
    [
        ("a" * 40, "b" * 40, "a" * 40),
        ("unknown", "b" * 40, "b" * 40),
        ("", "b" * 40, "b" * 40),
        ("unknown", "", "unknown"),
    ],
)
def test_the_codes_commit_is_what_the_image_was_told_or_what_openshift_built(
    monkeypatch, tmp_path: Path, told: str, built: str, known: str
) -> None:
    monkeypatch.setenv("ISOTHERM_GIT_SHA", told)
    monkeypatch.setenv("OPENSHIFT_BUILD_COMMIT", built)
    assert lineage.read(tmp_path, "", "").git_sha == known
