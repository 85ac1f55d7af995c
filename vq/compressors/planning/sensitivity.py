"""What rounding a matrix costs: noise of the shape that rounding leaves, put into one matrix at a time.

Rounding with error feedback leaves the error ``E = N L⁻¹`` with ``N`` white, as strong as the codebook's distortion,
and ``L`` the factor of the block LDL decomposition of the Hessian. Such noise is drawn, added to one matrix, and the
divergence of the model's predictions from its own is measured. Divergences of small errors are proportional to the
distortion and add up over matrices (the linearity theorem), which makes a forecast for every choice of codebooks.

All noisy variants of the model run through the blocks side by side, so that one block is in memory at a time.

Reference:
    V. Malinovskii et al., "Pushing the limits of large language model quantization via the linearity theorem" (HIGGS),
    NAACL 2025, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.calibrate import (
    Activations,
    capture,
    collect_hessians,
    group_by_input,
)
from vq.compressors.rounding.block import derived_seed
from vq.compressors.rounding.rotation import hadamard, random_signs
from vq.compressors.rounding.round import block_ldl
from vq.compressors.structure.skeleton import Skeleton
from vq.compressors.structure.stand import Stand
from vq.compressors.tuning.stage import fill_whole
from vq.errors import VqError

PROBE = 0.0707  # distortion of the noise: the default trellis at 2 bits
_BLOCK = 4  # columns that the default codebooks round at a time
_ROWS = 256  # positions whose probabilities are compared at a time


@dataclass(frozen=True)
class Sensitivity:
    """What one matrix costs.

    Attributes:
        layer: qualified name.
        shape: rows and columns.
        slope: nats of divergence a token for each unit of the codebook's distortion on N(0, 1).
        trace: mean of ``w H wᵀ`` over rows: energy of an output, by the Hessian.
        proxy: ``tr(E H Eᵀ) / tr(W H Wᵀ)`` of the noise.
        measured: False where the slope lies between measured ones of other blocks.
    """

    layer: str
    shape: tuple[int, int]
    slope: float
    trace: float
    proxy: float
    measured: bool = True


@dataclass(frozen=True, eq=False)
class Probe:
    """What the noise is measured with.

    Attributes:
        calibration: int64 ``(windows, context)``, for Hessians.
        texts: int64 ``(windows, context)``, whose predictions are compared.
        every: blocks from one that is probed to the next; those between are interpolated.
        distortion: of the noise, in units of a row's mean square.
        damping: of Hessians.
        seed: of the noise.
    """

    calibration: Tensor
    texts: Tensor
    every: int = 1
    distortion: float = PROBE
    damping: float = 0.03
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Findings:
    """What a probe found.

    Attributes:
        layers: a sensitivity for every matrix, in the model's order.
        nll: of the original model on the probe's texts, nats a token.
    """

    layers: list[Sensitivity]
    nll: float


@dataclass(eq=False)
class _Variant:
    """The model with noise in one matrix: its hidden states so far."""

    layer: str
    hidden: list[Tensor]


def probe(
    skeleton: Skeleton, settings: Probe, progress: Callable[[int, int], None] | None = None
) -> Findings:
    """Sensitivity of every linear layer of the blocks.

    Args:
        skeleton: the original model.
        settings: see Probe.
        progress: hears of blocks done and in all.

    Raises:
        VqError: for a model with several stacks of blocks, or none that predicts tokens.
    """
    if len(skeleton.stacks) > 1 or skeleton.model.get_output_embeddings() is None:
        raise VqError(
            f"{skeleton.source.name}: plans are for language models of one stack of blocks so far"
        )
    count = len(skeleton.blocks)
    probed = {*range(0, count, settings.every), count - 1}
    calibration = capture(skeleton, settings.calibration)
    texts = capture(skeleton, settings.texts)
    variants: list[_Variant] = []
    notes: dict[str, Sensitivity] = {}
    for index in range(count):
        name, block = skeleton.block_name(index), skeleton.blocks[index]
        skeleton.fill(block, name)
        clean = [texts.run(block, index, i) for i in range(len(texts.hidden))]
        for variant in variants:
            variant.hidden = _through(block, index, texts, variant.hidden)
        for layer, linear, noise, note in _noises(skeleton, index, calibration, settings):
            notes[layer] = note
            if index in probed:
                variants.append(_Variant(layer, _noisy(block, index, texts, linear, noise)))
        texts.hidden = clean
        calibration.advance(block, index, name)
        skeleton.empty(block)
        if progress is not None:
            progress(index + 1, count)
    divergences, nll = _compare(skeleton, settings.texts, texts.hidden, variants)
    for layer, value in divergences.items():
        notes[layer] = replace(notes[layer], slope=value / settings.distortion, measured=True)
    return Findings(_interpolated(skeleton, notes), nll)


def _through(
    block: nn.Module, index: int, texts: Activations, hidden: list[Tensor]
) -> list[Tensor]:
    return [Activations(hidden, texts.calls).run(block, index, i) for i in range(len(hidden))]


def _noises(
    skeleton: Skeleton, index: int, calibration: Activations, settings: Probe
) -> Iterator[tuple[str, nn.Linear, Tensor, Sensitivity]]:
    """Noise for each layer of a filled block."""
    block, linears = skeleton.blocks[index], skeleton.linears(index)
    runs = [partial(calibration.run, block, index, i) for i in range(len(calibration.hidden))]
    groups = group_by_input(block, linears, runs[0])
    hessians = collect_hessians(groups, linears, runs)
    for group, hessian in zip(groups, hessians, strict=True):
        metric = hessian.mean()
        for name in group:
            weight = linears[name].weight.detach().float()
            width = weight.shape[1]
            h = torch.eye(width) if metric is None else metric.float().cpu()
            noise = shaped_noise(weight.cpu(), h, settings, derived_seed(settings.seed, name))
            energy = _energy(weight.cpu(), h)
            note = Sensitivity(
                name,
                (weight.shape[0], width),
                slope=float("nan"),
                trace=energy / weight.shape[0],
                proxy=_energy(noise, h) / max(energy, 1e-30),
                measured=False,
            )
            yield name, linears[name], noise.to(weight.device), note


def shaped_noise(weight: Tensor, metric: Tensor, settings: Probe, seed: int) -> Tensor:
    """An error such as rounding with feedback leaves, ``(out, in)``, in the original basis.

    Args:
        weight: ``(out, in)``.
        metric: Hessian ``(in, in)``.
        settings: distortion and damping.
        seed: of signs and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    width = weight.shape[1]
    signs = random_signs(width, generator)
    turned = hadamard(hadamard(metric * signs[:, None] * signs).t()).t().contiguous()
    block = _BLOCK if width % _BLOCK == 0 else 1
    feedback, _ = block_ldl(turned, block, settings.damping)
    rms = weight.square().mean(1, keepdim=True).sqrt()
    white = torch.randn(weight.shape, generator=generator) * rms * settings.distortion**0.5
    shaped = torch.linalg.solve_triangular(feedback, white, upper=False, left=False)
    return hadamard(shaped) * signs


