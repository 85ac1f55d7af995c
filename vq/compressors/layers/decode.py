"""Packed codes of a layer back to numbers: by the kernels, by its codebook, or by tables of its own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vq.kernels import linear as ops
from vq.kernels.decode import decode_rows, place_vectors, unpack_codes
from vq.kernels.formats import PackedHeader
from vq.kernels.hadamard import hadamard
from vq.kernels.panels import scale_rows_

if TYPE_CHECKING:
    from vq.compressors.layers.linear import QuantizedLinear

_slow: set[str] = set()  # codebooks whose slow path was told


def decode_layer(layer: QuantizedLinear, first: int, rows: int) -> Tensor:
    """Rows of W in units of the codebook, float32."""
    header = layer.header
    own = layer.tables
    if own is not None and len(own) > 1:
        return _decode_groups(layer.weight, header, own, first, rows)
    if not layer._by_codebook:
        table = layer._table().to(layer.weight.device)
        return decode_rows(layer.weight, header, table, first, rows)
    codes = unpack_codes(layer.weight, header, first, rows)
    values = layer.codebook.decode(codes.reshape(*codes.shape[:2], *layer.codebook.codes_shape))
    return place_vectors(values, header, first, rows)


def _decode_groups(
    weight: Tensor, header: PackedHeader, tables: Tensor, first: int, rows: int
) -> Tensor:
    """Rows whose groups have tables ``(groups, codes_per_vector, entries, dim)`` of their own, which add up."""
    codes = unpack_codes(weight, header, first, rows)  # (rows, vectors, codes of a vector)
    height = -(-header.out_features // len(tables))
    group = torch.arange(first, first + rows, device=weight.device) // height
    values = torch.zeros(*codes.shape[:2], header.dim, device=weight.device)
    for stage in range(codes.shape[2]):
        values += tables[group[:, None], stage, codes[..., stage]].float()
    return values.reshape(rows, -1)[:, : header.in_features]


def forward_decoded(layer: QuantizedLinear, x: Tensor) -> Tensor:
    """Forward through decoded panels of the matrix, in float32."""
    value = x if x.dtype == torch.float64 else x.float()
    if layer.signs_in is not None:
        value = hadamard(value, layer.signs_in, None)
    parts, grouped = [], bool(layer.header.scale_group)
    for first, rows in ops.panels(layer.header):
        panel = decode_layer(layer, first, rows).to(value.dtype)
        if grouped:
            scale_rows_(panel, layer.scales[first : first + rows], layer.header)
        parts.append(value @ panel.T)
    y = torch.cat(parts, dim=-1)
    y = y if grouped else y * layer.scales.to(value.dtype)
    if layer.signs_out is not None:
        y = hadamard(y, None, layer.signs_out)
    return y.to(x.dtype)


def explain_layer(layer: QuantizedLinear, rows: int) -> str:
    """Which kernel serves ``rows`` rows of x now, and why."""
    if layer.tables is not None and len(layer.tables) > 1:
        return f"decode by panels, float32 matmul: {len(layer.tables)} groups of rows with tables of their own"
    if layer._by_codebook:
        return "codebook.decode by panels, float32 matmul: several codes a vector, or no table"
    found = ops.explain(layer.header, layer.weight, layer._table(), layer.mode, rows)
    group = layer.header.scale_group
    return f"{found}, a scale for every {group} columns" if group else found


def warn_slow(layer: QuantizedLinear) -> None:
    """Say once for each codebook that a layer has no kernel of its own."""
    name = str(getattr(layer.codebook, "spec", type(layer.codebook).__name__))
    own = layer.tables is not None and len(layer.tables) > 1
    name += " with several tables" if own else ""
    if name in _slow or torch.compiler.is_compiling():
        return
    _slow.add(name)
    why = (
        "no kernel multiplies by these codes"
        if own or layer._by_codebook
        else "the weights have an older layout; compress the model again for the kernel of these codes"
    )
    warnings.warn(
        f"{name}: {why}. Every call decodes the matrix, which is slow; layer.explain() says what serves a layer",
        RuntimeWarning,
        stacklevel=3,
    )
