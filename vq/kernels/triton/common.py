"""What the kernels of packed layers share: activations, headers without waiting, the sum over splits, launch shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from vq.kernels.formats import PackedHeader, read_header

FEW = 16  # rows of x that one fused program multiplies
HEIGHT = 64  # rows of the matrix of one program
_PROGRAMS_EACH = 4  # wanted on each multiprocessor
_headers: Any = WeakIdKeyDictionary()


@dataclass(frozen=True)
class Shape:
    """How a kernel is launched.

    Attributes:
        width: code vectors (or trellis steps of a row) side by side in one step.
        warps: of a program.
        stages: of software pipelining.
    """

    width: int
    warps: int = 4
    stages: int = 2


TUNED: dict[tuple[Any, ...], Shape] = {}


def candidates(vector: int) -> list[Shape]:
    """Launch shapes worth trying for vectors of so many weights; the first is taken where nothing was measured."""
    usual = 32 if vector <= 2 else 16
    stages = 1 if vector > 4 else 2  # two steps of long vectors would not fit every GPU
    shapes = [
        Shape(usual, stages=stages),
        Shape(usual, 4, 3),
        Shape(usual, 8, 2),
        Shape(2 * usual, 8, 2),
    ]
    return shapes if usual == 16 else [*shapes, Shape(usual // 2, 4, 3)]


def shape_for(key: tuple[Any, ...], vector: int) -> Shape:
    """The measured launch shape of a format, or the usual one."""
    return TUNED.get(key) or candidates(vector)[0]


def header_of(weight: Tensor) -> PackedHeader:
    """Header of a packed weight; its 64 bytes are fetched from the GPU once for each tensor and content.

    Raises:
        ValueError: as ``read_header``.
        RuntimeError: while a CUDA graph is captured, if the weight was never seen before.
    """
    now = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    known = _headers.get(weight)
    if known is not None and known[0] == now:
        header: PackedHeader = known[1]
        return header
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "packed_linear: this weight is new, and a CUDA graph is being captured, so its header cannot be read; "
            "call the layer once before the capture"
        )
    header = read_header(weight)
    _headers[weight] = (now, header)
    return header


def splits_of(bands: int, steps: int, device: torch.device) -> tuple[int, int]:
    """Into how many runs the columns are split so that the GPU is full, and how many steps each has."""
    processors = 1
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    splits = max(1, min(steps, _PROGRAMS_EACH * processors // bands))
    each = triton.cdiv(steps, splits)
    return triton.cdiv(steps, each), each


def payload(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes after the header as numbers of a type; copied only where they lie askew."""
    flat = weight[64:]
    size = dtype.itemsize
    if flat.data_ptr() % size or flat.storage_offset() % size:
        flat = flat.clone()
    return flat[: flat.numel() // size * size].view(dtype)


def finish(
    partial: Tensor, scales: Tensor, unit: Tensor | None, factor: float, dtype: torch.dtype
) -> Tensor:
    """``factor * unit * scales *`` the sum over splits of ``(splits, rows, out)``, in one launch: ``(rows, out)``."""
    splits, rows, out = partial.shape
    y = torch.empty((rows, out), dtype=dtype, device=partial.device)
    finish_kernel[(rows, triton.cdiv(out, 256))](
        partial,
        scales,
        partial if unit is None else unit,
        y,
        factor,
        rows,
        out,
        splits,
        UNIT=unit is not None,
        BLOCK=256,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return y


@triton.jit
def finish_kernel(
    partial, scales, unit, y, factor, rows, out, splits, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum over the splits in their order, times the scale of the output and the unit of the row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < out
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(0, splits):
        place = (split * rows + row) * out + column
        total += tl.load(partial + place, mask=inside, other=0.0)
    total = total * tl.load(scales + column, mask=inside, other=0.0).to(tl.float32) * factor
    if UNIT:
        total = total * tl.load(unit + row)
    tl.store(y + row * out + column, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def activations(x, unit, row, column, rows, width, HALF: tl.constexpr):
    """Columns ``(1, k)`` of rows ``(m, 1)`` of x, divided by the rows' units where they become float16; 0 outside."""
    value = tl.load(x + row * width + column, mask=(row < rows) & (column < width), other=0.0)
    if HALF:
        peak = tl.load(unit + row, mask=row < rows, other=1.0)
        value = (value / tl.where(peak == 0.0, 1.0, peak)).to(tl.float16)
    return value


@triton.jit
def store_partial(partial, total, split, row, first, rows, out, HEIGHT: tl.constexpr):
    """Sums ``(m, HEIGHT)`` of one split."""
    column = first + tl.arange(0, HEIGHT)[None, :]
    place = (split.to(tl.int64) * rows + row) * out + column
    tl.store(partial + place, total, mask=(row < rows) & (column < out))
