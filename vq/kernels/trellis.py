"""The bitshift trellis as operations: Viterbi encoder, decoder, packed bit stream.

A sequence of ``length`` values takes ``steps = length / symbols`` steps of ``step_bits`` bits. A
state is a window of ``memory`` bits of the circular bit stream, and the next state is
``((s << step_bits) mod 2**memory) | c``. The code of a step is the first ``step_bits`` bits of its
state, so the codes one after the other are the bit stream and any codes are a valid path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels import dispatch
from vq.kernels import trellis_reference as reference
from vq.kernels.trellis_native import (
    decode_cpu as _decode_cpu,
)
from vq.kernels.trellis_native import (
    decode_fake as _decode_fake,
)
from vq.kernels.trellis_native import (
    encode_cpu as _encode_cpu,
)
from vq.kernels.trellis_native import (
    encode_fake as _encode_fake,
)
from vq.kernels.trellis_native import (
    encode_weighted_cpu as _encode_weighted_cpu,
)
from vq.kernels.trellis_native import (
    encode_weighted_fake as _encode_weighted_fake,
)
from vq.kernels.trellis_native import (
    pack_cpu as _pack_cpu,
)
from vq.kernels.trellis_native import (
    pack_fake as _pack_fake,
)
from vq.kernels.trellis_native import (
    unpack_cpu as _unpack_cpu,
)
from vq.kernels.trellis_native import (
    unpack_fake as _unpack_fake,
)
from vq.kernels.trellis_reference import trellis_states

__all__ = [
    "trellis_decode",
    "trellis_encode",
    "trellis_encode_weighted",
    "trellis_pack",
    "trellis_states",
    "trellis_unpack",
]

REACH = 16.0  # units beyond which a weighted value counts as this far out


def trellis_encode(x: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Codes of the tail-biting path nearest to each sequence, by two Viterbi passes.

    The first pass is unconstrained and runs over the sequence turned by half its length; its state
    at the seam fixes where the second pass starts and ends. Costs are 16-bit integers: values count
    to 4 units, beyond that they saturate.

    Args:
        x: ``(n, length)`` values in units of N(0, 1).
        table: ``(2**memory, symbols)`` values of each state, symbols 1 or 2.
        step_bits: bits of one step, 1 to 8.
        memory: bits of one state, more than ``step_bits`` and at most 16.

    Returns:
        ``(n, length / symbols)`` uint8.

    Raises:
        ValueError: if a shape or a number is out of range.

    Reference:
        Tseng, Sun, Hou, De Sa, "QTIP: Quantization with Trellises and Incoherence Processing",
        NeurIPS 2024, section 3 and algorithm 4.
    """
    _check_code("trellis_encode", table, step_bits, memory)
    _check_values("trellis_encode", x, table, step_bits, memory)
    codes: Tensor = _ENCODE(x.float(), table.float(), step_bits, memory)
    return codes


def trellis_encode_weighted(
    x: Tensor, weight: Tensor, table: Tensor, step_bits: int, memory: int
) -> Tensor:
    """Codes of the path with the smallest ``sum of weight * (x - value)^2``: ``trellis_encode`` in floating point.

    Costs are float32, since weights may span any range; a sequence's weights count relative to its largest, and values
    beyond 16 units as 16. The unweighted search in integers is several times faster and as good.

    Args:
        x: ``(n, length)`` values in units of N(0, 1).
        weight: ``(n, length)``, finite and not negative.
        table: ``(2**memory, symbols)`` values of each state, symbols 1 or 2.
        step_bits: bits of one step, 1 to 8.
        memory: bits of one state, more than ``step_bits`` and at most 16.

    Returns:
        ``(n, length / symbols)`` uint8.

    Raises:
        ValueError: if a shape or a number is out of range.
    """
    _check_code("trellis_encode_weighted", table, step_bits, memory)
    _check_values("trellis_encode_weighted", x, table, step_bits, memory)
    if weight.shape != x.shape:
        raise ValueError(
            f"trellis_encode_weighted: expected weight of shape {tuple(x.shape)} like x, got "
            f"{tuple(weight.shape)}"
        )
    largest = weight.amax(1, keepdim=True)
    share = (weight / torch.where(largest > 0, largest, 1.0)).float()
    codes: Tensor = _ENCODE_WEIGHTED(
        x.float().clamp(-REACH, REACH), share, table.float(), step_bits, memory
    )
    return codes


