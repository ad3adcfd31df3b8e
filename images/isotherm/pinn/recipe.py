"""What a training does: networks, weights, stages. `lm` is Levenberg-Marquardt in stages, `source` plain Adam on 5x128.

Every number that changes the result is here and goes into the content key, the run's params and the run manifest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from isotherm.physics.problem import AreaMeanClosure, ConstantDiffusivity, Problem, Unknown
from isotherm.pinn.levenberg import Stage
from isotherm.pinn.networks import Architecture
from isotherm.pinn.objective import Counts, Weights
from isotherm.pinn.wishes import LM, SOURCE, Wishes
from isotherm.tekton import BadInput

W_PDE, W_PDE_CLOSURE = 100.0, 2500.0
W_EDGE = 10.0
# Without edge values nothing but this ties `a` down where the temperature is flat.
A_REG_FREE_EDGE = 1e-2
F_REG = 1e-4
SOURCE_A_REG, SOURCE_LR, SOURCE_EPOCHS = 1e-3, 1e-3, 20_000


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe; `stages` is empty for Adam, `lr` is None for Levenberg-Marquardt."""

    name: str
    architecture: Architecture
    weights: Weights
    counts: Counts
    stages: tuple[Stage, ...]
    epochs: int
    lr: float | None
    restarts: int
    seed: int

    @property
    def optimizer(self) -> str:
        """What tag `optimizer` says: what really ran."""
        return "LevenbergMarquardt" if self.name == LM else "Adam"

    @property
    def depth(self) -> int:
        """Hidden layers of the network for u."""
        return len(self.architecture.u_hidden)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def resolve(wishes: Wishes, problem: Problem) -> Recipe:
    """Settle every choice for a problem. Raises `BadInput` where wishes contradict each other or the problem."""
    _check(wishes, problem)
    a_model = wishes.a_model
    if a_model == "auto":
        a_model = "constant" if isinstance(problem.a_model, ConstantDiffusivity) else "nn"
    stages: tuple[Stage, ...] = ()
    closure = isinstance(problem.source, AreaMeanClosure) and not wishes.infer_f
    free_edge = isinstance(problem.a_boundary, Unknown)
    if wishes.recipe == SOURCE:
        architecture = Architecture((128,) * 5, a_model, (128,) * 5, infer_f=wishes.infer_f, f_hidden=(128,) * 5)
        a_reg, epochs = SOURCE_A_REG, _or(wishes.epochs, SOURCE_EPOCHS)
    else:
        # A closure couples u with its own source: 2x16 got stuck from one start in four, 2x20 from none.
        u_hidden = (20, 20) if closure else (16, 16)
        architecture = Architecture(u_hidden, a_model=a_model, infer_f=wishes.infer_f)
        a_reg = A_REG_FREE_EDGE if free_edge else 0.0
        stages = _stages(_or(wishes.w_pde, W_PDE_CLOSURE if closure else W_PDE), closure, wishes.epochs)
        epochs = sum(stage.iterations for stage in stages)
    weights = Weights(
        w_pde=_or(wishes.w_pde, W_PDE_CLOSURE if closure else W_PDE),
        w_bc=_or(wishes.w_bc, W_EDGE),
        w_ic=_or(wishes.w_ic, W_EDGE),
        a_reg=_or(wishes.a_reg, a_reg),
        f_reg=_or(wishes.f_reg, F_REG if wishes.infer_f else 0.0),
    )
    lr = _or(wishes.lr, SOURCE_LR) if wishes.recipe == SOURCE else None
    counts = Counts(interior=2000) if closure else Counts()
    return Recipe(wishes.recipe, architecture, weights, counts, stages, epochs, lr, wishes.restarts, wishes.seed)


def _check(wishes: Wishes, problem: Problem) -> None:
    if wishes.recipe == LM and wishes.lr is not None:
        raise BadInput(
            f"lr is {wishes.lr:g}, but recipe lm has no learning rate", remedy="leave lr out, or use recipe source"
        )
    if isinstance(problem.source, Unknown) and not wishes.infer_f:
        raise BadInput("problem.yaml says that the source is unknown", remedy="set infer-f, or give the source")
    if wishes.a_model == "constant" and not isinstance(problem.a_boundary, Unknown):
        raise BadInput("a-model constant contradicts a_boundary of problem.yaml", remedy="use a-model nn or poly")
    negative = {name: value for name, value in vars(wishes).items() if isinstance(value, float) and value < 0}
    if negative:
        name, value = next(iter(negative.items()))
        raise BadInput(f"param {name.replace('_', '-')} is {value:g}", remedy="give a number that is not negative")
    if wishes.restarts < 1 or (wishes.epochs is not None and wishes.epochs < 1):
        raise BadInput(f"restarts is {wishes.restarts}, epochs {wishes.epochs}", remedy="give whole numbers from 1")


def _stages(w_pde: float, closure: bool, cap: int | None) -> tuple[Stage, ...]:
    # The nuisance parameters of a closure wait until the fields are near: moved at once, they explain everything away.
    if closure:
        planned = [Stage(w_pde / 2500, 20, False), Stage(w_pde / 25, 15, False), Stage(w_pde, 60)]
    else:
        planned = [Stage(w_pde * 1e-4, 20), Stage(w_pde * 1e-2, 30), Stage(w_pde, 60)]
    if cap is None:
        return tuple(planned)
    # `epochs` caps the iterations in all; the proportions of the stages stay.
    total = sum(stage.iterations for stage in planned)
    share = [max(1, stage.iterations * min(cap, total) // total) for stage in planned]
    if cap > total:
        share[-1] += cap - total
    return tuple(Stage(s.w_pde, n, s.nuisance) for s, n in zip(planned, share, strict=True))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
