"""What a packed linear layer stores, from codes or from a file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vq.compressors.layers.header import header_for, older_header
from vq.compressors.layers.sides import KEPT, PARTS, Sides, check_sides, side_buffers
from vq.compressors.layers.tables import has_free_tables
from vq.kernels import linear as ops
from vq.kernels.formats import PackedHeader, assemble, read_header, read_packed
from vq.kernels.layouts import pack_payload, pack_signs
from vq.kernels.linear_reference import check_scales
from vq.kernels.ready import ReadyLinear

if TYPE_CHECKING:
    from typing_extensions import Self


class PackedMatrix(nn.Module):
    """What a packed linear layer stores: W in packed codes, scales, signs, and what stands beside the codes.

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
        sides: what there is beside the codes: outliers S, a low-rank part L R, tables of this layer's own, second codes
            of some columns; and how many columns share a scale.

    Attributes:
        weight: uint8 ``(64 + payload,)``.
        scales: float16 ``(out,)``, or ``(out, ceil(in / group))`` where columns share scales; stays float16 under
            ``.to(dtype)``.
        signs_in: uint8 ``(ceil(in / 8),)`` or None.
        signs_out: uint8 ``(ceil(out / 8),)`` or None.
        outlier_counts: uint16 (int32 for wide layers) ``(out,)``, outliers of each row, or None.
        outlier_columns: the same type, ``(n,)``, their columns, row after row, or None.
        outlier_values: float16 ``(n,)``, what is added there, or None.
        low_rank_left: bfloat16 ``(out, rank)`` or None.
        low_rank_right: bfloat16 ``(rank, in)`` or None.
        tables: float16 ``(groups of rows, codes of a vector, entries, dim)`` in place of the codebook's, or None.
        column_index: uint16 (int32 for wide layers) ``(n,)``, ascending, columns with second codes, or None.
        column_codes: uint8, those codes, column after column, or None.
        column_scales: float16 ``(n,)``, a factor of each of these columns, or None.
        column_table: float16 ``(entries, dim)``, what the second codes stand for, or None.
    """

    weight: Tensor
    scales: Tensor
    signs_in: Tensor | None
    signs_out: Tensor | None
    outlier_counts: Tensor | None
    outlier_columns: Tensor | None
    outlier_values: Tensor | None
    low_rank_left: Tensor | None
    low_rank_right: Tensor | None
    tables: Tensor | None
    column_index: Tensor | None
    column_codes: Tensor | None
    column_scales: Tensor | None
    column_table: Tensor | None
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
        sides: Sides | None = None,
    ) -> None:
        super().__init__()
        if mode not in ops.MODES:
            raise ValueError(f"mode: expected one of {', '.join(ops.MODES)}, got {mode!r}")
        self.in_features, self.out_features, self.mode = in_features, out_features, mode
        object.__setattr__(self, "_codebook", (codebook,))
        sides = sides or Sides()
        own = header_for(codebook, out_features, in_features, sides.scale_group)
        self.header = own if header is None else older_header(header, own)
        self._checked: tuple[int, int] | None = None
        self._ready: ReadyLinear | None = None
        self._own_table: tuple[int, int, Tensor] | None = None
        byte = functools.partial(torch.zeros, dtype=torch.uint8, device=device)
        self.register_buffer("weight", byte(self.header.total_bytes))
        shape = self.header.scales_shape
        self.register_buffer("scales", torch.ones(shape, dtype=torch.float16, device=device))
        self.register_buffer("signs_in", byte((in_features + 7) // 8) if rotate_in else None)
        self.register_buffer("signs_out", byte((out_features + 7) // 8) if rotate_out else None)
        self._add_sides(sides, device)
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else nn.Parameter(zeros))

    def _add_sides(self, sides: Sides, device: torch.device | str | None) -> None:
        """Empty buffers for what stands beside the codes."""
        book, table = self.codebook, (0, 0, 0)
        if sides.scale_group and sides.columns:
            raise ValueError("second codes of columns need one scale a row; expected scale_group 0")
        if sides.groups:
            if not has_free_tables(book):
                raise ValueError(f"{book.spec} has no table that a layer could replace by its own")
            table = (book.codes_per_vector, book.table_entries, book.dim)
        buffers = side_buffers(sides, self.out_features, self.in_features, table, device)
        for name, value in buffers.items():
            self.register_buffer(name, value)

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
        sides: Mapping[str, Tensor] | None = None,
        group: int = 0,
    ) -> Self:
        """A layer from the codes of its rotated, scaled weight.

        Args:
            codebook: that made the codes.
            codes: ``(out, ceil(in / dim), *codes_shape)``; for a trellis ``(bands * blocks, steps)`` with
                tile ``band * blocks + block`` holding rows ``64 band ..`` and columns ``4 block ..``; for
                other vectors of several rows ``(row tiles, column tiles, *codes_shape)``.
            scales: ``(out,)``, or ``(out, ceil(in / group))``; stored as float16.
            in_features: columns (codes may be padded).
            signs_in: ``(in,)`` of +1 / -1, or None for no rotation of inputs.
            signs_out: ``(out,)`` of +1 / -1, or None for no rotation of outputs.
            bias: ``(out,)`` or None; keeps its dtype.
            mode: see the class.
            sides: buffers of what stands beside the codes, by name.
            group: columns that share a scale; 0: a row has one scale.

        Raises:
            ValueError: if shapes do not fit each other or a scale does not fit float16.
        """
        layer = cls(
            in_features,
            scales.shape[0],
            codebook,
            rotate_in=signs_in is not None,
            rotate_out=signs_out is not None,
            bias=bias is not None,
            mode=mode,
            dtype=None if bias is None else bias.dtype,
            sides=Sides(scale_group=group),
        )
        half = scales.detach().half().cpu().contiguous()
        check_scales(layer.header, half)
        if not bool(torch.isfinite(half).all()):
            raise ValueError("scales: expected finite numbers up to 65504 (stored as float16)")
        layer.weight = assemble(layer.header, pack_payload(codes, layer.header))
        layer.scales = half
        layer.signs_in = _signs(signs_in, in_features, "signs_in")
        layer.signs_out = _signs(signs_out, len(half), "signs_out")
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone().cpu())
        for name, value in (sides or {}).items():
            layer.register_buffer(name, value)
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
        self.header = older_header(header, self.header)
        self.weight = self.weight.new_zeros(self.header.total_bytes)

    @property
    def sides(self) -> Sides:
        """Sizes of what stands beside the codes."""
        own = {f".{n}": v for n, v in self._buffers.items() if v is not None and n != "weight"}
        return replace(Sides.of_tensors("", own), scale_group=self.header.scale_group)

    @property
    def stored_bytes(self) -> int:
        """Bytes of weight (header included), scales, signs, outliers, low-rank part and own tables.

        The bias and the shared codebook are not among them.
        """
        stored = [self._buffers[name] for name in PARTS]
        return sum(t.numel() * t.element_size() for t in stored if t is not None)

    @property
    def bits_per_weight(self) -> float:
        """``8 * stored_bytes / (out * in)``; padding counts, the bias does not."""
        return 8 * self.stored_bytes / (self.out_features * self.in_features)

    def extra_repr(self) -> str:
        """Sizes, codebook, rotations and mode."""
        name = getattr(self.codebook, "spec", type(self.codebook).__name__)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, codebook={name}, "
            f"rotate_in={self.signs_in is not None}, rotate_out={self.signs_out is not None}, "
            f"bias={self.bias is not None}, mode={self.mode}, {self._extra_sides()}"
            f"bits_per_weight={self.bits_per_weight:.4f}"
        )

    def _extra_sides(self) -> str:
        found = self.sides
        sizes = {"outliers": found.outliers, "low_rank": found.rank, "own_tables": found.groups}
        sizes |= {"second_codes_of_columns": found.columns, "columns_of_a_scale": found.scale_group}
        return "".join(f"{key}={value}, " for key, value in sizes.items() if value)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which mean nothing elsewhere."""
        return {
            **self.__dict__,
            "_ready": None,
            "_checked": None,
            "_own_table": None,
            "_second": None,
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move buffers, but keep the types of those that are the weight: a cast would change it."""
        before = {name: self._buffers[name] for name in KEPT}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
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
            self.header = older_header(stored, self.header)
        check_sides(self, self.in_features)
        self._checked = key


def _signs(signs: Tensor | None, count: int, name: str) -> Tensor | None:
    """Sign bits after a check of the length."""
    if signs is None:
        return None
    if signs.shape != (count,):
        raise ValueError(f"{name}: expected shape ({count},), got {tuple(signs.shape)}")
    return pack_signs(signs)
