"""Rounded matrices as packed layers, and those as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vq.codebooks import Codebook
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.layers.sides import PARTS, Sides
from vq.compressors.rounding.round import RoundedMatrix


def pack(matrix: RoundedMatrix, book: Codebook, in_features: int) -> QuantizedLinear:
    """A rounded matrix as a layer."""
    codes = matrix.codes
    if hasattr(book, "step_bits"):  # trellis tiles lie in one row
        codes = codes.flatten(0, 1)
    return QuantizedLinear.from_codes(
        book,
        codes,
        matrix.scales,
        in_features=in_features,
        signs_in=matrix.signs_in if matrix.rotated else None,
        signs_out=matrix.signs_out,
        sides=matrix.sides(),
        group=matrix.group,
    )


def parts(name: str, layer: QuantizedLinear) -> dict[str, Tensor]:
    """The tensors of a layer that are stored."""
    found = {part: getattr(layer, part) for part in PARTS}
    return {f"{name}.{part}": value for part, value in found.items() if value is not None}


def from_parts(name: str, tensors: Mapping[str, Tensor], book: Codebook, linear: nn.Linear) -> Any:
    """A layer from its stored tensors."""
    layer = QuantizedLinear(
        linear.in_features,
        linear.out_features,
        book,
        rotate_in=f"{name}.signs_in" in tensors,
        rotate_out=f"{name}.signs_out" in tensors,
        sides=Sides.of_tensors(name, tensors),
    )
    for part in PARTS:
        if f"{name}.{part}" in tensors:
            setattr(layer, part, tensors[f"{name}.{part}"])
    return layer


def install_dense(linear: nn.Linear, layer: QuantizedLinear) -> None:
    """Give a dense layer the weights that a quantized one stands for."""
    weight = layer.dequantize().to(linear.weight.device, linear.weight.dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)
