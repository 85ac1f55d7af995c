"""Every matrix of a model as a linear layer: transposed layers put straight, packed layers put in."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.layers.sides import Sides
from vq.compressors.structure.experts import Origin


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether this is the ``Conv1D`` of transformers: a linear layer that stores ``(in, out)``."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def is_linear(module: nn.Module) -> bool:
    """Whether this is a plain linear layer, not a subclass with a forward of its own."""
    return type(module) is nn.Linear


def _source_of(module: Any) -> str:
    kind: Any = module.__class__
    return _source(kind)


@functools.cache
def _source(kind: Any) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def reads_weight(parent: nn.Module, leaf: str) -> bool:
    """Whether a module looks at the weight of a layer instead of calling it, so that the layer must stay dense.

    A cast to the weight's type in the feed-forward of T5 does not count, for ``put_packed`` takes it out.
    """
    if _is_casting(parent) and leaf == "wo":
        return False
    return re.search(rf"self\.{re.escape(leaf)}\.weight\b", _source_of(parent)) is not None


def _is_casting(module: nn.Module) -> bool:
    """Whether this is a feed-forward of the T5 family, which casts its input to the type of ``wo.weight``."""
    parts = module._modules
    inner = "wi" in parts or ("wi_0" in parts and "wi_1" in parts)
    return inner and {"wo", "act", "dropout"} <= parts.keys() and len(parts) <= 5


class _Uncast:
    """Feed-forward of the T5 family without the cast, which would turn activations into bytes."""

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        """``wo(act(wi(x)))``, or with a gate ``wo(act(wi_0(x)) * wi_1(x))``."""
        if "wi" in self._modules:
            inner = self.act(self.wi(hidden_states))
        else:
            inner = self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states)
        result: Tensor = self.wo(self.dropout(inner))
        return result


@functools.cache
def _uncast(kind: Any) -> type:
    return type(kind.__name__, (_Uncast, kind), {"__module__": kind.__module__})


def straighten(model: nn.Module) -> dict[str, Origin]:
    """Put linear layers on the meta device in place of transposed ones.

    Returns:
        Where each new weight comes from.
    """
    origins: dict[str, Origin] = {}
    for name, module in list(model.named_modules()):
        if is_transposed_linear(module):
            old: Any = module
            bias = old._parameters.get("bias") is not None
            linear = nn.Linear(old.nx, old.nf, bias=bias, device="meta", dtype=old.weight.dtype)
            model.set_submodule(name, linear)
            origins[f"{name}.weight"] = Origin(f"{name}.weight", transposed=True)
    return origins


def put_packed(
    model: nn.Module,
    book_of: Callable[[str], nn.Module | None],
    rotations: tuple[bool, bool],
    sides_of: Callable[[str, int, int], Sides] | None = None,
) -> list[str]:
    """Replace linear layers by packed ones on the meta device.

    Args:
        model: changed in place.
        book_of: codebook of a layer by its name; None for one that stays.
        rotations: whether inputs and outputs are rotated.
        sides_of: what a layer has beside its codes, by name, outputs and inputs; None for nothing.

    Returns:
        Names of the layers that were replaced.
    """
    found = []
    for name, module in list(model.named_modules()):
        if not (is_linear(module) or is_transposed_linear(module)):
            continue
        book = book_of(name)
        if book is None:
            continue
        old: Any = module
        sizes = (old.in_features, old.out_features) if is_linear(module) else (old.nx, old.nf)
        layer = QuantizedLinear(
            *sizes,
            book,
            rotate_in=rotations[0],
            rotate_out=rotations[1],
            bias=old._parameters.get("bias") is not None,
            device="meta",
            dtype=old.weight.dtype,
            sides=None if sides_of is None else sides_of(name, sizes[1], sizes[0]),
        )
        model.set_submodule(name, layer.requires_grad_(False))
        parent: Any = model.get_submodule(name.rpartition(".")[0])
        if _is_casting(parent) and not isinstance(parent, _Uncast):
            parent.__class__ = _uncast(parent.__class__)
        found.append(name)
    return found


def sources(origins: Mapping[str, Origin], name: str) -> Origin:
    """Where a parameter comes from; most stand for themselves."""
    return origins.get(name, Origin(name))
