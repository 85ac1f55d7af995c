"""Fused experts, whose matrices are 3-D parameters, taken apart into linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EXPERTS = "unfused"  # name under which the experts of a fused module stand one by one
_ROUTED: ContextVar[Tensor | None] = ContextVar("vq_routed_tokens", default=None)


def routed_tokens() -> Tensor | None:
    """Numbers of the tokens that the expert at work was given; None outside of experts."""
    return _ROUTED.get()


@dataclass(frozen=True)
class Origin:
    """Where a parameter of the taken-apart model comes from.

    Attributes:
        name: tensor of the model as transformers builds it.
        index: expert, where that tensor holds several; else None.
        transposed: whether rows and columns change places.
    """

    name: str
    index: int | None = None
    transposed: bool = False

    def take(self, tensor: Tensor) -> Tensor:
        """The parameter from the tensor."""
        part = tensor if self.index is None else tensor[self.index]
        return part.t().contiguous() if self.transposed else part


def is_fused_experts(module: nn.Module) -> bool:
    """Whether this holds the matrices of all experts as 3-D parameters, in one of the ways that can be taken apart."""
    flags = ("has_gate", "has_bias", "is_transposed", "num_experts", "_apply_gate")
    if not all(hasattr(module, flag) for flag in flags):
        return False
    own = module._parameters
    first = "gate_up_proj" if module.has_gate else "up_proj"
    wanted = {first, "down_proj"}
    if module.has_bias:
        wanted |= {f"{first}_bias", "down_proj_bias"}
    matrices = [own.get(first), own.get("down_proj")]
    return own.keys() == wanted and all(m is not None and m.ndim == 3 for m in matrices)


class Expert(nn.Module):
    """The matrices of one expert.

    Attributes:
        gate_up: gate and up projection in one, or the up projection alone.
        down: down projection.
    """

    def __init__(self, gate_up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down


class UnfusedExperts(nn.Module):
    """Stands for a fused expert module: each expert's matrices are linear layers.

    Args:
        fused: the module to stand for; its parameters stay behind.
        device: where the new parameters are made.
        dtype: of them.
    """

    def __init__(self, fused: Any, device: Any = "meta", dtype: torch.dtype | None = None) -> None:
        super().__init__()
        first = fused.gate_up_proj if fused.has_gate else fused.up_proj
        self.num_experts = int(fused.num_experts)
        for name, child in fused.named_children():
            self.add_module(name, child)

        def linear(matrix: Tensor) -> nn.Linear:
            inputs, outputs = matrix.shape[1:] if fused.is_transposed else matrix.shape[:0:-1]
            kind = dtype or first.dtype
            return nn.Linear(inputs, outputs, fused.has_bias, device=device, dtype=kind)

        experts = [Expert(linear(first), linear(fused.down_proj)) for _ in range(self.num_experts)]
        self.add_module(EXPERTS, nn.ModuleList(experts))
        fused._parameters.clear()
        object.__setattr__(self, "_fused", (fused,))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Weighted sum over the experts that the router chose.

        Args:
            hidden_states: ``(tokens, width)``.
            top_k_index: ``(tokens, k)``; numbers that are no expert are left out.
            top_k_weights: ``(tokens, k)``.

        Returns:
            ``(tokens, width)``.
        """
        fused: Any = self.__dict__["_fused"][0]
        result = torch.zeros_like(hidden_states)
        experts: Any = getattr(self, EXPERTS)
        for number, expert in enumerate(experts):
            token, place = torch.where(top_k_index == number)
            if not token.numel():
                continue
            mark = _ROUTED.set(token)
            inner: Any = expert.gate_up(hidden_states[token])
            inner = fused._apply_gate(inner) if fused.has_gate else fused.act_fn(inner)
            out = expert.down(inner)
            _ROUTED.reset(mark)
            if getattr(fused, "has_post_expert_norm", False):
                out = fused.post_expert_norm(out)
            out = out * top_k_weights[token, place, None]
            result.index_add_(0, token, out.to(result.dtype))
        return result


def unfuse(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, Origin]:
    """Take fused experts apart.

    Args:
        model: changed in place; new parameters are on the meta device.
        names: of the modules; None for all that can be.

    Returns:
        Where each new parameter comes from.
    """
    origins: dict[str, Origin] = {}
    chosen = None if names is None else set(names)
    for name, module in list(model.named_modules()):
        if not is_fused_experts(module) or (chosen is not None and name not in chosen):
            continue
        fused: Any = module
        first = "gate_up_proj" if fused.has_gate else "up_proj"
        for index in range(int(fused.num_experts)):
            for part, stored in (("gate_up", first), ("down", "down_proj")):
                new = f"{name}.{EXPERTS}.{index}.{part}"
                origins[f"{new}.weight"] = Origin(f"{name}.{stored}", index, fused.is_transposed)
                if fused.has_bias:
                    origins[f"{new}.bias"] = Origin(f"{name}.{stored}_bias", index)
        model.set_submodule(name, UnfusedExperts(fused))
    return origins


def fused_of(layer: str) -> str | None:
    """Name of the fused module that an expert's layer was taken from; None for any other layer."""
    head, mark, _ = layer.rpartition(f".{EXPERTS}.")
    return head if mark else None
