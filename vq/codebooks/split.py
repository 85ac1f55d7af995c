"""Split codebooks: the columns of a tile shared out between codebooks of any rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.compose import build_part
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec, Value

_WIDEST = 8  # bits of a stored code where the parts' widths differ


@register("split")
class Split(Codebook):
    """Codebooks side by side, each on its own columns of a tile; the rate is their mean, weighted by columns.

    ``split(of=[trellis(bits=2), trellis(bits=2.5)])`` makes 2.25 bits: a tile is 64 rows of 8 columns, the first four
    coded at 2 bits and the others at 2.5. A vector is its tile in row-major order; parts of one row simply follow each
    other. Where the parts' codes differ in width, the code of a vector is the parts' bits cut into pieces of one width
    (bytes, where whole bytes fit), so that exactly the promised bits are stored and read by any fixed-width format.

    Args:
        of: at least two codebooks whose tiles have the same number of rows.

    Reference:
        Column splits for fractional rates: Lee, Song, "Q-Palette: fractional-bit quantizers toward optimal bit
        allocation for efficient LLM deployment", NeurIPS 2025.
    """

    parts: nn.ModuleList

    def __init__(self, of: Sequence[str | Spec | Codebook]) -> None:
        super().__init__()
        if isinstance(of, (str, Spec, Codebook)) or len(of) < 2:
            raise ValueError(f"split: of must list at least two codebooks, got {of!r}")
        self.parts = nn.ModuleList(build_part(part) for part in of)
        for part in self._each():
            if part.entropy_coded:
                raise ValueError(f"split: {part.spec} has codes of variable length; use fixed ones")
        rows = {part.tile[0] for part in self._each()}
        if len(rows) > 1:
            tiles = ", ".join(f"{part.spec}: {part.tile}" for part in self._each())
            raise ValueError(f"split: expected tiles of as many rows each, got {tiles}")
        self._columns = [part.tile[1] for part in self._each()]
        self._bits = [part.code_bits * part.codes_per_vector for part in self._each()]
        widths = {part.code_bits for part in self._each()}
        whole = math.gcd(*self._bits)
        fits = [w for w in range(1, _WIDEST + 1) if whole % w == 0]
        self._width = widths.pop() if len(widths) == 1 else max(fits)

    def _each(self) -> list[Codebook]:
        return [part for part in self.parts if isinstance(part, Codebook)]

    @property
    def spec(self) -> Spec:
        """``split(of=[...])``."""
        args: dict[str, Value] = {"of": tuple(part.spec for part in self._each())}
        return Spec.make("split", **args)

    @property
    def dim(self) -> int:
        """Sum of the parts' dimensions."""
        return sum(part.dim for part in self._each())

    @property
    def entries(self) -> int | None:
        """Product of the parts' entries, None where one is unknown."""
        known = [part.entries for part in self._each()]
        return None if None in known else math.prod(n for n in known if n is not None)

    @property
    def table_entries(self) -> int:
        """Rows of the largest table of a part."""
        return max(part.table_entries for part in self._each())

    @property
    def code_bits(self) -> int:
        """The parts' width where they agree, else the largest up to 8 that cuts all parts' bits evenly."""
        return self._width

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """One axis: the codes of all parts, or the pieces of their bits."""
        return (sum(self._bits) // self._width,)

    @property
    def tile(self) -> tuple[int, int]:
        """The parts' rows, and the sum of their columns."""
        return self._each()[0].tile[0], sum(self._columns)

    @property
    def exact_search(self) -> bool:
        """Whether all parts search exactly."""
        return all(part.exact_search for part in self._each())

    @property
    def fitted(self) -> bool:
        """Whether all parts are."""
        return all(part.fitted for part in self._each())

    @property
    def distortion(self) -> float | None:
        """Mean of the parts', weighted by their dimensions; None where one is unknown."""
        total = 0.0
        for part in self._each():
            if part.distortion is None:
                return None
            total += part.dim * part.distortion
        return total / self.dim

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, count)``, uint8 where they fit, else int64; weights go to the parts.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, before ``fit``, or for a weight that a part
                does not support.
        """
        self._check_vectors(x, weight)
        weights: list[Tensor | None] = [None] * len(self._columns)
        if weight is not None:
            weights = list(self._share(weight.expand(x.shape)))
        found = []
        for part, piece, own in zip(self._each(), self._share(x), weights, strict=True):
            codes = part.encode(piece, own).reshape(*x.shape[:-1], part.codes_per_vector)
            found.append(_regroup(codes, part.code_bits, self._width))
        return torch.cat(found, dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, dim)``: the parts' columns side by side."""
        batch, rows = self._batch_shape(codes), self.tile[0]
        pieces = codes.split([bits // self._width for bits in self._bits], dim=-1)
        values = []
        for part, piece in zip(self._each(), pieces, strict=True):
            own = _regroup(piece, self._width, part.code_bits)
            found = part.decode(own.reshape(*batch, *part.codes_shape))
            values.append(found.reshape(*batch, rows, part.dim // rows))
        return torch.cat(values, dim=-1).reshape(*batch, self.dim)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Split:
        """Fit each part on its columns of the vectors ``(n, dim)``; parts of fixed values stay as they are.

        Raises:
            TypeError: if no part has anything to fit.
            ValueError: as the parts raise it.
        """
        check_vectors(x, self.dim, str(self.spec))
        self._check_weight(x, weight)
        weights: list[Tensor | None] = [None] * len(self._columns)
        if weight is not None:
            weights = list(self._share(weight.expand(x.shape)))
        learned = 0
        for part, piece, own in zip(self._each(), self._share(x), weights, strict=True):
            try:
                part.fit(piece.contiguous(), own, generator)
            except TypeError as error:
                if "nothing to fit" not in str(error):
                    raise
            else:
                learned += 1
        if not learned:
            raise TypeError(f"{self.spec} has nothing to fit: its values are fixed")
        return self

    def _share(self, x: Tensor) -> list[Tensor]:
        """Each part's columns of tiles ``(*batch, dim)``, as vectors ``(*batch, dim of the part)``."""
        tiles = x.reshape(*x.shape[:-1], *self.tile).split(self._columns, dim=-1)
        return [tile.reshape(*x.shape[:-1], self.tile[0] * tile.shape[-1]) for tile in tiles]


def _regroup(codes: Tensor, width: int, wanted: int) -> Tensor:
    """The bits of codes ``(*batch, n)`` of one width, lowest first, as codes of another."""
    if width != wanted:
        bits = (codes.long().unsqueeze(-1) >> torch.arange(width, device=codes.device)) & 1
        bits = bits.reshape(*codes.shape[:-1], codes.shape[-1] * width // wanted, wanted)
        codes = (bits << torch.arange(wanted, device=codes.device)).sum(-1)
    return codes.to(torch.uint8 if wanted <= 8 else torch.int64)
