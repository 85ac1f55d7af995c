"""The stacks of repeated blocks in a model, found by structure."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from vq.compressors.structure.experts import is_fused_experts
from vq.compressors.structure.surgery import is_linear, is_transposed_linear
from vq.errors import VqError


class Blocks(Protocol):
    """Something in blocks, each with its linear layers."""

    @property
    def blocks(self) -> Any:
        """The blocks in the order in which they are quantized."""

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """Linear layers of a block by qualified name."""


_SMALLEST = 0.02  # part of the largest stack's weights below which a list is no stack


def find_stacks(model: nn.Module, name: str) -> list[str]:
    """Qualified names of the stacks: outermost module lists with matrices in them, in the model's order.

    An encoder-decoder has two. Lists that hold less than a fiftieth of the largest one's weights are left out.

    Args:
        model: parameters may be on the meta device.
        name: of the model, for the error.

    Raises:
        VqError: if there is none.
    """
    sizes: dict[str, int] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{stack}.") for stack in sizes)
        if isinstance(module, nn.ModuleList) and not inside and _has_matrices(module):
            sizes[path] = sum(p.numel() for p in module.parameters())
    if not sizes:
        raise VqError(f"{name}: found no list of blocks with linear layers in this architecture")
    largest = max(sizes.values())
    return [path for path, size in sizes.items() if size >= _SMALLEST * largest]


def _has_matrices(module: nn.Module) -> bool:
    return any(
        is_linear(m) or is_transposed_linear(m) or is_fused_experts(m) for m in module.modules()
    )
