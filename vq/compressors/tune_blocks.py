"""Rounding a block against the original model: every layer makes up for what went wrong before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vq.compressors.calibrate import Activations, group_by_input
from vq.compressors.options import CompressOptions
from vq.compressors.quantize import (
    BlockQuantizer,
    BlockResult,
    Shelf,
    derived_seed,
    from_parts,
    install_dense,
)
from vq.compressors.skeleton import Skeleton
from vq.compressors.tune_block import BlockTuner
from vq.compressors.tune_closed import compensate, measure_drift
from vq.compressors.tune_options import TuneOptions


class TunedBlockQuantizer(BlockQuantizer):
    """Quantizes blocks one at a time, and carries the original model's hidden states along.

    For each group of layers with one input, in the order of the forward pass: compensate in closed form, round, and
    tune what is still free in the block.

    Args:
        skeleton: see BlockQuantizer.
        shelf: see BlockQuantizer.
        options: ``options.tuning`` says what is done.
    """

    def __init__(self, skeleton: Skeleton, shelf: Shelf, options: CompressOptions) -> None:
        super().__init__(skeleton, shelf, options)
        self.tuning = TuneOptions.from_dict(options.tuning)
        self.original: Activations | None = None

    def begin(self, activations: Activations | None) -> None:
        """Hear of the inputs of the first block, which both models share."""
        if activations is not None:
            self.original = Activations(list(activations.hidden), activations.calls)

    def follow(self, index: int) -> None:
        """Pass a block that was finished earlier; it must hold the original's weights."""
        if self.original is not None:
            block = self.skeleton.blocks[index]
            self.original.advance(block, index, self.skeleton.block_name(index))

    def quantize(self, index: int, activations: Activations | None) -> BlockResult:
        """See BlockQuantizer."""
        if activations is None or self.original is None:
            return super().quantize(index, activations)
        return _Block(self, index, activations, self.original).quantize()


class _Block:
    """The work on one block."""

    def __init__(
        self, owner: TunedBlockQuantizer, index: int, inputs: Activations, original: Activations
    ) -> None:
        self.owner, self.index, self.inputs, self.outer = owner, index, inputs, original
        self.name = owner.skeleton.block_name(index)
        self.block = owner.skeleton.blocks[index]
        self.linears = owner.targets(index)
        self.source = copy.deepcopy(self.block)
        count = range(len(inputs.hidden))
        self.runs: list[Callable[[], Any]] = [
            partial(inputs.run, self.block, index, w) for w in count
        ]
        self.source_runs = [partial(original.run, self.source, index, w) for w in count]
        self.wanted = [run() for run in self.source_runs]
        self.tuner = BlockTuner(self.block, index, inputs, self.wanted, owner.tuning)

    def quantize(self) -> BlockResult:
        """Round all groups; the block then holds the tuned result, and the original's states are a block further."""
        result, done = BlockResult(), {}
        groups = group_by_input(self.block, self.linears, self.runs[0])
        for number, group in enumerate(groups):
            self._round(group, self._ends_block(group), result)
            done.update({name: self.linears[name] for name in group})
            seed = derived_seed(self.owner.options.seed, f"{self.name}:{number}")
            losses = self.tuner.tune(done, 1 / len(groups), seed)
            for name in group:
                result.reports[name] |= {f"tuned_{key}": value for key, value in losses.items()}
        self._finish(result)
        self.outer.hidden = self.wanted
        return result

    def _round(self, group: list[str], ends: bool, result: BlockResult) -> None:
        """Compensate and round one group."""
        first = group[0]
        with torch.no_grad():
            drift = measure_drift(
                self.linears[first],
                self.source.get_submodule(first.removeprefix(f"{self.name}.")),
                self.runs,
                self.source_runs,
                self.wanted if ends else None,
                self.tuner.scales if self.owner.tuning.token_weights and ends else None,
            )
            if self.owner.tuning.compensate:
                layers = {name: self.linears[name] for name in group}
                compensate(layers, drift, self.owner.tuning.ridge)
        self.owner._round(group, self.linears, drift.hessian, result)

    @torch.no_grad()
    def _ends_block(self, group: list[str]) -> bool:
        """Whether what is added to a layer's output is added to the block's."""
        layer = self.linears[group[0]]
        if len(group) > 1 or layer.out_features != self.wanted[0].shape[-1]:
            return False
        before = self.runs[0]()
        handle = layer.register_forward_hook(lambda _m, _a, output: output + 1.0)
        try:
            after = self.runs[0]()
        finally:
            handle.remove()
        return bool(torch.allclose(after, before + 1.0, rtol=1e-3, atol=1e-2))

    @torch.no_grad()
    def _finish(self, result: BlockResult) -> None:
        """Put gains into the stored scales, and what else was tuned beside the codes."""
        stored = {name: entry.dtype for name, entry in self.owner.skeleton.source.entries.items()}
        for name, gain in self.tuner.gains.detach().items():
            scales = result.tensors[f"{name}.scales"]
            tuned = (scales.float() * gain.cpu()).to(torch.float16)
            result.tensors[f"{name}.scales"] = tuned
        packed = {id(layer.weight) for layer in self.linears.values()}
        for name, value in self.block.named_parameters(self.name):
            if id(value) not in packed:
                kept: Tensor = value.detach().to(stored[name])
                result.tensors[name] = kept.cpu().clone()
        install_block(self.owner, self.index, result.tensors)  # as a later process would


def install_block(quantizer: BlockQuantizer, index: int, tensors: Mapping[str, Tensor]) -> None:
    """Give a filled block the weights that a finished block's tensors stand for."""
    for layer, linear in quantizer.targets(index).items():
        book = quantizer.shelf.books[quantizer.shelf.id_of(layer) or ""]
        install_dense(linear, from_parts(layer, tensors, book, linear))
    name, block = quantizer.skeleton.block_name(index), quantizer.skeleton.blocks[index]
    packed = {f"{layer}.weight" for layer in quantizer.targets(index)}
    with torch.no_grad():
        for key, value in block.named_parameters(name):
            if key in tensors and key not in packed:
                value.copy_(tensors[key])


def block_quantizer(skeleton: Skeleton, shelf: Shelf, options: CompressOptions) -> BlockQuantizer:
    """The quantizer that the options ask for."""
    tuning = TuneOptions.from_dict(options.tuning)
    if tuning.compensate or tuning.block_epochs:
        return TunedBlockQuantizer(skeleton, shelf, options)
    return BlockQuantizer(skeleton, shelf, options)
