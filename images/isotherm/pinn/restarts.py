"""Restarts of one training: each in a process of its own on one thread, resumable; the lowest objective is kept.

One thread each makes the result independent of the number of cores, bit for bit on one kind of CPU. A worker ends when
its parent does, however that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm.pinn.levenberg import State
from isotherm.pinn.model import Model
from isotherm.pinn.prepare import Inputs
from isotherm.pinn.recipe import Recipe
from isotherm.pinn.wishes import CPU, LM

CHECKPOINT_SECONDS = 1.0
MESSAGE_SECONDS = 0.25
PER_CORE = 2
_CHECK_SIDE = 61


@dataclass(frozen=True)
class Progress:
    """What a worker reports while it works."""

    restart: int
    iteration: int
    of: int
    stage: int
    seconds: float
    terms: dict[str, float]


@dataclass(frozen=True)
class Trained:
    """A finished restart: its model and its state."""

    restart: int
    seed: int
    model: Model
    state: State

    @property
    def objective(self) -> float:
        """The training objective at the end, by which restarts are compared."""
        return self.state.history[-1]["objective"]


def net_seed(recipe: Recipe, restart: int) -> int:
    """Seed of a restart's starting weights."""
    return 1000 * recipe.seed + restart


def build_model(inputs: Inputs, recipe: Recipe, positive: bool) -> Model:
    """Pose the problem; `positive` writes `a` with the exponential that replaces a form that fell below 0."""
    return Model(inputs.setting(), replace(recipe.architecture, a_exp=positive or recipe.architecture.a_exp))


def iterate(inputs: Inputs, recipe: Recipe, restart: int, folder: Path, kind: str = CPU) -> Iterator[State]:
    """Train one restart from its last checkpoint on a kind of device (device.py), yielding its state.

    The last state that is yielded is done and on disk.

    When the finished `a` is not positive everywhere on the check grid, the restart begins again with exp.
    """
    for positive in (False, True):
        where = folder / ("exp" if positive else "linear")
        model = build_model(inputs, recipe, positive)
        state = yield from _fit(model, inputs, recipe, restart, where, kind)
        if positive or lowest_a(model, state) > 0:
            return


def _fit(model: Model, inputs: Inputs, recipe: Recipe, restart: int, folder: Path, kind: str) -> Any:
    from isotherm.pinn import adam, checkpoint, device, levenberg, objective

    state, moments = checkpoint.load(folder, restart) or (State(model.initial(net_seed(recipe, restart))), {})
    if state.done:
        yield state
        return state
    there = device.of_restart(kind, restart)
    state.theta, moments = state.theta.to(there), {name: moment.to(there) for name, moment in moments.items()}
    goal = objective.build(model.to(there), inputs.train.tensors(), recipe.weights, recipe.counts, recipe.seed)
    if recipe.name == LM:
        steps = levenberg.run(goal, list(recipe.stages), state, model.layout.end_of("u", "a", "f"))
    else:
        steps = adam.run(goal, recipe.epochs, recipe.lr or 0.0, state, moments)
    saved = time.monotonic()
    for _ in steps:
        if state.done or time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.save(folder, restart, state, moments)
            saved = time.monotonic()
        yield state
    state.theta = state.theta.cpu()
    return state


def lowest_a(model: Model, state: State) -> float:
    """Smallest `a` on the check grid, nondimensional."""
    import torch

    from isotherm.pinn import sampling

    with torch.no_grad():
        grid = model.sites(sampling.plate_grid(model.setting, _CHECK_SIDE), "")
        return float(model.a(model.layout.views(state.theta), grid).v.min())


def finished(inputs: Inputs, recipe: Recipe, restart: int, folder: Path) -> Trained | None:
    """Read a restart that is done, with the form of `a` that it ended with; None where it is not."""
    from isotherm.pinn import checkpoint

    for positive in (True, False):
        found = checkpoint.load(folder / ("exp" if positive else "linear"), restart)
        if found is not None and found[0].done:
            return Trained(restart, net_seed(recipe, restart), build_model(inputs, recipe, positive), found[0])
        if found is not None:
            return None
    return None


def run_all(
    inputs: Inputs, recipe: Recipe, folder: Path, report: Callable[[Progress], None], meanwhile: Callable[[], None],
    kind: str = CPU,
) -> list[Trained]:  # fmt: skip
    """Train all restarts that are not finished yet, as many at a time as there are cores, and return every one.

    `meanwhile` is called once, while the first workers train; what it raises ends them.
    """
    waiting = [k for k in range(recipe.restarts) if finished(inputs, recipe, k, folder) is None]
    # One server imports torch and is forked for each worker before it computed anything; `spawn` would import it anew
    # for every restart, three seconds of a core each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isotherm.pinn.adam", "isotherm.pinn.levenberg", "isotherm.pinn.objective"])
    # Three restarts on two cores end sooner side by side than one after the other two.
    slots = max(1, min(PER_CORE * len(os.sched_getaffinity(0)), len(waiting)))
    running: dict[Connection, Any] = {}

    def start() -> None:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(inputs, recipe, waiting.pop(0), folder, kind, theirs), daemon=True)
        worker.start()
        theirs.close()
        running[ours] = worker

    try:
        while waiting and len(running) < slots:
            start()
        meanwhile()
        while running:
            for pipe in _ready(running):
                message = _receive(pipe)
                if isinstance(message, Progress):
                    report(message)
                    continue
                worker = running.pop(pipe)
                worker.join()
                if message is not None or worker.exitcode != 0:
                    raise message or RuntimeError(f"a restart ended with exit code {worker.exitcode}")
                if waiting:
                    start()
    finally:
        for worker in running.values():
            worker.kill()
            worker.join()
    trained = [finished(inputs, recipe, k, folder) for k in range(recipe.restarts)]
    return [t for t in trained if t is not None]


def _ready(running: dict[Connection, Any]) -> list[Connection]:
    return [pipe for pipe in wait(list(running)) if isinstance(pipe, Connection)]


def _receive(pipe: Connection) -> Progress | Exception | None:
    try:
        message: Progress | Exception = pipe.recv()
    except EOFError:
        return None
    return message


def _work(inputs: Inputs, recipe: Recipe, restart: int, folder: Path, kind: str, pipe: Connection) -> None:
    _end_with_parent()
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    told = 0.0
    try:
        for state in iterate(inputs, recipe, restart, folder, kind):
            if state.history and (state.done or time.monotonic() - told > MESSAGE_SECONDS):
                told = time.monotonic()
                pipe.send(_progress(recipe, restart, state))
    except tekton.TaskError as error:
        pipe.send(error)
    except BrokenPipeError:
        os._exit(1)
    except Exception:
        traceback.print_exc()
        raise


def _progress(recipe: Recipe, restart: int, state: State) -> Progress:
    last = dict(state.history[-1])
    stage = int(last.pop("stage"))
    del last["iteration"], last["seconds"]
    return Progress(restart, state.iteration, recipe.epochs, stage, state.seconds, last)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def choose(trained: list[Trained]) -> Trained:
    """The restart with the lowest training objective; the first of equals."""
    return min(trained, key=lambda t: t.objective)
