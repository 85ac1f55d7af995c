"""Several packed layers that share their input (q/k/v, gate/up) in one operation: ``vq::packed_linear_group``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.kernels.dispatch import backend, declare, library, native, threads
from vq.kernels.linear import listens, packed_linear_transposed
from vq.kernels.linear_native import _TYPES, _VALUES, PLANES, _signs
from vq.kernels.linear_native import cpu as one_cpu
from vq.kernels.linear_reference import INTEGER_COLUMNS, INTEGER_ROWS, MODES, VALUE_ROWS
from vq.kernels.linear_reference import reference as one_reference

__all__ = ["packed_linear_group", "quick_linear_group"]


def _fake(x: Tensor, weights: list[Tensor], scales: list[Tensor], *rest: Any) -> list[Tensor]:
    return [x.new_empty((*x.shape[:-1], own.shape[0])) for own in scales]


def _check(
    weights: list[Tensor],
    scales: list[Tensor],
    signs_out: list[Tensor | None],
    tables: list[Tensor],
) -> None:
    counts = {len(weights), len(scales), len(signs_out), len(tables)}
    if len(counts) != 1 or not weights:
        raise ValueError(
            "packed_linear_group: expected as many weights, scales, signs_out and tables, at least one of each; got "
            f"{len(weights)}, {len(scales)}, {len(signs_out)} and {len(tables)}"
        )


def _reference(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    signs_in: Tensor | None,
    signs_out: list[Tensor | None],
    tables: list[Tensor],
    mode: str,
) -> list[Tensor]:
    _check(weights, scales, signs_out, tables)
    layers = zip(weights, scales, signs_out, tables, strict=True)
    return [one_reference(x, w, s, signs_in, last, table, mode) for w, s, last, table in layers]


def _together(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    signs_in: Tensor | None,
    signs_out: list[Tensor | None],
    tables: list[Tensor],
    mode: str,
) -> list[Tensor] | None:
    """Trellises in one call, or None if one of the layers is another or not a case for its kernel."""
    planes, width = PLANES.get(mode, 0), x.shape[-1] if x.ndim else 0
    rows = x.numel() // width if width else 0
    first = _signs(signs_in, width)
    values = [(table.ndim, table.dtype) == _VALUES for table in tables]
    most = VALUE_ROWS if any(values) and not planes else INTEGER_ROWS
    if not (0 < rows <= most and width <= INTEGER_COLUMNS) or first < 0:
        return None
    if mode not in MODES or not (planes or all(values)):
        return None
    given = x.float().contiguous()
    outputs, matrices = [], []
    for weight, own, signs, table in zip(weights, scales, signs_out, tables, strict=True):
        last = _signs(signs, own.numel())
        whole = weight.is_contiguous() and own.is_contiguous() and table.is_contiguous()
        types = (x.dtype, weight.dtype, own.dtype, table.dtype)
        if types not in _TYPES or table.ndim > 2 or own.ndim != 1 or last < 0 or not whole:
            return None
        y = torch.empty((*x.shape[:-1], own.numel()), dtype=torch.float32)
        outputs.append(y)
        addresses = (weight.data_ptr(), weight.numel(), own.data_ptr(), last, table.data_ptr())
        matrices.append((*addresses, table.numel(), own.numel(), y.data_ptr()))
    module = native()
    assert module is not None
    if not module.packed_linear_group(
        given.data_ptr(), rows, width, first, planes, matrices, threads()
    ):
        return None
    return [y.to(x.dtype) for y in outputs]


def _cpu(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    signs_in: Tensor | None,
    signs_out: list[Tensor | None],
    tables: list[Tensor],
    mode: str,
) -> list[Tensor]:
    _check(weights, scales, signs_out, tables)
    found = _together(x, weights, scales, signs_in, signs_out, tables, mode)
    if found is not None:
        return found
    layers = zip(weights, scales, signs_out, tables, strict=True)
    return [one_cpu(x, w, s, signs_in, last, table, mode) for w, s, last, table in layers]


packed_linear_group = declare(
    "packed_linear_group(Tensor x, Tensor[] weights, Tensor[] scales, Tensor? signs_in, "
    "Tensor?[] signs_out, Tensor[] tables, str mode) -> Tensor[]",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
    triton="vq.kernels.triton.linear:packed_linear_group",
)
"""``packed_linear_group(x, weights, scales, signs_in, signs_out, tables, mode)``: layers with one input.

The same numbers as ``packed_linear`` for each layer; where the integer kernels serve all of them, x is rotated and
quantized once.

Args:
    x: ``(*batch, in)`` floating point.
    weights, scales, tables: one a layer, as ``packed_linear`` takes them.
    signs_in: of all layers, or None.
    signs_out: one a layer, or None.
    mode: ``float``, ``int15`` or ``int8``.

Returns:
    One ``(*batch, out)`` a layer, in x's dtype.

Raises:
    ValueError: if the lists have different lengths, or anything does not fit a header.
"""


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, weights, scales, signs_in, signs_out, tables, _ = inputs
    ctx.layers = (weights, scales, signs_in, signs_out, tables)
    ctx.in_features = inputs[0].shape[-1]


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    weights, scales, signs_in, signs_out, tables = ctx.layers
    total = None
    for grad, w, s, last, table in zip(grads, weights, scales, signs_out, tables, strict=True):
        own = packed_linear_transposed(grad, w, s, signs_in, last, table, ctx.in_features)
        total = own if total is None else total + own
    nothing = [None] * len(weights)
    return total, nothing, nothing, None, nothing, nothing, None


torch.library.register_autograd(
    "vq::packed_linear_group", _backward, setup_context=_setup, lib=library
)


def quick_linear_group(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    signs_in: Tensor | None,
    signs_out: list[Tensor | None],
    tables: list[Tensor],
    mode: str,
) -> list[Tensor]:
    """``packed_linear_group`` without torch's dispatcher where nothing listens to it, as ``linear.quick_linear``."""
    call = packed_linear_group if listens(x) or backend() != "cpu" else _cpu
    y: list[Tensor] = call(x, weights, scales, signs_in, signs_out, tables, mode)
    return y
