"""Packed linear layers on a GPU: ``vq::packed_linear`` and its transpose.

Up to 16 rows of x go through a fused kernel, which decodes a piece of the matrix and multiplies it at once, so that
packed weights are all that is read; more rows decode the matrix once and use torch's matrix product. Nothing waits for
the GPU: once a weight was seen, calls may be captured in a CUDA graph.

Activations are multiplied as float16 on tensor cores, each row in units of its largest magnitude, so that nothing
overflows (relative error about 2e-4), with sums in float32; float32 activations in mode ``float`` are multiplied as
float32.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from vq.kernels import linear_reference as oracle
from vq.kernels.formats import TILE_ROWS, TILES, PackedHeader
from vq.kernels.panels import scale_rows_
from vq.kernels.triton import rows as fixed
from vq.kernels.triton import tiles
from vq.kernels.triton.common import FEW, finish, header_of
from vq.kernels.triton.hadamard import rotate

_PANEL_BYTES = 256 << 20  # decoded weights held at once
_told: set[str] = set()


def packed_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor:
    """Operation ``packed_linear``; float64 and formats without a kernel are left to the reference.

    Raises:
        ValueError: if anything does not fit the header of the weight.
    """
    kernels = _checked(x, weight, scales, signs_in, signs_out, table, mode)
    if kernels is None:
        return oracle.reference(x, weight, scales, signs_in, signs_out, table, mode)
    with torch.cuda.device_of(x):
        rows, unit = _activations(x, signs_in, mode)
        y = _multiply(kernels, rows, unit, weight, scales, signs_out, table, x.dtype)
    return y.reshape(*x.shape[:-1], scales.shape[0])


def packed_linear_group(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    signs_in: Tensor | None,
    signs_out: list[Tensor | None],
    tables: list[Tensor],
    mode: str,
) -> list[Tensor]:
    """Operation ``packed_linear_group``: layers with one input, which is rotated once.

    Raises:
        ValueError: if the lists have different lengths, or anything does not fit a header.
    """
    if len({len(weights), len(scales), len(signs_out), len(tables)}) != 1 or not weights:
        raise ValueError(
            "packed_linear_group: expected as many weights, scales, signs_out and tables, at least one of each; got "
            f"{len(weights)}, {len(scales)}, {len(signs_out)} and {len(tables)}"
        )
    layers = list(zip(weights, scales, signs_out, tables, strict=True))
    found = [_checked(x, w, s, signs_in, last, table, mode) for w, s, last, table in layers]
    outputs, given = [], None
    with torch.cuda.device_of(x):
        for kernels, (weight, own, last, table) in zip(found, layers, strict=True):
            if kernels is None:
                outputs.append(oracle.reference(x, weight, own, signs_in, last, table, mode))
                continue
            given = given or _activations(x, signs_in, mode)
            y = _multiply(kernels, *given, weight, own, last, table, x.dtype)
            outputs.append(y.reshape(*x.shape[:-1], own.shape[0]))
    return outputs


def _checked(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> ModuleType | None:
    """The module whose kernels serve a layer, None for the reference; raises ValueError for what does not fit."""
    header = header_of(weight)
    if not _fits(header, x, weight, scales, signs_in, signs_out, table, mode):
        oracle.check(x, weight, scales, signs_in, signs_out, table, mode)  # says what is wrong
    return _kernels(header, x)


def _activations(x: Tensor, signs_in: Tensor | None, mode: str) -> tuple[Tensor, Tensor | None]:
    """Rotated rows in float32, and their largest magnitudes where products are to be of float16."""
    rows = x.reshape(-1, x.shape[-1])
    if signs_in is None:
        rows = rows.float().contiguous()
    else:
        rows = rotate(rows, signs_in, None, torch.float32)
    return rows, rows.abs().amax(1) if x.dtype != torch.float32 or mode != "float" else None


def _multiply(
    kernels: ModuleType,
    rows: Tensor,
    unit: Tensor | None,
    weight: Tensor,
    scales: Tensor,
    signs_out: Tensor | None,
    table: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Rotated activations to outputs ``(rows, out)``."""
    header, few = header_of(weight), len(rows) <= FEW
    multiply = kernels.product if few else functools.partial(_dense_product, kernels)
    scales, *relative = _split_scales(scales)
    partial = multiply(rows, unit, weight, header, table, *relative)
    between = dtype if signs_out is None else torch.float32
    y = finish(partial, scales, unit, _factor(header, table, not few), between)
    return y if signs_out is None else rotate(y, None, signs_out, dtype)


def _split_scales(scales: Tensor) -> tuple[Tensor, ...]:
    """Scales ``(out,)`` as they are; ``(out, groups)`` as the largest of each row and all relative to it, float32.

    So weights that are multiplied as float16 keep its precision, however small the scales.
    """
    if scales.ndim == 1:
        return (scales,)
    top = scales.abs().amax(1)
    return top, scales.float() / torch.where(top == 0, 1.0, top.float()).unsqueeze(1)


