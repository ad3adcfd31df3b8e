"""A checkpoint is whole or passed over; what follows it is what would have followed anyway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import heatinv, inputs_of, plan_of

from isotherm.pinn import checkpoint, restarts
from isotherm.pinn.levenberg import State
from isotherm.pinn.objective import Counts


def state(iteration: int, seed: int = 0) -> State:
    theta = torch.randn(17, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    history = [{"iteration": k + 1, "stage": 0, "objective": 0.1 * k} for k in range(iteration)]
    return State(theta, 1, iteration, 2, 0.3 + seed, 1, False, 1.5, history)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(0, 10_000))
def test_a_state_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, iteration: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("one")
    saved, moments = state(iteration, seed), {"m": torch.ones(3).double(), "v": torch.zeros(3).double()}
    checkpoint.save(folder, 2, saved, moments)
    found = checkpoint.load(folder, 2)
    assert found is not None
    assert torch.equal(found[0].theta, saved.theta)
    assert found[0].numbers() == saved.numbers()
    assert found[0].history == saved.history
    assert all(torch.equal(found[1][name], moments[name]) for name in moments)
    assert checkpoint.load(folder, 1) is None


def test_two_are_kept_and_a_spoilt_one_is_passed_over(tmp_path: Path) -> None:
    paths = [checkpoint.save(tmp_path, 0, state(k, k)) for k in (3, 5, 9)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in paths[1:]]
    whole = paths[2].read_bytes()
    for spoilt in (whole[:-1], whole[:70], b"", whole[:200] + b"x" + whole[201:]):
        paths[2].write_bytes(spoilt)
        found = checkpoint.load(tmp_path, 0)
        assert found is not None
        assert found[0].iteration == 5
    (tmp_path / ".restart-0.00000010.ckpt.tmp").write_bytes(b"half")
    paths[1].write_bytes(b"")
    assert checkpoint.load(tmp_path, 0) is None


@pytest.mark.parametrize("wishes", [{"epochs": 9}, {"recipe": "source", "epochs": 6}])
def test_every_point_of_interruption_leads_to_the_same_parameters(
    wishes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "CHECKPOINT_SECONDS", 0.0)
    inputs, plan = inputs_of(heatinv(tmp_path / "data", 60)), plan_of(tmp_path / "data", **wishes)
    plan = replace(plan, counts=Counts(interior=100))
    with torch.no_grad():
        whole = [s.theta.clone() for s in restarts.iterate(inputs, plan, 0, tmp_path / "whole")]
        for stop in (1, 4, plan.epochs - 1):
            folder = tmp_path / f"cut-{stop}"
            steps = restarts.iterate(inputs, plan, 0, folder)
            for _ in range(stop):
                next(steps)
            steps.close()
            again = [s.theta.clone() for s in restarts.iterate(inputs, plan, 0, folder)]
            assert len(again) <= len(whole) - stop + 1
            assert torch.equal(again[-1], whole[-1])


def test_a_field_that_falls_below_zero_is_trained_again_as_an_exponential(tmp_path: Path) -> None:
    inputs, plan = inputs_of(heatinv(tmp_path / "data", 60)), plan_of(tmp_path / "data", epochs=3)
    with torch.no_grad():
        linear = restarts.build_model(inputs, plan, positive=False)
        done = State(linear.initial(0), done=True, history=[{"objective": 1.0}])
        done.theta[linear.layout.columns["a.1.bias"]] = -50.0
        assert restarts.lowest_a(linear, done) < 0
        checkpoint.save(tmp_path / "work" / "linear", 0, done)
        last = list(restarts.iterate(inputs, plan, 0, tmp_path / "work"))[-1]
        assert last.done
        found = restarts.finished(inputs, plan, 0, tmp_path / "work")
    assert found is not None
    assert found.model.architecture.a_exp
    assert restarts.lowest_a(found.model, found.state) > 0
