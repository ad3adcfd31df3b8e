"""What a user may ask of a training: names and types only, so that `--help` needs nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

LM, SOURCE = "lm", "source"
RECIPES = (LM, SOURCE)
A_MODELS = ("auto", "nn", "poly", "constant")
AUTO, CPU, CUDA = "auto", "cpu", "cuda"
DEVICES = (AUTO, CPU, CUDA)


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None leaves the recipe's own choice."""

    recipe: str = LM
    epochs: int | None = None
    lr: float | None = None
    a_reg: float | None = None
    f_reg: float | None = None
    w_pde: float | None = None
    w_bc: float | None = None
    w_ic: float | None = None
    a_model: str = "auto"
    infer_f: bool = False
    restarts: int = 3
    seed: int = 0