def packed_linear_transposed(
    grad: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    """Operation ``packed_linear_transposed``: ``grad @ W`` for the decoded W, in float32."""
    header = header_of(weight)
    kernels = _kernels(header, grad)
    if kernels is None:
        return oracle.transposed_reference(
            grad, weight, scales, signs_in, signs_out, table, in_features
        )
    with torch.cuda.device_of(grad):
        rows = grad.reshape(-1, header.out_features).float()
        if signs_out is not None:
            rows = rotate(rows, signs_out, None, torch.float32)
        scales, *relative = _split_scales(scales)
        rows = rows * scales.float()
        total = rows.new_zeros(rows.shape[0], header.in_features)
        for first, panel in _panels(kernels, weight, header, table, torch.float32, *relative):
            total.addmm_(rows[:, first : first + len(panel)], panel)
        total *= _factor(header, table, True)
        if signs_in is not None:
            total = rotate(total, None, signs_in, torch.float32)
    return total.reshape(*grad.shape[:-1], header.in_features).to(grad.dtype)


def explain(header: PackedHeader, mode: str, rows: int = 1) -> str:
    """Which kernel of ``packed_linear`` serves ``rows`` rows of x on a GPU, and why."""
    module = module_of(header)
    if not module.serves(header):
        return f"reference: plain torch by panels; {_kind(header)} have no GPU kernel"
    numbers = "float16 products, float32 for float32 x" if mode == "float" else "float16 products"
    if rows > FEW:
        return f"triton decode by panels, torch's matmul in {numbers}: more than {FEW} rows"
    return f"triton fused decode and multiply, {numbers}: {_kind(header)}, {rows} row(s)"


def _kind(header: PackedHeader) -> str:
    return f"codes of layout {header.layout}, {header.code_bits} bits, dim {header.dim}"


def _kernels(header: PackedHeader, x: Tensor) -> ModuleType | None:
    """The module whose kernels serve a format; None for the reference, with one warning for each kind of it."""
    if x.dtype == torch.float64 or not x.numel():
        return None
    module = module_of(header)
    if module.serves(header):
        return module
    kind = _kind(header)
    if kind not in _told:
        _told.add(kind)
        warnings.warn(
            f"{kind} have no GPU kernel; the reference in plain torch serves them, which is slower",
            RuntimeWarning,
            stacklevel=3,
        )
    return None


def module_of(header: PackedHeader) -> ModuleType:
    """The module whose kernels belong to a layout, whether or not they serve all of it."""
    return tiles if header.layout == TILES else fixed


def _factor(header: PackedHeader, table: Tensor, stored: bool) -> float:
    if header.layout == TILES:
        return tiles.factor_of(header, stored)
    return fixed.factor_of(header, table)


def _panels(
    kernels: ModuleType,
    weight: Tensor,
    header: PackedHeader,
    table: Tensor,
    dtype: torch.dtype,
    relative: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """First row and decoded rows, in one buffer that is used again; whole bands of 64."""
    each = _PANEL_BYTES // (dtype.itemsize * TILE_ROWS * header.in_features)
    each = max(1, each) * TILE_ROWS
    size = (min(each, header.out_features), header.in_features)
    buffer = torch.empty(size, dtype=dtype, device=weight.device)
    for first in range(0, header.out_features, each):
        panel = buffer[: header.out_features - first]
        kernels.decode(weight, header, table, panel, first)
        if relative is not None:
            scale_rows_(panel, relative[first : first + len(panel)], header)
        yield first, panel


def _dense_product(
    kernels: ModuleType,
    x: Tensor,
    unit: Tensor | None,
    weight: Tensor,
    header: PackedHeader,
    table: Tensor,
    relative: Tensor | None = None,
) -> Tensor:
    """``(1, rows, out)`` by decoding panels and torch's matrix product."""
    if unit is not None:
        x = (x / torch.where(unit == 0, 1.0, unit).unsqueeze(1)).half()
    found = _panels(kernels, weight, header, table, x.dtype, relative)
    parts = [x @ panel.T for _, panel in found]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).unsqueeze(0)


def _fits(
    header: PackedHeader,
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> bool:
    """Whether all arguments are as the kernels take them; what is not goes to ``check`` for the cause.

    Raises:
        ValueError: if tensors are on different devices.
    """
    named = {"weight": weight, "scales": scales, "signs_in": signs_in, "signs_out": signs_out}
    for name, other in (named | {"table": table}).items():
        if other is not None and other.device != x.device:
            raise ValueError(
                f"packed_linear: x is on {x.device}, but {name} on {other.device}; move the layer to one device"
            )
    return (
        _fit_signs(signs_in, header.in_features)
        and _fit_signs(signs_out, header.out_features)
        and module_of(header).fits(header, table)
        and x.is_floating_point()
        and x.shape[-1:] == (header.in_features,)
        and scales.dtype == torch.float16
        and tuple(scales.shape) == header.scales_shape
        and mode in oracle.MODES
    )


def _fit_signs(signs: Tensor | None, count: int) -> bool:
    return signs is None or (signs.dtype == torch.uint8 and signs.shape == ((count + 7) // 8,))