def trellis_decode(codes: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Values of codes: the table's row of each step's state.

    Args:
        codes: ``(n, steps)`` uint8.
        table: ``(2**memory, symbols)``.
        step_bits: bits of one step.
        memory: bits of one state.

    Returns:
        ``(n, steps * symbols)`` float32.

    Raises:
        ValueError: if a shape or a number is out of range.
    """
    _check_code("trellis_decode", table, step_bits, memory)
    _check_codes("trellis_decode", codes, step_bits)
    values: Tensor = _DECODE(codes, table.float(), step_bits, memory)
    return values


def trellis_pack(codes: Tensor, step_bits: int) -> Tensor:
    """The bit stream of each sequence: 64-bit little-endian words, the first bit most significant.

    Args:
        codes: ``(n, steps)`` uint8, ``steps * step_bits`` a multiple of 64.
        step_bits: bits of one step.

    Returns:
        ``(n, steps * step_bits / 8)`` uint8.

    Raises:
        ValueError: if a sequence does not fill whole words, or a code does not fit.
    """
    _check_codes("trellis_pack", codes, step_bits)
    if codes.shape[1] * step_bits % 64:
        raise ValueError(
            f"trellis_pack: expected sequences of a multiple of 64 bits, got {codes.shape[1]} "
            f"steps of {step_bits} bits"
        )
    stream: Tensor = _PACK(codes, step_bits)
    return stream


def trellis_unpack(stream: Tensor, step_bits: int) -> Tensor:
    """Inverse of ``trellis_pack``.

    Args:
        stream: ``(n, bytes)`` uint8, bytes a multiple of 8.
        step_bits: bits of one step.

    Returns:
        ``(n, bytes * 8 / step_bits)`` uint8.

    Raises:
        ValueError: if the bytes are not whole words or whole steps.
    """
    if not 1 <= step_bits <= 8:
        raise ValueError(f"trellis_unpack: step_bits must be 1 to 8, got {step_bits}")
    whole = stream.ndim == 2 and stream.shape[1] % 8 == 0 and stream.shape[1] * 8 % step_bits == 0
    if stream.dtype != torch.uint8 or not whole:
        raise ValueError(
            f"trellis_unpack: expected uint8 of shape (n, 8 * words) that hold whole steps of "
            f"{step_bits} bits, got {stream.dtype} of shape {tuple(stream.shape)}"
        )
    codes: Tensor = _UNPACK(stream, step_bits)
    return codes


def _check_code(name: str, table: Tensor, step_bits: int, memory: int) -> None:
    if not 1 <= step_bits <= 8 or not step_bits < memory <= 16:
        raise ValueError(
            f"{name}: expected step_bits of 1 to 8 and memory of more than that and at most 16, "
            f"got step_bits={step_bits}, memory={memory}"
        )
    if table.ndim != 2 or table.shape[0] != 1 << memory or table.shape[1] not in (1, 2):
        raise ValueError(
            f"{name}: expected a table of shape ({1 << memory}, 1) or ({1 << memory}, 2) for "
            f"memory={memory}, got {tuple(table.shape)}"
        )


def _check_values(name: str, x: Tensor, table: Tensor, step_bits: int, memory: int) -> None:
    symbols = table.shape[1]
    if x.ndim != 2 or x.shape[1] % symbols or x.shape[1] // symbols * step_bits < memory:
        raise ValueError(
            f"{name}: expected x of shape (n, length), length a multiple of {symbols} that "
            f"takes at least {memory} bits, got {tuple(x.shape)}"
        )


def _check_codes(name: str, codes: Tensor, step_bits: int) -> None:
    if not 1 <= step_bits <= 8:
        raise ValueError(f"{name}: step_bits must be 1 to 8, got {step_bits}")
    if codes.dtype != torch.uint8 or codes.ndim != 2:
        raise ValueError(
            f"{name}: expected codes uint8 of shape (n, steps), got {codes.dtype} of shape "
            f"{tuple(codes.shape)}"
        )
    if not torch.compiler.is_compiling() and codes.numel() and int(codes.max()) >> step_bits:
        raise ValueError(
            f"{name}: expected codes below {1 << step_bits} for step_bits={step_bits}, got "
            f"{int(codes.max())}"
        )


_ENCODE = dispatch.declare(
    "trellis_encode(Tensor x, Tensor table, int step_bits, int memory) -> Tensor",
    fake=_encode_fake,
    reference=reference.encode,
    cpu=_encode_cpu,
    triton="vq.kernels.triton.viterbi:encode",
)
_ENCODE_WEIGHTED = dispatch.declare(
    "trellis_encode_weighted(Tensor x, Tensor weight, Tensor table, int step_bits, int memory) -> Tensor",
    fake=_encode_weighted_fake,
    reference=reference.encode_weighted,
    cpu=_encode_weighted_cpu,
)
_DECODE = dispatch.declare(
    "trellis_decode(Tensor codes, Tensor table, int step_bits, int memory) -> Tensor",
    fake=_decode_fake,
    reference=reference.decode,
    cpu=_decode_cpu,
)
_PACK = dispatch.declare(
    "trellis_pack(Tensor codes, int step_bits) -> Tensor",
    fake=_pack_fake,
    reference=reference.pack,
    cpu=_pack_cpu,
)
_UNPACK = dispatch.declare(
    "trellis_unpack(Tensor stream, int step_bits) -> Tensor",
    fake=_unpack_fake,
    reference=reference.unpack,
    cpu=_unpack_cpu,
)
