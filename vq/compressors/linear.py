"""A linear layer whose weight is packed codes of any codebook."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.tables import cached_table, listable, step_of
from vq.kernels import linear as ops
from vq.kernels.decode import decode_rows, place_vectors, unpack_codes
from vq.kernels.dispatch import backend, forced
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
    assemble,
    read_header,
    read_packed,
)
from vq.kernels.hadamard import hadamard
from vq.kernels.layouts import pack_payload, pack_signs
from vq.kernels.ready import ReadyLinear, prepare


def header_for(codebook: nn.Module, out_features: int, in_features: int) -> PackedHeader:
    """Format of a matrix packed with a codebook; its ``total_bytes`` is the length of ``weight``.

    Args:
        codebook: anything that keeps the contract of ``vq.codebooks.Codebook``; one with ``step_bits``
            is a trellis, and one whose vectors can be listed is packed in the order of the kernels (layout 4).
        out_features: rows.
        in_features: columns.
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
    )


class QuantizedLinear(nn.Module):
    """``y = signs_out * H(scales * (W H(signs_in * x))) + bias`` with W in packed codes.

    The buffer named ``weight`` is one-dimensional uint8 (header and payload, docs/format.md), so that a
    loader that does not know this class stops at its shape. The codebook is *referenced*, not registered:
    many layers share one, and whoever owns the model registers it once. The reference goes along in
    ``deepcopy`` and ``pickle``.

    Args:
        in_features: columns of the matrix.
        out_features: rows of the matrix.
        codebook: keeps the contract of ``vq.codebooks.Codebook``; trellis codebooks use layout 2.
        rotate_in: whether inputs are rotated (``signs_in``).
        rotate_out: whether outputs are rotated (``signs_out``).
        bias: whether there is a bias.
        mode: ``int15`` (default: activations as integers of 15 bits, relative error below 1e-3), ``int8``
            (fastest, about 1 %) or ``float``. It matters for at most ``INTEGER_ROWS`` rows of x and the
            hash code; all else is float32.
        device: where the buffers are made; ``meta`` works.
        dtype: of the bias.
        header: format of the stored weight, where it is another than the one for new layers (an older layout).

    Attributes:
        weight: uint8 ``(64 + payload,)``.
        scales: float16 ``(out,)``; stays float16 under ``.to(dtype)``.
        signs_in: uint8 ``(ceil(in / 8),)`` or None.
        signs_out: uint8 ``(ceil(out / 8),)`` or None.
    """

    weight: Tensor
    scales: Tensor
    signs_in: Tensor | None
    signs_out: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        codebook: nn.Module,
        *,
        rotate_in: bool = True,
        rotate_out: bool = False,
        bias: bool = False,
        mode: str = "int15",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        header: PackedHeader | None = None,
    ) -> None:
        super().__init__()
        if mode not in ops.MODES:
            raise ValueError(f"mode: expected one of {', '.join(ops.MODES)}, got {mode!r}")
        self.in_features, self.out_features, self.mode = in_features, out_features, mode
        object.__setattr__(self, "_codebook", (codebook,))
        own = header_for(codebook, out_features, in_features)
        self.header = own if header is None else _older(header, own)
        self._checked: tuple[int, int] | None = None
        self._ready: ReadyLinear | None = None
        byte = functools.partial(torch.zeros, dtype=torch.uint8, device=device)
        self.register_buffer("weight", byte(self.header.total_bytes))
        self.register_buffer("scales", torch.ones(out_features, dtype=torch.float16, device=device))
        self.register_buffer("signs_in", byte((in_features + 7) // 8) if rotate_in else None)
        self.register_buffer("signs_out", byte((out_features + 7) // 8) if rotate_out else None)
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))

    @classmethod
    def from_codes(
        cls,
        codebook: nn.Module,
        codes: Tensor,
        scales: Tensor,
        *,
        in_features: int,
        signs_in: Tensor | None = None,
        signs_out: Tensor | None = None,
        bias: Tensor | None = None,
        mode: str = "int15",
    ) -> QuantizedLinear:
        """A layer from the codes of its rotated, scaled weight.

        Args:
            codebook: that made the codes.
            codes: ``(out, ceil(in / dim), *codes_shape)``; for a trellis ``(bands * blocks, steps)`` with
                tile ``band * blocks + block`` holding rows ``64 band ..`` and columns ``4 block ..``; for
                other vectors of several rows ``(row tiles, column tiles, *codes_shape)``.
            scales: ``(out,)``, stored as float16.
            in_features: columns (codes may be padded).
            signs_in: ``(in,)`` of +1 / -1, or None for no rotation of inputs.
            signs_out: ``(out,)`` of +1 / -1, or None for no rotation of outputs.
            bias: ``(out,)`` or None; keeps its dtype.
            mode: see the class.

        Raises:
            ValueError: if shapes do not fit each other or a scale does not fit float16.
        """
        layer = cls(
            in_features,
            scales.numel(),
            codebook,
            rotate_in=signs_in is not None,
            rotate_out=signs_out is not None,
            bias=bias is not None,
            mode=mode,
            dtype=None if bias is None else bias.dtype,
        )
        half = scales.detach().reshape(-1).half().cpu()
        if not bool(torch.isfinite(half).all()):
            raise ValueError("scales: expected finite numbers up to 65504 (stored as float16)")
        layer.weight = assemble(layer.header, pack_payload(codes, layer.header))
        layer.scales = half
        layer.signs_in = _signs(signs_in, in_features, "signs_in")
        layer.signs_out = _signs(signs_out, half.numel(), "signs_out")
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone().cpu())
        return layer

    @property
    def codebook(self) -> Any:
        """The codebook, shared with other layers."""
        return self.__dict__["_codebook"][0]

    def adopt(self, header: PackedHeader) -> None:
        """Make room for a stored weight of an older layout; its codes must be of this layer's format.

        Raises:
            ValueError: if they are not.
        """
        self.header = _older(header, self.header)
        self.weight = self.weight.new_zeros(self.header.total_bytes)

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
        if self.header.layout in (ROWS, BLOCKS):
            _warn_slow(self)
        if self._by_codebook:
            y = self._forward_codebook(x)
        else:
            table = self._table()
            if self._ready is None and not torch.compiler.is_compiling():
                tensors = (self.weight, self.scales, self.signs_in, self.signs_out)
                self._ready = prepare(self.header, tensors, table)
            y = ops.quick_linear(
                x,
                self.weight,
                self.scales,
                self.signs_in,
                self.signs_out,
                table if table.device == x.device else table.to(x.device),
                self.mode,
            )
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
        bias = state["_parameters"]["bias"]
        return y if y is None or bias is None else y + bias.to(y.dtype)

    def rotated_weight(self) -> Tensor:
        """``scales * W`` in the rotated basis: float32 ``(out, in)``."""
        self._check_once()
        return self._decode(0, self.out_features) * self.scales.float().unsqueeze(1)

    def dequantize(self) -> Tensor:
        """The matrix this layer multiplies by, in the original basis: float32 ``(out, in)``."""
        dense = self.rotated_weight()
        if self.signs_in is not None:
            dense = hadamard(dense, None, self.signs_in)
        if self.signs_out is not None:
            dense = hadamard(dense.T.contiguous(), None, self.signs_out).T.contiguous()
        return dense

    @property
    def stored_bytes(self) -> int:
        """Bytes of weight (header included), scales and signs; not the bias or the shared codebook."""
        stored = (self.weight, self.scales, self.signs_in, self.signs_out)
        return sum(t.numel() * t.element_size() for t in stored if t is not None)

    @property
    def bits_per_weight(self) -> float:
        """``8 * stored_bytes / (out * in)``; padding counts, the bias does not."""
        return 8 * self.stored_bytes / (self.out_features * self.in_features)

    def explain(self, rows: int = 1) -> str:
        """Which kernel serves ``rows`` rows of x now, and why."""
        if self._by_codebook:
            return "codebook.decode by panels, float32 matmul: several codes a vector, or no table"
        return ops.explain(self.header, self.weight, self._table(), self.mode, rows)

    def extra_repr(self) -> str:
        """Sizes, codebook, rotations and mode."""
        name = getattr(self.codebook, "spec", type(self.codebook).__name__)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, codebook={name}, "
            f"rotate_in={self.signs_in is not None}, rotate_out={self.signs_out is not None}, "
            f"bias={self.bias is not None}, mode={self.mode}, "
            f"bits_per_weight={self.bits_per_weight:.4f}"
        )

    @property
    def _by_codebook(self) -> bool:
        """Whether only the codebook can decode: several codes or rows make a vector, or the table is too large."""
        if self.header.layout == ROWS:
            return self.header.codes_per_vector > 1 or not listable(self.codebook)
        return self.header.layout == BLOCKS

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which mean nothing elsewhere."""
        return {**self.__dict__, "_ready": None, "_checked": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move buffers, but keep scales float16: a cast to bfloat16 would change the weight."""
        before = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != before.dtype:
            self.scales = before.to(self.scales.device)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take over the layout of a stored weight that is older than this layer's."""
        stored = state_dict.get(f"{prefix}weight")
        if isinstance(stored, Tensor) and stored.shape != self.weight.shape and not stored.is_meta:
            with contextlib.suppress(ValueError):  # torch then says that the shapes differ
                self.adopt(read_header(stored))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_once(self) -> None:
        """Checksum and format of the stored weight, on first use of each tensor."""
        weight = self.weight
        if torch.compiler.is_compiling() or type(weight) is not Tensor or weight.is_meta:
            return
        key = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if key == self._checked:
            return
        stored = read_packed(weight)
        if not stored.same_format(self.header):
            self.header = _older(stored, self.header)
        self._checked = key

    def _table(self) -> Tensor:
        """The table the operation needs; see ``vq.kernels.decode.decode_rows``."""
        book, header = self.__dict__["_codebook"][0], self.header
        if header.layout == TILES:
            name = "levels" if header.code == HASH_CODE else "table"
            own: Tensor | None = book._buffers.get(name)
            table: Tensor = getattr(book, name) if own is None else own
            return table
        table = cached_table(book)
        return table if header.layout == PANELS else table[0]

    def _decode(self, first: int, rows: int) -> Tensor:
        """Rows of W in units of the codebook, float32."""
        if not self._by_codebook:
            table = self._table().to(self.weight.device)
            return decode_rows(self.weight, self.header, table, first, rows)
        codes = unpack_codes(self.weight, self.header, first, rows)
        values = self.codebook.decode(codes.reshape(*codes.shape[:2], *self.codebook.codes_shape))
        return place_vectors(values, self.header, first, rows)

    def _forward_codebook(self, x: Tensor) -> Tensor:
        """Forward through the codebook's own decode, by panels."""
        value = x if x.dtype == torch.float64 else x.float()
        if self.signs_in is not None:
            value = hadamard(value, self.signs_in, None)
        parts = [
            value @ self._decode(first, rows).to(value.dtype).T
            for first, rows in ops.panels(self.header)
        ]
        y = torch.cat(parts, dim=-1) * self.scales.to(value.dtype)
        if self.signs_out is not None:
            y = hadamard(y, None, self.signs_out)
        return y.to(x.dtype)


