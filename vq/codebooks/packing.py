"""Fixed-width codes as bits, with the count and the codebook they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass

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
        payload = bytearray(data[start + length :])
        if len(payload) != expected:
            raise ValueError(
                f"packed codes cut short: expected {expected} bytes, got {len(payload)}"
            )
        tensor = torch.frombuffer(payload, dtype=torch.uint8) if payload else torch.empty(0)
        return cls(tensor.to(torch.uint8), spec, version, shape)
