"""Tables of a codebook as the packed kernels take them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.additive import Additive
from vq.codebooks.compose import MAX_TABLE, has_table, table_of
from vq.codebooks.kmeans import KMeans
from vq.codebooks.lattice_e8p import E8P
from vq.codebooks.product import Product
from vq.codebooks.residual import Residual
from vq.kernels.formats import PANEL_BITS
from vq.kernels.panels import e8p_magnitudes


def listable(codebook: nn.Module) -> bool:
    """Whether the vectors of a codebook come from tables that can be listed: one, a sum of several, or side by side."""
    book: Any = codebook
    if getattr(book, "code_bits", PANEL_BITS + 1) > PANEL_BITS or hasattr(book, "step_bits"):
        return False
    if getattr(book, "tile", (1, 0))[0] > 1:
        return False
    if isinstance(book, (Residual, Product)):
        return has_table(book.part)
    if isinstance(book, Additive):
        return True
    entries = book.entries
    return book.codes_per_vector == 1 and entries is not None and 0 < entries <= MAX_TABLE


def has_free_tables(codebook: nn.Module) -> bool:
    """Whether a layer may have tables of its own in place of the codebook's: free vectors, one or a sum of several."""
    return isinstance(codebook, (KMeans, Additive)) and listable(codebook)


def kernel_table(codebook: nn.Module) -> Tensor:
    """The table of ``vq::packed_linear`` in layout 4 for a listable codebook.

    Returns:
        E8P: uint8 ``(256, 8)``. Else float32 ``(codes_per_vector, entries, width)``, with width ``dim`` where vectors
        add up and ``dim / codes_per_vector`` where they stand side by side.
    """
    book: Any = codebook
    if isinstance(book, E8P):
        return e8p_magnitudes(book.patterns)
    if isinstance(book, Additive):
        return book.tables.detach().float()
    if isinstance(book, Residual):
        stages = zip(book.scales, book._parts(), strict=True)
        return torch.stack([scale * table_of(part) for scale, part in stages]).detach()
    if isinstance(book, Product):
        return torch.stack([table_of(part) for part in book._parts()]).detach()
    device = next((t.device for t in book.state_dict().values()), torch.device("cpu"))
    codes = torch.arange(book.entries, device=device)
    values: Tensor = book.decode(codes.reshape(-1, *book.codes_shape))
    return values.detach().float().reshape(1, book.entries, book.dim)


def _version(value: Tensor) -> int:
    """Changes in place so far; tensors made in inference mode do not count them."""
    return 0 if value.is_inference() else value._version


class _Entry:
    """A table and the tensors it was made of, as they were then."""

    def __init__(self, book: nn.Module) -> None:
        self.sources = [
            (owner, name, value, _version(value))
            for module in book.modules()
            for owner in (module._buffers, module._parameters)
            for name, value in owner.items()
            if value is not None
        ]
        self.table = kernel_table(book)

    @property
    def fresh(self) -> bool:
        """Whether nothing has changed since."""
        for owner, name, value, version in self.sources:
            if owner.get(name) is not value or _version(value) != version:
                return False
        return True


_TABLES: weakref.WeakKeyDictionary[nn.Module, _Entry] = weakref.WeakKeyDictionary()


def cached_table(codebook: nn.Module) -> Tensor:
    """``kernel_table``, kept until a tensor of the codebook changes; layers that share a codebook share the table."""
    if torch.compiler.is_compiling():
        return kernel_table(codebook)
    entry = _TABLES.get(codebook)
    if entry is None or not entry.fresh:
        with torch.inference_mode(False), torch.no_grad():
            entry = _TABLES[codebook] = _Entry(codebook)
    return entry.table


def step_of(codebook: nn.Module) -> float:
    """Unit of E8P's coordinates, else 0."""
    return float(codebook.step) if isinstance(codebook, E8P) else 0.0
