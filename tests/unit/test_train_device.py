"""A training on another device than the CPU: every tensor of its steps lies there, and it ends as on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import second_device
import torch
from test_train_objective import ARCHITECTURES, ON_PLATE, objective_of
from trainings import heatinv, inputs_of, plan_of, start

from isotherm import tekton
from isotherm.physics.jets import Jet
from isotherm.physics.sources import Table
from isotherm.pinn import device, restarts
from isotherm.pinn.objective import Counts


@pytest.fixture(scope="module")
def alone() -> Iterator[Executor]:
    """A process of its own: PyTorch counts devices at the first backward pass, which others here have had."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def terms(name: str, folder: Path) -> None:
    there = second_device.device()
    here, goal = (objective_of(name, folder / where.type, where) for where in (torch.device("cpu"), there))
    theta = here.model.initial(7) + 0.1
    wanted, found = here.normal_equations(theta, len(theta)), goal.normal_equations(theta.to(there), len(theta))
    assert [one.device for one in found[:2]] == [there, there]
    torch.testing.assert_close([one.cpu() for one in found[:2]], list(wanted[:2]))
    plain = goal.mean_squares(theta.to(there))
    torch.testing.assert_close({part: value.cpu() for part, value in plain.items()}, wanted[2])


@pytest.mark.parametrize("name", [*ARCHITECTURES, *ON_PLATE])
def test_every_term_is_computed_on_the_device(name: str, alone: Executor, tmp_path: Path) -> None:
    alone.submit(terms, name, tmp_path).result()


def table() -> None:
    there = second_device.device()
    axes = (torch.arange(3.0).double(), torch.arange(2.0).double(), torch.arange(4.0).double())
    source, points = Table(axes, torch.arange(24.0).double().reshape(3, 2, 4)), torch.rand(5, 3).double()
    found = source.to(there)(points.to(there), Jet(points[:, 0].to(there)), {})
    torch.testing.assert_close(found.cpu(), source(points, Jet(points[:, 0]), {}))


def test_a_tabulated_source_is_read_on_the_device(alone: Executor) -> None:
    alone.submit(table).result()


def restart(wishes: dict[str, object], folder: Path) -> None:
    there = second_device.device()
    restarts.CHECKPOINT_SECONDS = 0.0
    inputs, plan = inputs_of(heatinv(folder / "data", 60)), plan_of(folder / "data", **wishes)
    plan = replace(plan, counts=Counts(interior=50))
    with torch.no_grad():
        list(restarts.iterate(inputs, plan, 0, folder / "here"))
        begun = restarts.iterate(inputs, plan, 0, folder / "there", there.type)
        assert [next(begun).theta.device for _ in range(2)] == [there, there]
        del begun
        list(restarts.iterate(inputs, plan, 0, folder / "there", there.type))
        wanted, found = (restarts.finished(inputs, plan, 0, folder / where) for where in ("here", "there"))
    assert wanted is not None
    assert found is not None
    torch.testing.assert_close(found.state.theta, wanted.state.theta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("wishes", [{"epochs": 4}, {"recipe": "source", "epochs": 4}])
def test_a_restart_is_interrupted_and_ends_as_on_the_cpu(
    wishes: dict[str, object], alone: Executor, tmp_path: Path
) -> None:
    alone.submit(restart, wishes, tmp_path).result()


def test_a_gpu_is_taken_where_there_is_one_and_restarts_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda n: f"RTX {n}")
    assert [device.resolve(asked) for asked in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    assert [device.of_restart("cuda", k).index for k in range(3)] == [0, 1, 0]
    assert (device.of_restart("cpu", 1), device.describe("cpu")) == (torch.device("cpu"), "cpu")
    assert device.describe("cuda") == "RTX 0 + RTX 1"


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve("auto") == "cpu"
    with pytest.raises(tekton.BadInput, match="can use no GPU") as refusal:
        device.resolve("cuda")
    assert "nvidia.com/gpu" in refusal.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_program_refuses_before_it_trains(tmp_path: Path) -> None:
    process = start(heatinv(tmp_path / "data", 30), tmp_path, DEVICE="cuda")
    log, _ = process.communicate(timeout=120)
    assert process.returncode == tekton.BadInput.exit_code
    assert re.search("device cuda is asked for, but PyTorch .* can use no GPU", log)
    assert not (tmp_path / "model").exists()
