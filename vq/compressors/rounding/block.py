"""Quantizing one block: Hessians, rounding, packing, and putting the result in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vq.compressors.calibration.calibrate import Activations, Hessian, WholeModel
from vq.compressors.calibration.hessian import (
    attention_weights,
    collect_hessians,
    group_by_input,
    my_windows,
    sum_hessians,
)
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.options import CompressOptions
from vq.compressors.ranks import Ranks, spread
from vq.compressors.rounding.packing import from_parts, install_dense, pack, parts
from vq.compressors.rounding.round import RoundedMatrix, round_matrices
from vq.compressors.rounding.shelf import SHARED, Shelf
from vq.compressors.structure.memory import release
from vq.compressors.structure.stacks import Blocks
from vq.errors import VqError

__all__ = ["SHARED", "BlockQuantizer", "BlockResult", "Shelf", "derived_seed", "note_inputs"]


@dataclass(frozen=True, eq=False)
class BlockResult:
    """A quantized block.

    Attributes:
        tensors: packed tensors by qualified name.
        reports: figures of each layer by name.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)


class BlockQuantizer:
    """Quantizes the blocks of a model one at a time.

    Args:
        skeleton: the model; the block at work is filled, all others are empty.
        shelf: its codebooks.
        options: what to do.
        ranks: the processes that share the work.
        windows: calibration windows of all processes together.
        weights: of the tokens of this process's windows; None weighs all alike.
    """

    def __init__(
        self,
        skeleton: Blocks,
        shelf: Shelf,
        options: CompressOptions,
        ranks: Ranks | None = None,
        windows: int = 0,
        weights: list[Tensor] | None = None,
    ) -> None:
        self.skeleton, self.shelf, self.options = skeleton, shelf, options
        self.ranks, self.windows, self.weights = ranks or Ranks(), windows, weights

    def targets(self, index: int) -> dict[str, nn.Linear]:
        """Layers of a block that are to be quantized."""
        linears = self.skeleton.linears(index)
        return {name: m for name, m in linears.items() if self.shelf.id_of(name) is not None}

    def begin(self, activations: Activations) -> None:
        """Hear of the inputs of a stack's first block, before it is quantized."""

    def follow(self, index: int) -> None:
        """Pass a block that an earlier process finished; it holds the original weights."""

    def quantize(self, index: int, activations: Activations | WholeModel | None) -> BlockResult:
        """Quantize a filled block and put the dequantized weights in place.

        Args:
            index: of the block.
            activations: its inputs in this process's windows; None without calibration.
        """
        linears, result = self.targets(index), BlockResult()
        if activations is None:
            groups = [[name] for name in linears]
            self._finish(groups, linears, self._owners(groups, linears), None, result)
            return result
        block = self.skeleton.blocks[index]
        runs = activations.runs(block, index)
        first = group_by_input(block, linears, runs[0]) if self.ranks.first else None
        groups = self.ranks.agree(first)
        weights = self._token_weights(block, runs)
        stages = [[group] for group in groups] if self.options.sequential else [groups]
        for stage in stages:
            owners = self._owners(stage, linears)
            hessians = self._hessians(stage, linears, runs, weights, owners)
            self._finish(stage, linears, owners, hessians, result)
        return result

    def _owners(self, groups: list[list[str]], linears: Mapping[str, nn.Linear]) -> list[int]:
        """Process that rounds each group: they are spread by cost."""
        costs = []
        for group in groups:
            width = linears[group[0]].in_features
            rows = sum(linears[name].out_features for name in group)
            costs.append(width * (rows * (width + 20000) + width**2 / 3))
        return spread(costs, self.ranks.size)

    def _token_weights(
        self, block: nn.Module, runs: list[Callable[[], Any]]
    ) -> list[Tensor | None] | None:
        """Weights of the tokens of this process's windows in a block."""
        if self.options.token_weights == "attention":
            return [attention_weights(block, run) for run in runs]
        return None if self.weights is None else list(self.weights)

    def _hessians(
        self,
        groups: list[list[str]],
        linears: dict[str, nn.Linear],
        runs: list[Callable[[], Any]],
        weights: list[Tensor | None] | None,
        owners: list[int],
    ) -> list[Hessian | None]:
        """Hessians over the windows of all processes, each at its owner."""
        total = self.windows or len(runs)
        place = {window: i for i, window in enumerate(my_windows(total, self.ranks))}

        def collect(numbers: list[int]) -> list[Hessian]:
            chosen = [place[number] for number in numbers]
            return collect_hessians(
                groups,
                linears,
                [runs[i] for i in chosen],
                self.options.hessian_dtype,
                None if weights is None else [weights[i] for i in chosen],
            )

        return sum_hessians(collect, total, owners, self.ranks)

    def _finish(
        self,
        groups: list[list[str]],
        linears: Mapping[str, nn.Linear],
        owners: list[int],
        hessians: list[Hessian | None] | None,
        result: BlockResult,
    ) -> None:
        """Round the groups that are ours, and exchange results; a Hessian is freed as soon as it was used."""
        mine: dict[int, BlockResult] = {}
        for number, group in enumerate(groups):
            if owners[number] == self.ranks.rank:
                hessian = None if hessians is None else hessians[number]
                mine[number] = BlockResult()
                release()  # of other groups and Hessians, so that holes do not add up over a block
                self._round(group, linears, hessian, mine[number])
                note_inputs(mine[number].reports, hessian)
                if hessians is not None:
                    hessians[number] = None
        for number in range(len(groups)):
            part = mine.get(number, BlockResult())
            tensors, reports = self.ranks.share_tensors(part.tensors, part.reports, owners[number])
            if owners[number] != self.ranks.rank:
                self.install(tensors, reports, linears)
            result.tensors.update(tensors)
            result.reports.update(reports)

    def install(
        self,
        tensors: Mapping[str, Tensor],
        names: Iterable[str],
        linears: Mapping[str, nn.Linear],
    ) -> None:
        """Put the weights that packed layers stand for into the dense ones."""
        for name in names:
            book = self.shelf.books[self.shelf.id_of(name) or ""]
            install_dense(linears[name], from_parts(name, tensors, book, linears[name]))

    def restore(self, index: int, tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """Put what an earlier process made of a block in place."""
        self.install(tensors, names, self.targets(index))

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
            **_sides_report(layer),
        }
        if hessian is not None:
            report["tokens"] = hessian.count
            if hessian.dead():
                report["dead_inputs"] = hessian.dead()
            if hessian.skipped:
                report["not_finite_tokens"] = hessian.skipped
        return report


def _sides_report(layer: QuantizedLinear) -> dict[str, int]:
    """Sizes of what stands beside the codes, where there is anything."""
    sides = layer.sides
    found = {"outliers": sides.outliers, "low_rank": sides.rank, "tables": sides.groups}
    found |= {"columns": sides.columns, "group": sides.scale_group}
    return {key: value for key, value in found.items() if value}


def note_inputs(reports: dict[str, dict[str, Any]], hessian: Hessian | None) -> None:
    """What a user should know of the inputs that a group of layers saw."""
    if hessian is None:
        return
    for report in reports.values():
        if hessian.dead():
            report["dead_channels"] = hessian.dead_channels()[:8]
        if hessian.broken:
            report["not_finite_channels"] = hessian.broken
        if not hessian.count:
            report["fallback"] = "no Hessian: never used by the calibration data"


def derived_seed(seed: int, name: str) -> int:
    """A seed of its own for each layer, whatever was done before."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
