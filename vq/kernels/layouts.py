"""Codes to payload bytes and back: fixed-width rows (layout 1), trellis tiles (layout 2), sign bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vq.kernels.formats import GROUP, PANELS, TILES, PackedHeader
from vq.kernels.panels import pack_panels


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Payload of layout 1: fields of ``bits`` bits, least significant bit first.

    Args:
        codes: integers of any shape in ``[0, 2**bits)``, flattened in row-major order.
        bits: width of a field, 1 to 62.

    Returns:
        uint8 ``(ceil(codes * bits / 8),)``; unused bits of the last byte are zero.

    Raises:
        ValueError: if a code does not fit.
    """
    _check_bits(bits)
    flat = codes.detach().reshape(-1).cpu().numpy().astype(np.int64)
    if flat.size and (flat.min() < 0 or flat.max() >> bits):
        raise ValueError(
            f"codes: expected values in [0, {2**bits}) for {bits} bits, "
            f"got {flat.min()} to {flat.max()}"
        )
    fields = np.unpackbits(
        flat.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, count=bits, bitorder="little"
    )
    return torch.from_numpy(np.packbits(fields.reshape(-1), bitorder="little"))


def unpack_rows(payload: Tensor, bits: int, count: int, first: int = 0) -> Tensor:
    """Fields ``first .. first + count - 1`` of layout 1 as int64 ``(count,)``.

    Raises:
        ValueError: if the payload ends before the last field.
    """
    _check_bits(bits)
    begin, end = first * bits, (first + count) * bits
    if first < 0 or count < 0 or (end + 7) // 8 > payload.numel():
        raise ValueError(
            f"payload: expected at least {(end + 7) // 8} bytes for codes {first} to "
            f"{first + count} of {bits} bits, got {payload.numel()}"
        )
    starts = begin + bits * torch.arange(count, device=payload.device)
    raw = torch.nn.functional.pad(payload[begin // 8 : (end + 7) // 8], (0, 9)).long()
    byte, skip = (starts >> 3) - begin // 8, starts & 7
    field = raw[byte] >> skip
    for more in range(1, (bits + 14) // 8):  # bytes a field of this width can touch
        shift = 8 * more - 1 - skip  # in two steps: 64 at once is undefined
        field |= raw[byte + more] << shift << 1
    return field & ((1 << bits) - 1)


def codes_to_streams(codes: Tensor, step_bits: int) -> Tensor:
    """Streams of trellis tiles: codes one after the other, first bit most significant.

    Args:
        codes: ``(tiles, steps)`` integers in ``[0, 2**step_bits)``.
        step_bits: bits of one code, 1 to 16; ``steps * step_bits`` is a multiple of 64.

    Returns:
        int64 ``(tiles, steps * step_bits / 64)``: the words, bit patterns of unsigned numbers.

    Raises:
        ValueError: if a code does not fit.
    """
    array = codes.detach().cpu().numpy().astype(np.int64)
    if array.size and (array.min() < 0 or array.max() >> step_bits):
        raise ValueError(
            f"codes: expected values in [0, {2**step_bits}) for {step_bits} bits a step, "
            f"got {array.min()} to {array.max()}"
        )
    tiles, steps = array.shape
    bits = np.unpackbits(array.astype(">u2").view(np.uint8).reshape(tiles, steps, 2), axis=2)
    stream = np.packbits(bits[:, :, 16 - step_bits :].reshape(tiles, -1), axis=1)
    return torch.from_numpy(stream.view(">u8").astype(np.uint64).view(np.int64))


def streams_to_codes(streams: Tensor, step_bits: int) -> Tensor:
    """Inverse of ``codes_to_streams``: ``(tiles, steps)`` uint8, or int64 where a code needs more than 8 bits."""
    words = streams.detach().cpu().numpy().view(np.uint64)
    tiles = words.shape[0]
    bits = np.unpackbits(words.astype(">u8").view(np.uint8).reshape(tiles, -1), axis=1)
    wide = np.zeros((tiles, bits.shape[1] // step_bits, 16), dtype=np.uint8)
    wide[:, :, 16 - step_bits :] = bits.reshape(tiles, -1, step_bits)
    codes = np.packbits(wide, axis=2).view(">u2")[:, :, 0]
    return torch.from_numpy(codes.astype(np.uint8 if step_bits <= 8 else np.int64))


def pack_tiles(streams: Tensor) -> Tensor:
    """Payload of layout 2: words of eight neighbouring tiles side by side.

    Args:
        streams: ``(bands, blocks, words)`` int64, as ``codes_to_streams`` makes them.

    Returns:
        uint8 ``(bands * blocks * words * 8,)``.
    """
    bands, blocks, words = streams.shape
    full = blocks // GROUP * GROUP
    body = streams[:, :full].reshape(bands, -1, GROUP, words).transpose(2, 3)
    tail = streams[:, full:].transpose(1, 2)
    flat = torch.cat([body.reshape(bands, -1), tail.reshape(bands, -1)], dim=1)
    little = flat.cpu().contiguous().numpy().astype("<i8", copy=False)
    return torch.from_numpy(little.view(np.uint8).reshape(-1).copy())


def unpack_tiles(payload: Tensor, bands: int, blocks: int, words: int) -> Tensor:
    """Inverse of ``pack_tiles``: int64 ``(bands, blocks, words)``.

    Raises:
        ValueError: if the payload has another size.
    """
    if payload.numel() != bands * blocks * words * 8:
        raise ValueError(
            f"payload: expected {bands * blocks * words * 8} bytes for {bands} x {blocks} tiles "
            f"of {words} words, got {payload.numel()}"
        )
    aligned = payload if payload.storage_offset() % 8 == 0 else payload.clone()
    flat = aligned.contiguous().view(torch.int64).reshape(bands, blocks * words)
    full = blocks // GROUP * GROUP
    body = flat[:, : full * words].reshape(bands, -1, words, GROUP).transpose(2, 3)
    tail = flat[:, full * words :].reshape(bands, words, blocks - full).transpose(1, 2)
    return torch.cat([body.reshape(bands, full, words), tail], dim=1)


def pack_payload(codes: Tensor, header: PackedHeader) -> Tensor:
    """Payload of a matrix of codes.

    Args:
        codes: layouts 1 and 4: ``(out, ceil(in / dim), codes_per_vector)`` (a trailing axis of one may be left out);
            layout 2: ``(bands * blocks, 256 / symbols)``, or with bands and blocks apart; layout 3:
            ``(bands, blocks, codes_per_vector)``.
        header: the format.

    Raises:
        ValueError: if codes have another shape, or do not fit the width.
    """
    if header.layout == TILES:
        expected = (header.bands * header.blocks, header.codes_per_vector)
    else:
        expected = (header.bands, header.vectors_per_row * header.codes_per_vector)
    if codes.numel() != expected[0] * expected[1] or codes.ndim < 2:
        raise ValueError(
            f"codes: expected {expected[0]} x {expected[1]} for a weight of "
            f"{header.out_features}x{header.in_features}, got shape {tuple(codes.shape)}"
        )
    if header.layout == PANELS:
        return pack_panels(codes.reshape(expected), header)
    if header.layout != TILES:
        return pack_rows(codes, header.code_bits)
    streams = codes_to_streams(codes.reshape(expected), header.code_bits)
    return pack_tiles(streams.reshape(header.bands, header.blocks, header.words))


def pack_signs(signs: Tensor) -> Tensor:
    """Signs +1 / -1 (or booleans, true = minus) of ``(n,)`` channels as bits: uint8 ``(ceil(n / 8),)``.

    Raises:
        ValueError: if a number is neither +1 nor -1.
    """
    if signs.dtype == torch.bool:
        minus = signs
    else:
        minus = signs < 0
        if not bool((signs.abs() == 1).all()):
            raise ValueError("signs: expected +1 and -1 only (or booleans, true = minus)")
    packed = np.packbits(minus.reshape(-1).cpu().numpy(), bitorder="little")
    return torch.from_numpy(packed)


def unpack_signs(packed: Tensor, count: int) -> Tensor:
    """Inverse of ``pack_signs``: float32 ``(count,)`` of +1 and -1, on the device of ``packed``.

    Raises:
        ValueError: if there are not exactly ``ceil(count / 8)`` bytes.
    """
    if packed.dtype != torch.uint8 or tuple(packed.shape) != ((count + 7) // 8,):
        raise ValueError(
            f"signs: expected uint8 of shape ({(count + 7) // 8},) for {count} channels, got "
            f"{packed.dtype} of shape {tuple(packed.shape)}"
        )
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(1) >> shifts).bitwise_and(1).reshape(-1)[:count]
    return 1.0 - 2.0 * bits.float()


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 62:
        raise ValueError(f"bits: expected 1 to 62, got {bits}")
