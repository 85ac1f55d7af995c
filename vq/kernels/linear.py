"""A packed linear layer in one operation: ``vq::packed_linear`` and its transpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.kernels.dispatch import backend, declare, library, native
from vq.kernels.formats import HASH_CODE, PANELS, TILES, PackedHeader
from vq.kernels.linear_native import cpu, kernel_name, step_kernel, transposed_cpu
from vq.kernels.linear_reference import (
    INTEGER_ROWS,
    MODES,
    VALUE_ROWS,
    integer_mode,
    panels,
    reference,
    tabled,
    transposed_reference,
)
from vq.kernels.panels import FLOAT_TOKENS, TOKENS

__all__ = [
    "INTEGER_ROWS",
    "MODES",
    "VALUE_ROWS",
    "explain",
    "integer_mode",
    "packed_linear",
    "packed_linear_transposed",
    "panels",
    "quick_linear",
]

_SIGNATURE = (
    "Tensor weight, Tensor scales, Tensor? signs_in, Tensor? signs_out, Tensor table, str mode"
)


def _fake(x: Tensor, weight: Tensor, scales: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], scales.shape[0]))


packed_linear = declare(
    f"packed_linear(Tensor x, {_SIGNATURE}) -> Tensor",
    fake=_fake,
    reference=reference,
    cpu=cpu,
    triton="vq.kernels.triton.linear:packed_linear",
)
"""``packed_linear(x, weight, scales, signs_in, signs_out, table, mode)``: a whole layer, bias aside.

Args:
    x: ``(*batch, in)`` floating point.
    weight: packed tensor, uint8 of one dimension.
    scales: float16 ``(out,)``; ``(out, groups of columns)`` where the header says that columns share scales.
    signs_in, signs_out: uint8 sign bits; None means no rotation on that side.
    table: see ``decode.decode_rows``.
    mode: ``float``, ``int15`` or ``int8``: how activations of at most INTEGER_ROWS rows enter the kernels of
        trellises and of layout 4 (all other cases compute in float32; a trellis' table without the detour over
        decoded panels for at most VALUE_ROWS rows). For a trellis' table ``int8`` is ``int15``.

Returns:
    ``(*batch, out)`` in x's dtype.

Raises:
    ValueError: if anything does not fit the header.
"""


def _transposed_fake(grad: Tensor, *rest: Any) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], rest[-1]))


packed_linear_transposed = declare(
    "packed_linear_transposed(Tensor grad, Tensor weight, Tensor scales, Tensor? signs_in, "
    "Tensor? signs_out, Tensor table, SymInt in_features) -> Tensor",
    fake=_transposed_fake,
    reference=transposed_reference,
    cpu=transposed_cpu,
    triton="vq.kernels.triton.linear:packed_linear_transposed",
)
"""``packed_linear_transposed(grad, ...)``: ``grad @ W`` for the decoded W, the gradient of x, in float32."""


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:6])
    ctx.in_features = inputs[0].shape[-1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = packed_linear_transposed(grad, *ctx.saved_tensors, ctx.in_features)
    return grad_x, None, None, None, None, None, None


torch.library.register_autograd("vq::packed_linear", _backward, setup_context=_setup, lib=library)


def listens(x: Tensor) -> bool:
    """Whether something must see an operation on x as an operation: a compiler, a gradient, a torch mode, a device."""
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or not x.is_cpu
        or (x.requires_grad and torch.is_grad_enabled())
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def quick_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor:
    """``packed_linear`` without torch's dispatcher where nothing listens to it: eager CPU inference.

    The dispatcher and autograd's wrapper cost as much as a small layer. Tracing, compilation, gradients, other
    devices and every torch mode go through the operation.
    """
    call = packed_linear if listens(x) or backend() != "cpu" else cpu
    y: Tensor = call(x, weight, scales, signs_in, signs_out, table, mode)
    return y


def _values(header: PackedHeader, weight: Tensor, table: Tensor, mode: str) -> str:
    """How a trellis of few rows is multiplied whose values stand in a table."""
    found = step_kernel(weight, table) if mode != "float" else ""
    where = f"table of 2^{header.memory} states"
    return f"{found} ({where}), 15-bit activations" if found else f"{where} in float32"


def explain(header: PackedHeader, weight: Tensor, table: Tensor, mode: str, rows: int = 1) -> str:
    """Which kernel of ``packed_linear`` serves ``rows`` rows of x where the weight is now, and why."""
    if backend(weight.device.type) == "triton":
        from vq.kernels.triton.linear import explain as on_gpu

        return on_gpu(header, mode, rows)
    module = native() if backend(weight.device.type) == "cpu" else None
    if module is None:
        return "reference: plain torch by panels, float32 matmul; no compiled kernels in use"
    isa = str(module.isa())
    hashed = header.layout == TILES and header.code == HASH_CODE
    if integer_mode(header, rows, mode):
        return f"{isa} {mode}: hash code, {rows} row(s), integer activations"
    most = VALUE_ROWS if tabled(header) and mode == "float" else INTEGER_ROWS
    if header.layout == PANELS:
        most = FLOAT_TOKENS if mode == "float" else TOKENS
        if rows <= most:
            return f"{isa} {mode}: {kernel_name(weight, table, mode, rows)}, {rows} row(s)"
    if tabled(header) and rows <= most:
        return f"{isa} {mode}: {_values(header, weight, table, mode)}, {rows} row(s)"
    reason = (
        f"more than {most} rows"
        if rows > most
        else "mode is float"
        if hashed
        else "layout 1 is an older one, compress again for a kernel"
        if header.layout != TILES
        else f"a trellis of {header.symbols} values a step"
    )
    return f"{isa} decode by panels, float32 matmul: {reason}"
