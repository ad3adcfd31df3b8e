"""A device beside the CPU for tests on a machine without a GPU: its tensors are told apart, the CPU computes.

It lies in PyTorch's own place for foreign backends (PrivateUse1, written in Python). An operation on tensors of both
devices is refused, as CUDA refuses it, so what runs here keeps its tensors together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "second"
_kept: list[torch.library.Library] = []  # a registration ends with its library
_TO, _INTO = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default  # these alone see both devices


class Held(torch.Tensor):
    """A tensor of the second device; `held` is its content, a tensor of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Held:
        made: Held = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do any operation on tensors of this device."""
        del types
        return _computed(operation, *args, **(kwargs or {}))


def _computed(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation with the contents, and hold what it returns."""
    mine: dict[int, Held] = {}
    to_cpu = kwargs.get("device") == torch.device("cpu") or (operation is _INTO and not isinstance(args[0], Held))

    def content(value: Any) -> Any:
        if isinstance(value, Held):
            mine[id(value.held)] = value
            return value.held
        if isinstance(value, torch.Tensor) and value.dim() > 0 and operation not in (_TO, _INTO):
            raise RuntimeError(f"{operation}: all tensors must be on one device, found {NAME} and {value.device}")
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def holding(value: Any) -> Any:
        if to_cpu or not isinstance(value, torch.Tensor):
            return value
        return mine[id(value)] if id(value) in mine else Held(value)  # what was changed in place stays itself

    taken = pytree.tree_map(content, (args, kwargs))
    return pytree.tree_map(holding, operation(*taken[0], **taken[1]))


@cache
def device() -> torch.device:
    """Register the device, once in a process, and return it."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    made = torch.library.Library("_", "IMPL")  # what makes tensors has none to be dispatched by
    made.fallback(_computed, "PrivateUse1")
    _kept.append(made)
    return torch.device(NAME, 0)
