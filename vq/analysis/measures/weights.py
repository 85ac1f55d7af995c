"""Compressed weights: what they take, where the error lies, what rotation did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.measures.shape import fisher
from vq.analysis.model import Matrix, Measurement, Section, Series
from vq.analysis.subject import Layer, Subject

_CHANNELS = 16  # columns of the heat map


@dataclass(frozen=True)
class LayerFigures:
    """Of one layer.

    Attributes:
        before: kurtosis of the weights (of the original where it is at hand).
        after: kurtosis in the rotated space, rows at unit variance; None without rotation.
        error: squared error and squared norm against the original; None without one.
        channels: relative error by sixteenths of the output channels, worst first; empty without an original.
        spread: largest over median relative error of output channels.
    """

    before: float | None
    after: float | None
    error: tuple[float, float] | None
    channels: tuple[float, ...]
    spread: float | None


def kurtosis(x: Tensor) -> float:
    """Fourth standardised moment; 3 for a Gaussian."""
    flat = x.float().reshape(-1)
    centred = flat - flat.mean()
    square = centred.square()
    variance = float(square.mean(dtype=torch.float64))
    if variance <= 0:
        return 0.0
    return float(square.square().mean(dtype=torch.float64)) / variance**2


def weights_section(subject: Subject, original: Subject | None = None) -> Section:
    """Everything about compressed weights.

    Args:
        subject: with layers.
        original: with the weights before compression; None where they are not at hand.
    """
    layers = subject.layers
    given = {} if original is None else original.weights
    figures = [
        _figures(layer, given[layer.name]() if layer.name in given else None) for layer in layers
    ]
    rows = _sizes(subject) + _errors(layers, figures)
    series = (_by_layer(layers, figures), _breakdown(layers, subject))
    notes = (
        []
        if given
        else ["errors of the weights themselves need the original: vq analyze COMPRESSED ORIGINAL"]
    )
    matrices = _heat(layers, figures)
    return Section("weights", "Compressed weights", "", tuple(rows), series, matrices, tuple(notes))


@torch.no_grad()
def _figures(layer: Layer, original: Tensor | None) -> LayerFigures:
    values = None if layer.units is None else layer.units()
    dense = None if layer.dense is None else layer.dense()
    basis = dense if original is None else original
    before = None if basis is None else kurtosis(basis)
    after = None
    if layer.rotate is not None:
        if original is not None:
            after = kurtosis(_unit_rows(layer.rotate(original)))
        elif values is not None:
            after = kurtosis(_unit_rows(values))
    if original is None or dense is None or original.shape != dense.shape:
        return LayerFigures(before, after, None, (), None)
    error = (dense - original).square().double().sum(1)
    norm = original.square().double().sum(1)
    relative = error / norm.clamp_min(1e-30)
    parts = relative.sort(descending=True).values.chunk(_CHANNELS)
    spread = float(relative.max() / relative.median().clamp_min(1e-30))
    channels = tuple(float(part.mean()) for part in parts)
    return LayerFigures(before, after, (float(error.sum()), float(norm.sum())), channels, spread)


def _unit_rows(x: Tensor) -> Tensor:
    return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def _sizes(subject: Subject) -> list[Measurement]:
    layers, facts = subject.layers, subject.facts
    weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
    shared = int(facts.get("codebook_bits", 0))
    own = sum(sum(layer.bits.values()) for layer in layers) + shared
    rows = [
        measured("layers", len(layers)),
        measured("weights", weights),
        measured("bits_per_weight", own / max(weights, 1), weights),
    ]
    if "other_bits" in facts:
        everything = weights + int(facts["other_weights"])
        total = (own + int(facts["other_bits"])) / max(everything, 1)
        rows.append(measured("total_bits_per_weight", total, everything))
    return rows


def _errors(layers: Sequence[Layer], figures: Sequence[LayerFigures]) -> list[Measurement]:
    rows: list[Measurement] = []
    proxy = [
        (float(layer.report["proxy_error"]), layer.name)
        for layer in layers
        if "proxy_error" in layer.report
    ]
    if proxy:
        worst = max(proxy)
        values = sorted((value for value, _ in proxy), reverse=True)
        tenth = max(round(len(values) / 10), 1)
        rows += [
            measured("proxy_error", sum(values) / len(values), len(values)),
            measured("worst_proxy_error", worst[0], len(values), note=worst[1]),
            measured("sensitivity", sum(values[:tenth]) / max(sum(values), 1e-30), len(values)),
        ]
    known = [(f, layer) for f, layer in zip(figures, layers, strict=True) if f.error is not None]
    if known:
        rows += _against_original(known)
    for key, field in (("kurtosis_before", "before"), ("kurtosis_after", "after")):
        found = [getattr(f, field) for f in figures if getattr(f, field) is not None]
        if found:
            middle = float(torch.tensor(found, dtype=torch.float64).median())
            rows.append(measured(key, middle, len(found), note=f"up to {max(found):.3g}"))
    return rows


def _against_original(known: Sequence[tuple[LayerFigures, Layer]]) -> list[Measurement]:
    pairs = [f.error for f, _ in known if f.error is not None]
    relative = [e / max(n, 1e-30) for e, n in pairs]
    worst = max(range(len(known)), key=lambda i: relative[i])
    spreads = [(f.spread or 0.0, layer.name) for f, layer in known]
    rows = [
        measured("layer_error", sum(e for e, _ in pairs) / sum(n for _, n in pairs), len(known)),
        measured("worst_layer_error", relative[worst], len(known), note=known[worst][1].name),
        measured("channel_spread", max(spreads)[0], len(known), note=max(spreads)[1]),
    ]
    proxy = [layer.report.get("proxy_error") for _, layer in known]
    if len(known) > 2 and all(value is not None for value in proxy):
        match = rank_correlation(proxy, relative)
        rows.append(measured("sensitivity_match", match, len(known), fisher(match, len(known))))
    return rows


def rank_correlation(a: Sequence[float | None], b: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [
        torch.tensor([float(v or 0) for v in values], dtype=torch.float64)
        .argsort()
        .argsort()
        .double()
        for values in (a, b)
    ]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _by_layer(layers: Sequence[Layer], figures: Sequence[LayerFigures]) -> Series:
    columns: dict[str, tuple[float | int | str | None, ...]] = {
        "layer": tuple(layer.name for layer in layers),
        "bits_per_weight": tuple(
            sum(layer.bits.values()) / (layer.shape[0] * layer.shape[1]) for layer in layers
        ),
        "proxy_error": tuple(layer.report.get("proxy_error") for layer in layers),
        "relative_error": tuple(
            None if f.error is None else f.error[0] / max(f.error[1], 1e-30) for f in figures
        ),
        "kurtosis_before": tuple(f.before for f in figures),
        "kurtosis_after": tuple(f.after for f in figures),
    }
    about = (
        "stored bits per weight; error by the compressor's measure; relative squared error against the original; "
        "fourth moments before and after rotation"
    )
    return Series("by_layer", "Layer by layer", columns, about)


def _breakdown(layers: Sequence[Layer], subject: Subject) -> Series:
    parts: Counter[str] = Counter()
    for layer in layers:
        parts.update(layer.bits)
    parts["codebooks"] += int(subject.facts.get("codebook_bits", 0))
    weights = max(sum(layer.shape[0] * layer.shape[1] for layer in layers), 1)
    rows = [(name, bits / weights) for name, bits in parts.most_common() if bits]
    return Series(
        "bits",
        "What the bits are",
        {"part": tuple(n for n, _ in rows), "bits_per_weight": tuple(b for _, b in rows)},
        "stored bits over all quantized weights",
    )


def _heat(layers: Sequence[Layer], figures: Sequence[LayerFigures]) -> tuple[Matrix, ...]:
    known = [
        (layer.name, f.channels) for layer, f in zip(layers, figures, strict=True) if f.channels
    ]
    if not known:
        return ()
    width = max(len(c) for _, c in known)
    columns = tuple(f"{i + 1}/{width}" for i in range(width))
    values = tuple(tuple(c) + (None,) * (width - len(c)) for _, c in known)
    about = "relative squared error of output channels, sorted from the worst, in sixteenths"
    names = tuple(name for name, _ in known)
    return (Matrix("channels", "Error by layer and channel", names, columns, values, "", about),)
