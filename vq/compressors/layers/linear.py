"""A linear layer whose weight is packed codes of any codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.compressors.layers.decode import decode_layer, explain_layer, forward_decoded, warn_slow
from vq.compressors.layers.header import header_for
from vq.compressors.layers.matrix import PackedMatrix
from vq.compressors.layers.sides import add_sides, describe_sides, second_weight, side_weight
from vq.compressors.layers.tables import cached_table, listable
from vq.kernels import linear as ops
from vq.kernels.dispatch import backend, forced
from vq.kernels.formats import BLOCKS, HASH_CODE, PANELS, ROWS, TILES
from vq.kernels.hadamard import hadamard
from vq.kernels.panels import scale_rows_
from vq.kernels.ready import ReadyLinear, prepare

__all__ = ["QuantizedLinear", "header_for"]


class QuantizedLinear(PackedMatrix):
    """``y = signs_out * H(scales * (W H(signs_in * x))) + S x + L (R x) + bias`` with W in packed codes.

    Arguments and buffers are those of ``PackedMatrix``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, in)`` to ``(*batch, out)`` in x's dtype; differentiable in x.

        Raises:
            ValueError: if the stored weight is corrupted or of another format than this layer's (checked
                on first use).
        """
        quick = self._quick(x)
        if quick is not None:
            return quick
        self._check_once()
        grouped = self.tables is not None and len(self.tables) > 1
        if grouped or self.header.layout in (ROWS, BLOCKS):
            warn_slow(self)
        if grouped or self._by_codebook:
            y = forward_decoded(self, x)
        else:
            table = self._table()
            if self._ready is None and not torch.compiler.is_compiling():
                core = (self.weight, self.scales, self.signs_in, self.signs_out)
                self._ready = prepare(self.header, core, table)
            y = ops.quick_linear(
                x,
                self.weight,
                self.scales,
                self.signs_in,
                self.signs_out,
                table if table.device == x.device else table.to(x.device),
                self.mode,
            )
        y = add_sides(self, x, y)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _quick(self, x: Tensor) -> Tensor | None:
        """The product through addresses at hand, where all is as it was; None otherwise."""
        if torch.compiler.is_compiling():
            return None
        state = self.__dict__
        ready: ReadyLinear | None = state["_ready"]
        if ready is None:
            return None
        kept = ready.holds(state["_buffers"], self._table())
        if not kept or (forced() and backend() != "cpu"):
            state["_ready"] = None
            return None
        y = ready(x, state["mode"])
        if y is not None:
            y = add_sides(self, x, y)
        bias = state["_parameters"]["bias"]
        return y if y is None or bias is None else y + bias.to(y.dtype)

    def rotated_weight(self) -> Tensor:
        """``scales * W`` in the rotated basis, second codes included, but nothing else: float32 ``(out, in)``."""
        self._check_once()
        units, second = (
            decode_layer(self, 0, self.out_features),
            second_weight(self, self.in_features),
        )
        units = units if second is None else units + second
        return scale_rows_(units, self.scales, self.header)

    def dequantize(self) -> Tensor:
        """The matrix this layer multiplies by, in the original basis: float32 ``(out, in)``."""
        dense = self.rotated_weight()
        if self.signs_in is not None:
            dense = hadamard(dense, None, self.signs_in)
        if self.signs_out is not None:
            dense = hadamard(dense.T.contiguous(), None, self.signs_out).T.contiguous()
        beside = side_weight(self, self.in_features)
        return dense if beside is None else dense + beside

    def explain(self, rows: int = 1) -> str:
        """Which kernel serves ``rows`` rows of x now, and why."""
        return explain_layer(self, rows) + describe_sides(self)

    @property
    def _by_codebook(self) -> bool:
        """Whether only the codebook can decode: several codes or rows make a vector, or the table is too large."""
        if self.header.layout == ROWS:
            return self.header.codes_per_vector > 1 or not listable(self.codebook)
        return self.header.layout == BLOCKS

    def _float_table(self) -> Tensor:
        """The table of this layer's own in float32, kept until it changes."""
        own = self.tables
        assert own is not None
        if torch.compiler.is_compiling() or type(own) is not Tensor:
            return own[0].float()
        key = (own.data_ptr(), 0 if own.is_inference() else own._version)
        if self._own_table is None or self._own_table[:2] != key:
            self._own_table = (*key, own[0].float())
        return self._own_table[2]

    def _table(self) -> Tensor:
        """The table the operation needs; see ``vq.kernels.decode.decode_rows``."""
        book, header = self.__dict__["_codebook"][0], self.header
        if header.layout == TILES:
            name = "levels" if header.code == HASH_CODE else "table"
            own: Tensor | None = book._buffers.get(name)
            table: Tensor = getattr(book, name) if own is None else own
            return table
        table = cached_table(book) if self.tables is None else self._float_table()
        return table if header.layout == PANELS else table[0]