def _energy(x: Tensor, metric: Tensor) -> float:
    return float(((x @ metric) * x).sum().double())


def _noisy(
    block: nn.Module, index: int, texts: Activations, linear: nn.Linear, noise: Tensor
) -> list[Tensor]:
    """Outputs of a block with noise in one layer; the layer is as before afterwards."""
    clean = linear.weight
    linear.weight = nn.Parameter(clean.detach() + noise.to(clean.dtype), requires_grad=False)
    try:
        return _through(block, index, texts, texts.hidden)
    finally:
        linear.weight = clean


@torch.no_grad()
def _compare(
    skeleton: Skeleton, tokens: Tensor, clean: list[Tensor], variants: list[_Variant]
) -> tuple[dict[str, float], float]:
    """Divergence of each variant's predictions from the clean model's, and the clean model's NLL."""
    fill_whole(skeleton, blocks=False)
    sums, nll = dict.fromkeys([v.layer for v in variants], 0.0), 0.0
    for i, row in enumerate(tokens):
        wanted = predict(skeleton, row, clean[i]).log_softmax(-1)
        nll -= float(wanted[:-1].gather(1, row[1:, None]).double().mean())
        for variant in variants:
            logp = predict(skeleton, row, variant.hidden[i]).log_softmax(-1)
            parts = [
                float((p.exp() * (p - q)).sum(-1).double().sum())
                for p, q in zip(wanted.split(_ROWS), logp.split(_ROWS), strict=True)
            ]
            sums[variant.layer] += sum(parts) / len(row) / len(tokens)
    skeleton.empty(skeleton.model)
    return sums, nll / len(tokens)


def predict(skeleton: Skeleton, row: Tensor, hidden: Tensor) -> Tensor:
    """Logits ``(tokens, vocabulary)`` of the part of the model behind the blocks."""
    blocks = skeleton.stack(skeleton.stacks[0])
    originals = list(blocks)
    try:
        for as_tuple in (False, True):
            for i in range(len(originals)):
                blocks[i] = _Stub(originals[i], hidden, as_tuple)
            try:
                output = skeleton.model(input_ids=row[None].to(skeleton.device), use_cache=False)
                return output.logits[0].float()
            except (RuntimeError, IndexError, TypeError, AttributeError):
                if as_tuple:
                    raise
    finally:
        for i, block in enumerate(originals):
            blocks[i] = block
    raise AssertionError("unreachable")


class _Stub(Stand):
    """Stands for a block: returns what it was given when it was made."""

    def __init__(self, block: nn.Module, hidden: Tensor, as_tuple: bool) -> None:
        super().__init__(block)
        self.hidden, self.as_tuple = hidden, as_tuple

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.hidden,) if self.as_tuple else self.hidden


def _interpolated(skeleton: Skeleton, notes: dict[str, Sensitivity]) -> list[Sensitivity]:
    """Slopes of blocks that were left out: geometric, between the same layer's of the nearest probed blocks."""
    names = [list(skeleton.linears(i)) for i in range(len(skeleton.blocks))]
    done = [i for i, layers in enumerate(names) if layers and notes[layers[0]].measured]
    found = []
    for i, layers in enumerate(names):
        for k, layer in enumerate(layers):
            note = notes[layer]
            if not note.measured:
                low = max(j for j in done if j < i)
                high = min(j for j in done if j > i)
                part = (i - low) / (high - low)
                a, b = (max(notes[names[j][k]].slope, 1e-12) for j in (low, high))
                note = replace(note, slope=a ** (1 - part) * b**part)
            found.append(note)
    return found
