"""What ``compression.json`` says beyond single layers: what was left alone, experts, and what a user should know."""

from __future__ import annotations

import re
from typing import Any

from vq.compressors.options import CompressOptions
from vq.compressors.structure.experts import EXPERTS
from vq.compressors.structure.skeleton import Skeleton

_LISTED = 12  # kinds of tensors that are named


def left_alone(skeleton: Skeleton, packed: set[str]) -> dict[str, Any]:
    """Tensors of two or more dimensions that were not compressed, with their share of the model's weights.

    Args:
        skeleton: the model.
        packed: names of the packed layers.

    Returns:
        ``share`` of the weights, ``block_share`` of those in blocks, and ``tensors``: weights by name, with ``*`` for
        numbers; the largest come first.
    """
    weights = skeleton.weights()
    kept = {n: size for n, size in weights.items() if n.removesuffix(".weight") not in packed}
    kinds: dict[str, int] = {}
    for name, size in kept.items():
        kind = re.sub(r"\b\d+\b", "*", name)
        kinds[kind] = kinds.get(kind, 0) + size
    listed = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:_LISTED]
    return {
        "share": round(sum(kept.values()) / max(sum(weights.values()), 1), 6),
        "block_share": round(1 - skeleton.coverage(packed), 6),
        "tensors": dict(listed),
    }


def experts_of(layers: dict[str, Any]) -> dict[str, Any]:
    """Tokens that each expert saw, by expert module; experts without any were rounded without a Hessian."""
    found: dict[str, list[int]] = {}
    for name, layer in layers.items():
        head, mark, tail = name.rpartition(f".{EXPERTS}.")
        if not mark or "tokens" not in layer or not tail.endswith("gate_up"):
            continue
        seen = found.setdefault(head, [])
        seen += [0] * (int(tail.split(".")[0]) + 1 - len(seen))
        seen[int(tail.split(".")[0])] = int(layer["tokens"])
    return {
        name: {"tokens": seen, "unseen": [i for i, count in enumerate(seen) if not count]}
        for name, seen in found.items()
    }


def warnings_of(report: dict[str, Any], options: CompressOptions) -> list[str]:
    """What a user should know of a model, from its report."""
    return [*_left(report), *module_warnings(report["layers"], options)]


def module_warnings(layers: dict[str, Any], options: CompressOptions) -> list[str]:
    """What a user should know, by layer."""
    found = []
    for name, layer in layers.items():
        if options.rounding == "ldlq" and layer["damping"] > options.damping * 1.001:
            found.append(f"{name}: damping had to grow to {layer['damping']:g}")
        if layer.get("dead_inputs"):
            found.append(
                f"{name}: {layer['dead_inputs']} input channels were always zero{_which(layer, 'dead_channels')}"
            )
        if layer.get("not_finite_tokens"):
            found.append(
                f"{name}: {layer['not_finite_tokens']} inputs were not finite and left out"
                f"{_which(layer, 'not_finite_channels')}"
            )
        elif layer.get("not_finite_channels"):
            found.append(
                f"{name}: the Hessian was not finite{_which(layer, 'not_finite_channels')}; they count as never used"
            )
        if options.windows and not layer.get("tokens"):
            found.append(f"{name}: never used by the calibration data; rounded without a Hessian")
    return [*_short_of_tokens(layers), *_unseen(found)]


def _which(layer: dict[str, Any], key: str) -> str:
    channels = layer.get(key)
    return f" (channels {', '.join(map(str, channels))})" if channels else ""


def _unseen(found: list[str]) -> list[str]:
    """One line for many layers of which the same is to be said."""
    mark = ": never used by the calibration data"
    unseen = [line.split(mark)[0] for line in found if mark in line]
    if len(unseen) <= 4:
        return found
    others = [line for line in found if mark not in line]
    return [
        *others,
        f"{len(unseen)} layers, such as {unseen[0]} and {unseen[-1]}{mark}; rounded without a Hessian",
    ]


def _left(report: dict[str, Any]) -> list[str]:
    """Weights of blocks that no linear layer holds."""
    alone = report["left_alone"]
    if alone["block_share"] <= 0.1:
        return []
    names = ", ".join(list(alone["tensors"])[:4])
    return [
        f"{alone['block_share']:.0%} of the block weights were left alone, for they are not in linear layers "
        f"or are kept; {alone['share']:.0%} of the whole model was: {names}"
    ]


def _short_of_tokens(layers: dict[str, Any]) -> list[str]:
    """Layers that saw fewer vectors than they have inputs: their Hessian has no full rank."""
    short = {
        name: (layer["tokens"], layer["shape"][1])
        for name, layer in layers.items()
        if 0 < layer.get("tokens", 0) < layer["shape"][1]
    }
    if not short:
        return []
    worst = min(short, key=lambda name: short[name][0] / short[name][1])
    tokens, width = short[worst]
    return [
        f"too few calibration tokens: {len(short)} of {len(layers)} layers saw fewer than they have inputs, "
        f"{worst} only {tokens} for {width}; more windows or longer ones (--windows, --context) give a better model"
    ]
