"""Where a training computes its steps: the CPU, or the GPUs that PyTorch can use.

Points and starting weights are drawn on the CPU, so that they are the same everywhere; checkpoints, the gate's checks
and the exported model are the CPU's too. Everything is float64: residuals of second derivatives do not bear less.
"""

from __future__ import annotations

import torch

from isotherm import tekton
from isotherm.pinn.wishes import AUTO, CPU, CUDA


def resolve(asked: str) -> str:
    """Return the kind of device for `auto`, `cpu` or `cuda`; auto takes a GPU where there is one.

    Raises `tekton.BadInput` where a GPU is asked for and PyTorch can use none.
    """
    if asked == AUTO:
        return CUDA if torch.cuda.is_available() else CPU
    if asked == CUDA and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise tekton.BadInput(
            f"device cuda is asked for, but PyTorch {torch.__version__}, built for {built}, can use no GPU",
            remedy="take the image for GPU nodes (--build-arg REQUIREMENTS=requirements-cuda.txt) and a limit of "
            "nvidia.com/gpu, or param device: auto",
        )
    return asked


def of_restart(kind: str, restart: int) -> torch.device:
    """Device of a restart: the restarts take the GPUs in turn."""
    return torch.device(kind, restart % torch.cuda.device_count()) if kind == CUDA else torch.device(kind)


def describe(kind: str) -> str:
    """Name the device for people: `cpu`, or the GPUs' own names."""
    if kind != CUDA:
        return kind
    return " + ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
