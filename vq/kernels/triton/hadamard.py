"""The block Hadamard transform on a GPU: ``H_ab = H_a (x) H_b``, so a block is two small matrix products.

A block of up to 4096 numbers is one program: the block as a matrix ``(a, b)`` between the two matrices of signs, which
are made on the spot from the parity of ``i & j``. Longer blocks take a second pass that combines their parts of 4096.
Sign flips of the channels, scale and the change of number format are part of the same passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels import hadamard as op

_PART = 4096  # most numbers of one program
_MOST_PARTS = 64
_COLUMNS = 128  # of a program that combines parts


def hadamard(x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None) -> Tensor:
    """Operation ``hadamard``: ``signs_last * H(signs_first * x)``; float64 is left to the reference.

    Args:
        x: ``(*batch, n)`` floating point.
        signs_first: sign bits ``(ceil(n / 8),)`` or None.
        signs_last: sign bits or None.
    """
    long = x.ndim and x.shape[-1] >= _PART * 2 * _MOST_PARTS
    if x.dtype == torch.float64 or not x.is_floating_point() or not x.numel() or long:
        return op.reference(x, signs_first, signs_last)
    rows = rotate(x.reshape(-1, x.shape[-1]), signs_first, signs_last, x.dtype)
    return rows.reshape(x.shape)


def rotate(
    x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The transform of rows ``(rows, n)`` of float16, bfloat16 or float32, in another number format.

    Raises:
        ValueError: if signs have another size.
    """
    rows, n = x.shape
    for signs in (signs_first, signs_last):
        if signs is not None and (signs.dtype != torch.uint8 or signs.shape != ((n + 7) // 8,)):
            raise ValueError(
                f"signs: expected uint8 of shape ({(n + 7) // 8},) for {n} channels, got "
                f"{signs.dtype} of shape {tuple(signs.shape)}"
            )
    x, start = x.contiguous(), 0
    out = torch.empty((rows, n), dtype=dtype, device=x.device)
    with torch.cuda.device_of(x):
        for size in op.blocks_of(n):
            _block(x, signs_first, signs_last, out, start, size)
            start += size
    return out


def _block(
    x: Tensor,
    signs_first: Tensor | None,
    signs_last: Tensor | None,
    out: Tensor,
    start: int,
    size: int,
) -> None:
    """Transform columns ``start .. start + size - 1``."""
    rows, n = x.shape
    part = min(size, _PART)
    parts = size // part
    target = out
    if parts > 1:
        target = torch.empty((rows, size), dtype=torch.float32, device=x.device)
    last = None if parts > 1 else signs_last
    high = 1 << (part.bit_length() - 1) // 2
    options = {
        "FIRST": signs_first is not None,
        "LAST": last is not None,
        "num_warps": 8 if part > 1024 else 4,
        "num_stages": 1,
        "enable_fp_fusion": True,  # said, so that Triton does not warn
    }
    given = (x if signs_first is None else signs_first, x if last is None else last)
    grid = (rows, parts)
    if part < 256:  # too small for matrix products
        small_kernel[grid](x, *given, target, n, target.shape[1], start, SIZE=part, **options)
        return
    where = start if parts == 1 else 0
    block_kernel[grid](
        x, *given, target, n, target.shape[1], start, where, HIGH=high, LOW=part // high, **options
    )
    if parts > 1:
        combine_kernel[(rows, triton.cdiv(part, _COLUMNS))](
            target,
            x if signs_last is None else signs_last,
            out,
            n,
            start,
            PARTS=parts,
            PART=part,
            LAST=signs_last is not None,
            COLUMNS=_COLUMNS,
            num_warps=4,
            enable_fp_fusion=True,
        )


@triton.jit
def _parity_sign(i, j):
    """``(-1) ** popcount(i & j)`` of numbers below 256, float32."""
    p = i & j
    p ^= p >> 4
    p ^= p >> 2
    p ^= p >> 1
    return 1.0 - 2.0 * (p & 1).to(tl.float32)


@triton.jit
def _flip(value, signs, channel):
    """The value, or its negative where the channel's bit is set."""
    bit = (tl.load(signs + (channel >> 3)).to(tl.int32) >> (channel & 7)) & 1
    return tl.where(bit == 1, -value, value)


@triton.jit
def small_kernel(
    x, first, last, out, n, out_n, start,
    SIZE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One block of less than 256 numbers: the matrix times the vector."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, SIZE)
    value = tl.load(x + row * n + start + i).to(tl.float32)
    if FIRST:
        value = _flip(value, first, start + i)
    value = tl.sum(_parity_sign(i[:, None], i[None, :]) * value[None, :], axis=1)
    value = value * (1.0 / tl.sqrt(SIZE * 1.0))
    if LAST:
        value = _flip(value, last, start + i)
    tl.store(out + row * out_n + start + i, value.to(out.dtype.element_ty))


@triton.jit
def block_kernel(
    x, first, last, out, n, out_n, start, where,
    HIGH: tl.constexpr, LOW: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One block, or part of one, of ``HIGH * LOW`` numbers as a matrix between two matrices of signs."""
    row = tl.program_id(0).to(tl.int64)
    high, low = tl.arange(0, HIGH), tl.arange(0, LOW)
    place = tl.program_id(1) * (HIGH * LOW) + high[:, None] * LOW + low[None, :]
    value = tl.load(x + row * n + start + place).to(tl.float32)
    if FIRST:
        value = _flip(value, first, start + place)
    left = _parity_sign(high[:, None], high[None, :])
    value = tl.dot(left, value, input_precision="ieee")
    right = _parity_sign(low[:, None], low[None, :])
    value = tl.dot(value, right, input_precision="ieee")
    value = value * (1.0 / tl.sqrt(HIGH * LOW * 1.0))
    if LAST:
        value = _flip(value, last, start + place)
    tl.store(out + row * out_n + where + place, value.to(out.dtype.element_ty))


@triton.jit
def combine_kernel(
    parts, last, out, n, start,
    PARTS: tl.constexpr, PART: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Transform across the parts of a block, column by column."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    for target in range(0, PARTS):
        total = tl.zeros([COLUMNS], tl.float32)
        for source in range(0, PARTS):
            value = tl.load(parts + row * (PARTS * PART) + source * PART + column)
            total += _parity_sign(source, target) * value
        total = total * (1.0 / tl.sqrt(PARTS * 1.0))
        channel = start + target * PART + column
        if LAST:
            total = _flip(total, last, channel)
        tl.store(out + row * n + channel, total.to(out.dtype.element_ty))
