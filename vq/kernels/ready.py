"""A packed layer whose tensors were checked once: what a call costs beside the kernel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vq.kernels.dispatch import backend, native
from vq.kernels.formats import HASH_CODE, PANELS, TILES, PackedHeader
from vq.kernels.linear_native import ACTIVATIONS, PLANES, table_sizes
from vq.kernels.linear_reference import (
    INTEGER_COLUMNS,
    INTEGER_ROWS,
    MODES,
    VALUE_ROWS,
    check,
    tabled,
)
from vq.kernels.panels import TOKENS

_FLOAT = torch.float32
_TYPES = frozenset((torch.float32, torch.float16, torch.bfloat16))


class ReadyLinear:
    """``packed_linear`` of few rows for one set of tensors, with all addresses at hand.

    It keeps the tensors alive; whoever owns them asks ``holds`` whether they are still its own. It serves eager
    inference on the CPU with compiled kernels, and leaves all else to the operation.

    Args:
        weight, scales, signs_in, signs_out, table: as ``packed_linear`` takes them.

    Raises:
        ValueError: if they do not fit each other.
    """

    __slots__ = (
        "_call",
        "_counts",
        "_rests",
        "_shape",
        "_tokens",
        "table",
        "tensors",
        "version",
    )

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        signs_in: Tensor | None,
        signs_out: Tensor | None,
        table: Tensor,
    ) -> None:
        module = native()
        assert module is not None
        header = _checked(weight, scales, signs_in, signs_out, table)
        self.tensors = (weight, scales, signs_in, signs_out)
        self._counts = not weight.is_inference()  # tensors made in inference mode have no version
        self.version = weight._version if self._counts else 0
        self.table = table
        signs = [0 if s is None else s.data_ptr() for s in (signs_in, signs_out)]
        where = (weight.data_ptr(), weight.numel(), scales.data_ptr(), *signs)
        self._shape = (header.in_features, header.out_features)
        most = TOKENS if header.layout == PANELS else INTEGER_ROWS
        self._tokens = dict.fromkeys(MODES, most)
        if header.layout == PANELS:
            self._call, modes = module.tables_linear, ACTIVATIONS
            sizes: tuple[int, ...] = (*table_sizes(table), *self._shape, scales.numel())
        else:
            self._call, modes = module.packed_linear, PLANES
            sizes = (table.numel(), *self._shape)
            if tabled(header):
                modes = {**PLANES, "float": 0}
                self._tokens["float"] = VALUE_ROWS
        begin = (*where, table.data_ptr(), *sizes)
        self._rests = {mode: (*begin, code) for mode, code in modes.items()}

    def holds(self, buffers: Mapping[str, Tensor | None], table: Tensor) -> bool:
        """Whether these are the tensors it was made for, unchanged.

        Args:
            buffers: the layer's, by the names ``packed_linear`` gives them.
            table: of its codebook now.
        """
        weight, scales, signs_in, signs_out = self.tensors
        return (
            buffers["weight"] is weight
            and buffers["scales"] is scales
            and buffers["signs_in"] is signs_in
            and buffers["signs_out"] is signs_out
            and table is self.table
            and (not self._counts or weight._version == self.version)
        )

    def __call__(self, x: Tensor, mode: str) -> Tensor | None:
        """The product, or None if this is not a case for it."""
        rest = self._rests.get(mode)
        if rest is None:
            return None
        dtype = x.dtype
        if type(x) is not Tensor or dtype not in _TYPES or not x.is_cpu or listens(x):
            return None
        (width, out), shape = self._shape, x.shape
        rows = x.numel() // width
        if (
            not shape
            or not 0 < rows <= self._tokens[mode]
            or shape[-1] != width
            or not x.is_contiguous()
        ):
            return None
        if len(shape) == 2:  # slices of sizes take a while
            y = torch.empty(rows, out, dtype=_FLOAT)
        else:
            y = torch.empty(*shape[:-1], out, dtype=_FLOAT)
        given = x if dtype is _FLOAT else x.float()
        done = self._call(given.data_ptr(), rows, *rest, y.data_ptr(), torch.get_num_threads())
        if not done:
            return None
        return y if dtype is _FLOAT else y.to(dtype)


def _checked(
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
) -> PackedHeader:
    """Header of the weight after all checks; ``prepare`` asked the rest."""
    width = torch.empty(0, _columns(weight))
    return check(width, weight, scales, signs_in, signs_out, table, MODES[0])


def _columns(weight: Tensor) -> int:
    return int(weight[12:16].view(torch.int32)) if weight.numel() >= 64 else 0


def listens(x: Tensor) -> bool:
    """Whether anything but eager inference follows this call: compilation, gradients, modes, transforms, tracing."""
    return (
        torch.compiler.is_compiling()
        or (x.requires_grad and torch.is_grad_enabled())
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def prepare(
    header: PackedHeader,
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    table: Tensor,
) -> ReadyLinear | None:
    """A ready layer where the compiled kernels serve these tensors, else None."""
    hashed = header.layout == TILES and header.code == HASH_CODE
    served = header.layout == PANELS or tabled(header) or hashed
    if not served or backend() != "cpu":
        return None
    given = [t for t in (*tensors, table) if t is not None]
    plain = all(type(t) is Tensor and t.is_cpu and t.is_contiguous() for t in given)
    types = (torch.int8,) if hashed else (torch.uint8, torch.float32)
    if not plain or table.dtype not in types or header.in_features > INTEGER_COLUMNS:
        return None
    return ReadyLinear(*tensors, table)
