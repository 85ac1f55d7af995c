"""The trellis operations through the compiled kernels, and the shapes of their results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.kernels import dispatch


def _module() -> Any:
    module = dispatch.native()
    assert module is not None, "the cpu backend is chosen only where the compiled kernels exist"
    return module


def encode_fake(x: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Shape of the codes."""
    return x.new_empty((x.shape[0], x.shape[1] // table.shape[1]), dtype=torch.uint8)


def encode_cpu(x: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Operation ``trellis_encode``, compiled."""
    module = _module()
    x, table = x.contiguous(), table.contiguous()
    codes = encode_fake(x, table, step_bits, memory)
    module.trellis_encode(
        x.data_ptr(),
        x.shape[0],
        table.data_ptr(),
        memory,
        step_bits,
        table.shape[1],
        codes.shape[1],
        codes.data_ptr(),
        dispatch.threads(),
    )
    return codes


def encode_weighted_fake(
    x: Tensor, weight: Tensor, table: Tensor, step_bits: int, memory: int
) -> Tensor:
    """Shape of the codes."""
    return encode_fake(x, table, step_bits, memory)


def encode_weighted_cpu(
    x: Tensor, weight: Tensor, table: Tensor, step_bits: int, memory: int
) -> Tensor:
    """Operation ``trellis_encode_weighted``, compiled."""
    module = _module()
    x, weight, table = x.contiguous(), weight.contiguous(), table.contiguous()
    codes = encode_fake(x, table, step_bits, memory)
    module.trellis_encode_weighted(
        x.data_ptr(),
        weight.data_ptr(),
        x.shape[0],
        table.data_ptr(),
        memory,
        step_bits,
        table.shape[1],
        codes.shape[1],
        codes.data_ptr(),
        dispatch.threads(),
    )
    return codes


def decode_fake(codes: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Shape of the values."""
    return table.new_empty((codes.shape[0], codes.shape[1] * table.shape[1]))


def decode_cpu(codes: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Operation ``trellis_decode``, compiled."""
    module = _module()
    codes, table = codes.contiguous(), table.contiguous()
    values = decode_fake(codes, table, step_bits, memory)
    module.trellis_decode(
        codes.data_ptr(),
        codes.shape[0],
        table.data_ptr(),
        memory,
        step_bits,
        table.shape[1],
        codes.shape[1],
        values.data_ptr(),
        dispatch.threads(),
    )
    return values


def pack_fake(codes: Tensor, step_bits: int) -> Tensor:
    """Shape of the streams."""
    return codes.new_empty((codes.shape[0], codes.shape[1] * step_bits // 8))


def pack_cpu(codes: Tensor, step_bits: int) -> Tensor:
    """Operation ``trellis_pack``, compiled."""
    module = _module()
    codes = codes.contiguous()
    stream = pack_fake(codes, step_bits)
    n, steps = codes.shape
    module.trellis_pack(
        codes.data_ptr(), n, steps, step_bits, stream.data_ptr(), dispatch.threads()
    )
    return stream


def unpack_fake(stream: Tensor, step_bits: int) -> Tensor:
    """Shape of the codes."""
    return stream.new_empty((stream.shape[0], stream.shape[1] * 8 // step_bits))


def unpack_cpu(stream: Tensor, step_bits: int) -> Tensor:
    """Operation ``trellis_unpack``, compiled."""
    module = _module()
    stream = stream.contiguous()
    codes = unpack_fake(stream, step_bits)
    n, steps = codes.shape
    module.trellis_unpack(
        stream.data_ptr(), n, steps, step_bits, codes.data_ptr(), dispatch.threads()
    )
    return codes
