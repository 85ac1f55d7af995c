"""Quantizing one block: Hessians, rounding, packing, and putting the result in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks import Codebook, build
from vq.compressors.calibrate import Activations, Hessian, collect_hessians, group_by_input
from vq.compressors.linear import QuantizedLinear
from vq.compressors.options import KEEP, CompressOptions
from vq.compressors.rounding import RoundedMatrix, round_matrices
from vq.compressors.skeleton import Skeleton
from vq.errors import VqError

SHARED = "vq_codebooks"  # name of the root module that holds the codebooks
PARTS = ("weight", "scales", "signs_in", "signs_out")
_FIT_VECTORS = 32  # vectors of N(0, I) for each entry of a codebook that must be learned


@dataclass(frozen=True, eq=False)
class BlockResult:
    """A quantized block.

    Attributes:
        tensors: packed tensors by qualified name.
        reports: figures of each layer by name.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)


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

    def id_of(self, layer: str) -> str | None:
        """Id of a layer's codebook; None if the layer stays as it is."""
        spec = self.options.codebook_of(layer)
        return None if spec == KEEP else self.ids[spec]


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


class BlockQuantizer:
    """Quantizes the blocks of a model one at a time.

    Args:
        skeleton: the model; the block at work is filled, all others are empty.
        shelf: its codebooks.
        options: what to do.
    """

    def __init__(self, skeleton: Skeleton, shelf: Shelf, options: CompressOptions) -> None:
        self.skeleton, self.shelf, self.options = skeleton, shelf, options

    def targets(self, index: int) -> dict[str, nn.Linear]:
        """Layers of a block that are to be quantized."""
        linears = self.skeleton.linears(index)
        return {name: m for name, m in linears.items() if self.shelf.id_of(name) is not None}

    def begin(self, activations: Activations | None) -> None:
        """Hear of the inputs of the first block, before it is quantized."""

    def follow(self, index: int) -> None:
        """Pass a block that an earlier process finished; it holds the original weights."""

    def quantize(self, index: int, activations: Activations | None) -> BlockResult:
        """Quantize a filled block and put the dequantized weights in place.

        Args:
            index: of the block.
            activations: its inputs; None without calibration.
        """
        linears, result = self.targets(index), BlockResult()
        if activations is None:
            for name in linears:
                self._round([name], linears, None, result)
            return result
        block = self.skeleton.blocks[index]
        runs: list[Callable[[], Any]] = [
            partial(activations.run, block, index, window)
            for window in range(len(activations.hidden))
        ]
        groups = group_by_input(block, linears, runs[0])
        stages = [[group] for group in groups] if self.options.sequential else [groups]
        for stage in stages:
            hessians = collect_hessians(stage, linears, runs, self.options.hessian_dtype)
            while hessians:  # a Hessian is freed as soon as it was used
                self._round(stage[len(stage) - len(hessians)], linears, hessians.pop(0), result)
        return result

    def _round(
        self,
        group: list[str],
        linears: Mapping[str, nn.Linear],
        hessian: Hessian | None,
        result: BlockResult,
    ) -> None:
        """Round layers that share their input, by codebook."""
        mean = None if hessian is None else hessian.mean()
        for book_id, book in self.shelf.books.items():
            names = [name for name in group if self.shelf.id_of(name) == book_id]
            if not names:
                continue
            weights = {name: linears[name].weight.detach().float().cpu() for name in names}
            try:
                rounded = round_matrices(
                    weights,
                    None if mean is None else mean.cpu(),
                    book,
                    self.options.rounding_options(),
                    seed=derived_seed(self.options.seed, names[0]),
                )
            except ValueError as error:
                raise VqError(f"{', '.join(names)}: {error}") from error
            for name in names:
                layer = pack(rounded[name], book, linears[name].in_features)
                install_dense(linears[name], layer)
                result.tensors.update(parts(name, layer))
                result.reports[name] = self._report(layer, rounded[name], hessian)

    def _report(
        self, layer: QuantizedLinear, matrix: RoundedMatrix, hessian: Hessian | None
    ) -> dict[str, Any]:
        report: dict[str, Any] = {
            "codebook": str(layer.codebook.spec),
            "shape": [layer.out_features, layer.in_features],
            "bits_per_weight": round(layer.bits_per_weight, 6),
            "proxy_error": matrix.proxy_error,
            "damping": matrix.damping,
        }
        if hessian is not None:
            report["tokens"] = hessian.count
            if hessian.dead():
                report["dead_inputs"] = hessian.dead()
            if hessian.skipped:
                report["not_finite_tokens"] = hessian.skipped
        return report


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
    )
    for part in PARTS:
        if f"{name}.{part}" in tensors:
            setattr(layer, part, tensors[f"{name}.{part}"])
    return layer


def install_dense(linear: nn.Linear, layer: QuantizedLinear) -> None:
    """Give a dense layer the weights that a quantized one stands for."""
    weight = layer.dequantize().to(linear.weight.device, linear.weight.dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)


def derived_seed(seed: int, name: str) -> int:
    """A seed of its own for each layer, whatever was done before."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
