"""The codebooks of a model."""

from __future__ import annotations

import torch

from vq.codebooks import Codebook, build
from vq.compressors.layers.header import header_for
from vq.compressors.options import KEEP, CompressOptions
from vq.errors import VqError

SHARED = "vq_codebooks"  # name of the root module that holds the codebooks
_FIT_VECTORS = 32  # vectors of N(0, I) for each entry of a codebook that must be learned


class Shelf:
    """The codebooks of a model, each built once.

    Args:
        options: names the codebooks.
        seed: of the vectors that a learned codebook is fitted to.

    Attributes:
        books: codebooks by short id, in the order of the options.
    """

    def __init__(self, options: CompressOptions, seed: int = 0) -> None:
        self.options = options
        self.ids: dict[str, str] = {}
        self.books: dict[str, Codebook] = {}
        for spec in [options.codebook, *options.layers.values()]:
            if spec != KEEP and spec not in self.ids:
                self.ids[spec] = f"c{len(self.ids)}"
                self.books[self.ids[spec]] = fitted(spec, seed)
                _check_group(self.books[self.ids[spec]], options.group)

    def id_of(self, layer: str) -> str | None:
        """Id of a layer's codebook; None if the layer stays as it is."""
        spec = self.options.codebook_of(layer)
        return None if spec == KEEP else self.ids[spec]


def _check_group(book: Codebook, group: int) -> None:
    """Raise VqError for a codebook whose columns cannot share scales."""
    try:
        header_for(book, 1, 1, group)
    except ValueError as error:
        raise VqError(f"group: {book.spec}: {error}") from error


def fitted(spec: str, seed: int) -> Codebook:
    """A codebook that can encode: one that must be learned is fitted to N(0, I), as rotated weights are.

    Raises:
        VqError: for a spec that names no codebook.
    """
    try:
        book = build(spec)
    except ValueError as error:
        raise VqError(f"codebook: {error}") from error
    if not book.fitted:
        generator = torch.Generator().manual_seed(seed)
        count = _FIT_VECTORS * (book.entries or 1024)
        book.fit(torch.randn(count, book.dim, generator=generator), generator=generator)
    return book
