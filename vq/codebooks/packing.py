"""Fixed-width codes as bits, with the count and the codebook they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAGIC = b"VQCODES1"


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """Codes in a bit stream and what is needed to read them.

    Attributes:
        payload: uint8, exactly ``ceil(count * bits / 8)`` bytes.
        spec: text of the codebook.
        version: of the codebook's family.
        shape: batch shape of the codes.
    """

    payload: Tensor
    spec: str
    version: int
    shape: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Magic, length of the JSON header, header, payload."""
        header = json.dumps(
            {
                "spec": self.spec,
                "version": self.version,
                "shape": list(self.shape),
                "bytes": self.payload.numel(),
            }
        ).encode()
        return MAGIC + len(header).to_bytes(4, "little") + header + self.payload.numpy().tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> PackedCodes:
        """Inverse of ``to_bytes``.

        Raises:
            ValueError: if the data are not packed codes, or are cut short.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"not packed codes: expected the magic {MAGIC!r}, got {data[:8]!r}")
        start = len(MAGIC) + 4
        length = int.from_bytes(data[len(MAGIC) : start], "little")
        try:
            header = json.loads(data[start : start + length])
            spec, version = str(header["spec"]), int(header["version"])
            shape, expected = tuple(header["shape"]), int(header["bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"packed codes with a damaged header ({error!r})") from error
        payload = np.frombuffer(data[start + length :], dtype=np.uint8)
        if len(payload) != expected:
            raise ValueError(
                f"packed codes cut short: expected {expected} bytes, got {len(payload)}"
            )
        return cls(torch.from_numpy(payload.copy()), spec, version, shape)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack integers into fields of ``bits`` bits, least significant bit first.

    Args:
        codes: any shape, values in ``[0, 2**bits)``.
        bits: width of a field, 1 to 32.

    Returns:
        uint8 ``(ceil(n * bits / 8),)``; unused bits of the last byte are zero.

    Raises:
        ValueError: if a code does not fit.
    """
    if not 1 <= bits <= 32:
        raise ValueError(f"bits: expected 1 to 32, got {bits}")
    flat = codes.detach().reshape(-1).cpu().numpy().astype(np.int64)
    if flat.size and (flat.min() < 0 or flat.max() >> bits):
        raise ValueError(
            f"codes: expected values in [0, {2**bits}) for {bits} bits, "
            f"got {flat.min()} to {flat.max()}"
        )
    fields = np.unpackbits(
        flat.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, count=bits, bitorder="little"
    )
    return torch.from_numpy(np.packbits(fields.reshape(-1), bitorder="little"))


def unpack_bits(payload: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of ``pack_bits``: int64 ``(count,)``.

    Raises:
        ValueError: if the payload has another size than ``count`` fields take.
    """
    expected = (count * bits + 7) // 8
    if payload.numel() != expected:
        raise ValueError(
            f"payload: expected {expected} bytes for {count} codes of {bits} bits, "
            f"got {payload.numel()}"
        )
    raw = np.unpackbits(payload.cpu().numpy(), count=count * bits, bitorder="little")
    wide = np.zeros((count, 32), dtype=np.uint8)
    wide[:, :bits] = raw.reshape(count, bits)
    return torch.from_numpy(
        np.packbits(wide, axis=1, bitorder="little").view("<u4").reshape(-1).astype(np.int64)
    )
