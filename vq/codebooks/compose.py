"""What codebooks made of other codebooks share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vq.codebooks.base import Codebook
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import build
from vq.codebooks.spec import Spec

MAX_TABLE = 1 << 16


def build_part(of: str | Spec | Codebook) -> Codebook:
    """A new codebook of a spec, a spec's text, or another codebook's spec."""
    return build(of.spec if isinstance(of, Codebook) else of)


def whole_number(family: str, name: str, value: object, low: int, high: int) -> int:
    """The value, if it is a whole number in range.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"{family}: {name} must be a whole number from {low} to {high}, got {value!r}"
        )
    return value


def has_table(codebook: Codebook) -> bool:
    """Whether all vectors of a codebook can be listed: one index a vector, at most 65536 of them."""
    return codebook.codes_shape == () and 0 < (codebook.entries or 0) <= MAX_TABLE


def table_of(codebook: Codebook) -> Tensor:
    """All vectors of a codebook with a table, ``(entries, dim)`` float32."""
    assert codebook.entries is not None
    device = next((t.device for t in codebook.state_dict().values()), torch.device("cpu"))
    return codebook.decode(torch.arange(codebook.entries, device=device)).detach()


class Composed(Codebook):
    """Several codebooks of one spec; their codes stand side by side: ``(*batch, count, *codes_shape of a part)``.

    Args:
        count: how many times a part is used.
        of: spec of the parts.
        shared: whether all uses share one part.
    """

    parts: nn.ModuleList

    def __init__(self, count: int, of: str | Spec | Codebook, shared: bool = False) -> None:
        super().__init__()
        self.count = count
        self.parts = nn.ModuleList(build_part(of) for _ in range(1 if shared else count))

    @property
    def part(self) -> Codebook:
        """The first part; all have the same spec."""
        first = self.parts[0]
        assert isinstance(first, Codebook)
        return first

    @property
    def entries(self) -> int | None:
        """Number of combinations of codes, None where a part's is unknown."""
        own = self.part.entries
        return None if own is None else own**self.count

    @property
    def table_entries(self) -> int:
        """As the parts say."""
        return self.part.table_entries

    @property
    def code_bits(self) -> int:
        """Bits of one code of a part."""
        return self.part.code_bits

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """``(count, *codes_shape of a part)``."""
        return (self.count, *self.part.codes_shape)

    @property
    def rate(self) -> float:
        """Bits per dimension: the sum over all uses of the parts."""
        return self.count * self.part.rate * self.part.dim / self.dim

    @property
    def fitted(self) -> bool:
        """Whether all parts are."""
        return all(part.fitted for part in self._parts())

    def _parts(self) -> Iterator[Codebook]:
        """The part of every use, in order."""
        for index in range(self.count):
            part = self.parts[index % len(self.parts)]
            assert isinstance(part, Codebook)
            yield part

    def pack(self, codes: Tensor) -> PackedCodes:
        """Codes of fixed width side by side; where the parts pack in their own way, their payloads one after another.

        Raises:
            ValueError: if the codes have another shape, or the parts' payloads differ in length.
        """
        if type(self.part).pack is Codebook.pack:
            return super().pack(codes)
        batch = self._batch_shape(codes)
        pieces = [
            part.pack(piece).payload
            for part, piece in zip(self._parts(), codes.unbind(len(batch)), strict=True)
        ]
        if len({len(piece) for piece in pieces}) > 1:
            raise ValueError(f"{self.spec}: parts of variable length cannot be packed together")
        return PackedCodes(torch.cat(pieces), str(self.spec), self.version, batch)

    def unpack(self, packed: PackedCodes) -> Tensor:
        """Inverse of ``pack``.

        Raises:
            ValueError: if the codes were packed by another codebook or a newer version.
        """
        if type(self.part).pack is Codebook.pack:
            return super().unpack(packed)
        self._check_packed(packed)
        pieces = packed.payload.reshape(self.count, -1)
        codes = [
            part.unpack(PackedCodes(piece, str(part.spec), part.version, packed.shape))
            for part, piece in zip(self._parts(), pieces, strict=True)
        ]
        return torch.stack(codes, dim=len(packed.shape))
