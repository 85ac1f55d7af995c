"""Rounding a block against the original model: every layer makes up for what went wrong before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from vq.compressors.calibration.calibrate import Activations, WholeModel
from vq.compressors.calibration.hessian import collect_hessians, group_by_input
from vq.compressors.layers.sides import scale_rows
from vq.compressors.options import CompressOptions
from vq.compressors.ranks import Ranks
from vq.compressors.rounding.block import (
    BlockQuantizer,
    BlockResult,
    Shelf,
    derived_seed,
    note_inputs,
)
from vq.compressors.structure.skeleton import Skeleton
from vq.compressors.tuning.block import BlockTuner
from vq.compressors.tuning.closed import (
    Inputs,
    NotOnce,
    compensate,
    input_of,
    measure_drift,
)
from vq.compressors.tuning.options import TuneOptions


class TunedBlockQuantizer(BlockQuantizer):
    """Quantizes blocks one at a time, and carries the original model's hidden states along.

    For each group of layers with one input, in the order of the forward pass: compensate in closed form, round, and
    tune what is still free in the block.

    Args:
        skeleton: see BlockQuantizer.
        shelf: see BlockQuantizer.
        options: ``options.tuning`` says what is done.
    """

    skeleton: Skeleton

    def __init__(self, skeleton: Skeleton, shelf: Shelf, options: CompressOptions) -> None:
        super().__init__(skeleton, shelf, options)
        self.tuning = TuneOptions.from_dict(options.tuning)
        self.original: Activations | None = None

    def begin(self, activations: Activations) -> None:
        """Hear of the inputs of a stack's first block, which both models share."""
        self.original = Activations(
            list(activations.hidden), activations.calls, activations.start, activations.outputs
        )

    def follow(self, index: int) -> None:
        """Pass a block that was finished earlier; it must hold the original's weights."""
        if self.original is not None:
            block = self.skeleton.blocks[index]
            self.original.advance(block, index, self.skeleton.block_name(index))

    def quantize(self, index: int, activations: Activations | WholeModel | None) -> BlockResult:
        """See BlockQuantizer."""
        if not isinstance(activations, Activations) or self.original is None:
            return super().quantize(index, activations)
        return _Block(self, index, activations, self.original).quantize()

    def restore(self, index: int, tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """Put what was made of a block in place: its layers, and what was tuned beside them."""
        super().restore(index, tensors, names)
        beside = tuned_beside(self, index)
        with torch.no_grad():
            for key, value in beside.items():
                if key in tensors:
                    value.copy_(tensors[key])


def disk_name(skeleton: Skeleton, name: str, value: Tensor) -> str | None:
    """Name on disk of a parameter that is stored as it is; None for one that is computed from others."""
    stored = skeleton.stored(name)
    entry = skeleton.source.entries[next(iter(stored))] if len(stored) == 1 else None
    return None if entry is None or entry.shape != tuple(value.shape) else next(iter(stored))


def tuned_beside(quantizer: BlockQuantizer, index: int) -> dict[str, nn.Parameter]:
    """Parameters of a filled block that are no codes and may be tuned, by name on disk."""
    skeleton = quantizer.skeleton
    assert isinstance(skeleton, Skeleton)
    packed = {id(layer.weight) for layer in quantizer.targets(index).values()}
    found = {}
    for name, value in skeleton.blocks[index].named_parameters(skeleton.block_name(index)):
        key = None if id(value) in packed else disk_name(skeleton, name, value)
        if key is not None:
            found[key] = value
    return found


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
        self.runs = inputs.runs(self.block, index)
        self.source_runs = original.runs(self.source, index)
        self.groups = group_by_input(self.block, self.linears, self.runs[0])
        self.ends = [self._ends_block(group) for group in self.groups]
        self.kept = Inputs(self.source, {name: self._in_source(name) for name in self._to_keep()})
        self.wanted = original.after(self.source, index, self.name)
        self.kept.close()
        self.beside = tuned_beside(owner, index)
        may = {id(p) for p in self.beside.values()} | {id(m.weight) for m in self.linears.values()}
        fixed = [p for p in self.block.parameters() if id(p) not in may]
        self.tuner = BlockTuner(self.block, index, inputs, self.wanted, owner.tuning, fixed)

    def quantize(self) -> BlockResult:
        """Round all groups; the block then holds the tuned result, and the original's states are a block further."""
        result, done = BlockResult(), {}
        for number, group in enumerate(self.groups):
            self._round(group, self.ends[number], result)
            done.update({name: self.linears[name] for name in group})
            if not self.owner.tuning.block_epochs and number + 1 < len(self.groups):
                self._settle(done)
            seed = derived_seed(self.owner.options.seed, f"{self.name}:{number}")
            losses = self.tuner.tune(done, 1 / len(self.groups), seed)
            for name in group:
                result.reports[name] |= {f"tuned_{key}": value for key, value in losses.items()}
        self._finish(result)
        self.outer.hidden = self.wanted
        return result

    def _to_keep(self) -> list[str]:
        """Layers of the original block whose inputs are kept: not of the first group, for which a run is short."""
        most = (
            2 * self.outer.hidden[0].shape[-1] if self.outer.hidden else 0
        )  # wide ones would fill the memory
        pairs = zip(self.groups[1:], self.ends[1:], strict=True)
        heads = [group[0] for group, ends in pairs if not ends]
        return [name for name in heads if self.linears[name].in_features <= most]

    def _settle(self, done: Mapping[str, nn.Linear]) -> None:
        """Run no part of the block again whose layers are all rounded: attention, while the rest is."""
        for name, part in self.block.named_children():
            inside = [n for n in self.linears if n.startswith(f"{self.name}.{name}.")]
            if inside and all(n in done for n in inside):
                self.inputs.settle(part)

    def _in_source(self, name: str) -> nn.Module:
        """The layer of the original block."""
        return self.source.get_submodule(name.removeprefix(f"{self.name}."))

    def _originals(self, name: str) -> list[Callable[[], Tensor]]:
        """What a layer of the original block is given, window by window."""
        kept = self.kept.take(name)
        if kept is not None:
            return [partial(kept.__getitem__, i) for i in range(len(kept))]
        layer = self._in_source(name)
        return [partial(input_of, layer, run) for run in self.source_runs]

    def _round(self, group: list[str], ends: bool, result: BlockResult) -> None:
        """Compensate and round one group; an expert is only rounded."""
        first = group[0]
        try:
            with torch.no_grad():
                drift = measure_drift(
                    self.linears[first],
                    [] if ends else self._originals(first),
                    self.runs,
                    self.wanted if ends else None,
                    self.tuner.scales if self.owner.tuning.token_weights and ends else None,
                )
        except NotOnce:
            hessian = collect_hessians([group], self.linears, self.runs)[0]
        else:
            hessian = drift.hessian
            if self.owner.tuning.compensate:
                layers = {name: self.linears[name] for name in group}
                compensate(layers, drift, self.owner.tuning.ridge)
        self.owner._round(group, self.linears, hessian, result)
        note_inputs({name: result.reports[name] for name in group}, hessian)

    @torch.no_grad()
    def _ends_block(self, group: list[str]) -> bool:
        """Whether what is added to a layer's output is added to the block's."""
        layer = self.linears[group[0]]
        if len(group) > 1 or layer.out_features != self.outer.hidden[0].shape[-1]:
            return False
        before = self.runs[0]()
        handle = layer.register_forward_hook(lambda _m, _a, output: output + 1.0)
        try:
            after = self.runs[0]()
        finally:
            handle.remove()
        return bool(torch.allclose(after, before + 1.0, rtol=1e-3, atol=1e-2))

    def _finish(self, result: BlockResult) -> None:
        """Put gains into the stored scales, and what else was tuned beside the codes."""
        for name, gain in self.tuner.gains.detach().items():
            result.tensors.update(scale_rows(name, result.tensors, gain))
        entries = self.owner.skeleton.source.entries
        for key, value in self.beside.items():
            result.tensors[key] = value.detach().to(entries[key].dtype).cpu().clone()
        self.owner.restore(self.index, result.tensors, result.reports)  # as a later process would


def block_quantizer(
    skeleton: Skeleton, shelf: Shelf, options: CompressOptions, ranks: Ranks
) -> BlockQuantizer:
    """The quantizer that the options ask for."""
    tuning = TuneOptions.from_dict(options.tuning)
    if tuning.compensate or tuning.block_epochs:
        return TunedBlockQuantizer(skeleton, shelf, options)
    return BlockQuantizer(skeleton, shelf, options, ranks)
