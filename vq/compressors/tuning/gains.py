"""Row factors of layers whose weights are codes: the part of them that stays continuous."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Gains:
    """A factor for each output of some linear layers, applied by a hook behind the layer.

    Without a rotation of outputs a layer's rows are scaled last, so that a factor of an output is one of a row's scale.
    """

    def __init__(self) -> None:
        self._values: dict[str, nn.Parameter] = {}
        self._handles: dict[str, Any] = {}

    def attach(self, layers: Mapping[str, nn.Linear]) -> None:
        """Give layers that have none yet factors of one."""
        for name, layer in layers.items():
            if name not in self._values:
                gain = nn.Parameter(torch.ones(layer.out_features, device=layer.weight.device))
                self._values[name] = gain
                self._handles[name] = layer.register_forward_hook(_Hook(gain))

    def values(self) -> Iterator[nn.Parameter]:
        """The factors, in the order they were attached."""
        return iter(self._values.values())

    def items(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Factors by layer name."""
        return iter(self._values.items())

    def detach(self) -> dict[str, Tensor]:
        """Take the hooks off; returns the factors."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        found = {name: gain.detach().clone() for name, gain in self._values.items()}
        self._values.clear()
        return found


class _Hook:
    """``y -> (y - bias) * gain + bias``."""

    def __init__(self, gain: nn.Parameter) -> None:
        self.gain = gain

    def __call__(self, module: nn.Linear, _: Any, output: Tensor) -> Tensor:
        gain = self.gain.to(output.dtype)
        if module.bias is None:
            return output * gain
        return (output - module.bias) * gain + module.bias


def free_parameters(
    module: nn.Module, rounded: Iterable[nn.Linear], fixed: Iterable[Tensor] = ()
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of a module that are not codes, ready to be tuned: matrices, and all others.

    Args:
        module: whose parameters.
        rounded: layers whose weights are codes.
        fixed: other parameters that stay.
    """
    frozen = {id(layer.weight) for layer in rounded} | {id(p) for p in fixed}
    free = [p for p in module.parameters() if id(p) not in frozen and p.is_floating_point()]
    for p in free:
        p.requires_grad_(True)
    return [p for p in free if p.ndim >= 2], [p for p in free if p.ndim < 2]
