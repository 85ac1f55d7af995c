"""Format of a packed weight for a codebook, and of the same codes in an older layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from vq.compressors.layers.tables import listable, step_of
from vq.kernels.formats import (
    BLOCKS,
    E8P_CODE,
    HASH_CODE,
    PANELS,
    ROWS,
    TABLE_CODE,
    TILE_WEIGHTS,
    TILES,
    PackedHeader,
)


def header_for(
    codebook: nn.Module, out_features: int, in_features: int, scale_group: int = 0
) -> PackedHeader:
    """Format of a matrix packed with a codebook; its ``total_bytes`` is the length of ``weight``.

    Args:
        codebook: anything that keeps the contract of ``vq.codebooks.Codebook``; one with ``step_bits``
            is a trellis, and one whose vectors can be listed is packed in the order of the kernels (layout 4).
        out_features: rows.
        in_features: columns.
        scale_group: columns that share a scale; 0: a row has one scale.

    Raises:
        ValueError: if columns of such codes cannot share scales.
    """
    book: Any = codebook
    if not hasattr(book, "step_bits"):
        tile_rows = getattr(book, "tile", (1, book.dim))[0]
        step = step_of(book)
        return PackedHeader(
            BLOCKS if tile_rows > 1 else PANELS if listable(book) else ROWS,
            out_features,
            in_features,
            code_bits=book.code_bits,
            dim=book.dim,
            codes_per_vector=book.codes_per_vector,
            code=E8P_CODE if step else TABLE_CODE,
            step=step,
            tile_rows=tile_rows,
            scale_group=scale_group,
        )
    hashed = book.code == "hash"
    return PackedHeader(
        TILES,
        out_features,
        in_features,
        code_bits=book.step_bits,
        dim=TILE_WEIGHTS,
        memory=book.memory,
        symbols=book.symbols,
        code=HASH_CODE if hashed else TABLE_CODE,
        codes_per_vector=TILE_WEIGHTS // book.symbols,
        hash_constant=int(book.hash_constant) if hashed else 0,
        step=float(book.step) if hashed else 0.0,
        scale_group=scale_group,
    )


def older_header(header: PackedHeader, own: PackedHeader) -> PackedHeader:
    """A header of layout 1, if it holds the same codes as this layer's; else ValueError."""
    same = ("out_features", "in_features", "code_bits", "dim", "codes_per_vector", "scale_group")
    fits = all(getattr(header, name) == getattr(own, name) for name in same)
    if header.same_format(own):
        return own
    if not fits or (header.layout, own.layout) != (ROWS, PANELS):
        raise ValueError(
            f"packed weight of another format: this layer expects {own}, the tensor holds {header}; build the "
            "layer with the codebook and sizes of the checkpoint"
        )
    return replace(header, crc=0)