def _older(header: PackedHeader, own: PackedHeader) -> PackedHeader:
    """A header of layout 1, if it holds the same codes as this layer's; else ValueError."""
    same = ("out_features", "in_features", "code_bits", "dim", "codes_per_vector")
    fits = all(getattr(header, name) == getattr(own, name) for name in same)
    if header.same_format(own):
        return own
    if not fits or (header.layout, own.layout) != (ROWS, PANELS):
        raise ValueError(
            f"packed weight of another format: this layer expects {own}, the tensor holds {header}; build the "
            "layer with the codebook and sizes of the checkpoint"
        )
    return replace(header, crc=0)


_slow: set[str] = set()  # codebooks whose slow path was told


def _warn_slow(layer: QuantizedLinear) -> None:
    """Say once for each codebook that a layer has no kernel of its own."""
    name = str(getattr(layer.codebook, "spec", type(layer.codebook).__name__))
    if name in _slow or torch.compiler.is_compiling():
        return
    _slow.add(name)
    why = (
        "no kernel multiplies by these codes"
        if layer._by_codebook
        else "the weights have an older layout; compress the model again for the kernel of these codes"
    )
    warnings.warn(
        f"{name}: {why}. Every call decodes the matrix, which is slow; layer.explain() says what serves a layer",
        RuntimeWarning,
        stacklevel=3,
    )


def _signs(signs: Tensor | None, count: int, name: str) -> Tensor | None:
    """Sign bits after a check of the length."""
    if signs is None:
        return None
    if signs.shape != (count,):
        raise ValueError(f"{name}: expected shape ({count},), got {tuple(signs.shape)}")
    return pack_signs(signs)
