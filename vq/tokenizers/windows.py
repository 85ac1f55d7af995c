"""Long signals in windows of one shape: every way to cut them gives the same features, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vq.tokenizers.backbones.base import Backbone, Context
from vq.tokenizers.spectra import reflected

PAD_MODES = ("reflect", "zero")

Function = Callable[[Tensor], Tensor]
"""A map of one window to another, positions on the last axes."""


@dataclass(frozen=True)
class Span:
    """One window on one axis, in positions.

    Attributes:
        start: first position of the window.
        stop: one past its last.
        first: first position whose result is kept.
        last: one past the last kept.
    """

    start: int
    stop: int
    first: int
    last: int


def spans(total: int, window: int, before: int, after: int) -> list[Span]:
    """Windows that cover an axis of ``total`` positions.

    The k-th starts at ``k (window - before - after)``; what is kept of it has its whole context inside, or begins the
    signal. The last window is shifted back to end with the signal, so that all have one length; the canonical windows
    depend on the total alone. A signal shorter than a window is one window of its own length.

    Raises:
        ValueError: for a window that is not longer than the context, or an empty axis.
    """
    step = window - before - after
    if step < 1:
        raise ValueError(
            f"windows: expected a window of more than {before} + {after} positions of context, got {window}"
        )
    if total < 1:
        raise ValueError(f"windows: expected at least one position, got {total}")
    if total <= window:
        return [Span(0, total, 0, total)]
    found, done = [], 0
    for start in range(0, total - window + 1, step):
        found.append(Span(start, start + window, done, start + window - after))
        done = found[-1].last
    return [*found, Span(total - window, total, done, total)] if done < total else found


@dataclass(frozen=True)
class Scale:
    """Input and output samples of one position, per axis: (hop, 1) for an encoder, (1, hop) for a decoder."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def run_windows(
    function: Function, x: Tensor, plan: Sequence[Sequence[Span]], scale: Scale
) -> Tensor:
    """Apply a function window by window and put the kept parts together.

    Each window of each item runs by itself, as a fresh tensor ``(1, C, *window)``: with one shape there is one order
    of additions.

    Args:
        function: ``(1, C, *window * scale.inputs)`` to ``(1, D, *window * scale.outputs)``.
        x: ``(B, C, *positions * scale.inputs)``.
        plan: the spans of each axis.
        scale: input and output samples of one position, per axis.

    Returns:
        ``(B, D, *positions * scale.outputs)``.

    Raises:
        ValueError: for an empty batch.
    """
    if not x.shape[0]:
        raise ValueError(f"windows: expected at least one signal, got {tuple(x.shape)}")
    items = []
    for item in range(x.shape[0]):
        out: Tensor | None = None
        for tile in itertools.product(*plan):
            here = _cut(x[item : item + 1], [(s.start, s.stop) for s in tile], scale.inputs)
            result = function(fresh(here))
            if out is None:
                size = [p[-1].last * n for p, n in zip(plan, scale.outputs, strict=True)]
                out = result.new_empty((1, result.shape[1], *size))
            kept = _cut(
                result, [(s.first - s.start, s.last - s.start) for s in tile], scale.outputs
            )
            _cut(out, [(s.first, s.last) for s in tile], scale.outputs).copy_(kept)
        assert out is not None
        items.append(out)
    return torch.cat(items)


def fresh(x: Tensor) -> Tensor:
    """A contiguous copy in memory of its own, aligned as the allocator aligns."""
    return x.clone(memory_format=torch.contiguous_format)


def _cut(x: Tensor, ranges: Sequence[tuple[int, int]], samples: Sequence[int]) -> Tensor:
    """The view of some positions of ``(B, C, *positions * samples)``."""
    for axis, ((start, stop), n) in enumerate(zip(ranges, samples, strict=True)):
        x = x.narrow(2 + axis, start * n, (stop - start) * n)
    return x


def pad_to_grain(x: Tensor, grain: Sequence[int], mode: str = "reflect") -> Tensor:
    """Pad the last axes of ``(B, C, *size)`` at their ends to the next multiples of ``grain``.

    The caller keeps the size there was, and cuts the decoded signal back to it.

    Args:
        x: signals.
        grain: of the backbone.
        mode: "reflect" (mirrored at the last sample, again and again where the signal is short) or "zero".

    Raises:
        ValueError: for another mode, number of axes, or an empty axis.
    """
    check_mode(mode)
    if x.ndim != 2 + len(grain) or not all(x.shape[2:]):
        raise ValueError(
            f"pad_to_grain: expected (B, C, *{len(grain)} axes), none empty, got {tuple(x.shape)}"
        )
    for axis, g in enumerate(grain, start=2):
        length = x.shape[axis]
        missing = -length % g
        if missing and mode == "zero":
            x = functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, missing])
        elif missing:
            index = reflected(torch.arange(length + missing, device=x.device), length)
            x = x.index_select(axis, index)
    return x


def check_mode(mode: str) -> None:
    """Raise ValueError unless the mode of padding is known."""
    if mode not in PAD_MODES:
        raise ValueError(f"padding: mode must be one of {PAD_MODES}, got {mode!r}")


def default_window(context: Context, tile: Sequence[int]) -> tuple[int, ...]:
    """Positions of a window: eight times the context or 64, in whole tiles: at most an eighth is computed twice."""
    return tuple(
        -(-max(8 * (before + after), 64) // t) * t
        for (before, after), t in zip(context, tile, strict=True)
    )


def encode_long(
    backbone: Backbone,
    x: Tensor,
    window: Sequence[int] | None = None,
    then: Function | None = None,
) -> Tensor:
    """Features, or codes, of signals of any size that is a multiple of ``backbone.grain``.

    What comes out depends on the signal and the window alone, not on how the caller batches or streams (see
    ``streams.EncodeStream``), as long as the device and the number of threads stay. Up to rounding it is
    ``backbone.encode`` of the whole.

    Args:
        backbone: its encoder is used, without gradient.
        x: ``(B, channels, *size)``.
        window: positions per axis, whole tiles; None takes ``default_window(backbone.context, backbone.tile)``.
        then: what follows on the features of each window, ``(1, dim, *window)`` to ``(1, Q, *window)``, position by
            position: a quantizer. It sees whole windows, so that its own rounding is the same every time.

    Returns:
        ``(B, dim or Q, *positions)``.

    Raises:
        ValueError: for wrong shapes, or a window that is no longer than the context or not of whole tiles.
    """
    total = backbone.positions(x.shape[2:])
    window = check_window(backbone, backbone.context, window)
    plan = [spans(n, w, *c) for n, w, c in zip(total, window, backbone.context, strict=True)]
    scale = Scale(backbone.hop, (1,) * len(backbone.hop))
    return run_windows(encode_function(backbone, then), x, plan, scale)


def decode_long(
    backbone: Backbone,
    z: Tensor,
    window: Sequence[int] | None = None,
    first: Function | None = None,
) -> Tensor:
    """Signals of features, or codes, of any number of whole tiles; the counterpart of ``encode_long``.

    Args:
        backbone: its decoder is used, without gradient.
        z: ``(B, dim or Q, *positions)``.
        window: positions per axis; None takes ``default_window(backbone.decoder_context, backbone.tile)``.
        first: what comes before the decoder, codes ``(1, Q, *window)`` to features ``(1, dim, *window)``.

    Returns:
        ``(B, channels, *size)``.

    Raises:
        ValueError: as ``encode_long``.
    """
    if z.ndim != 2 + len(backbone.hop):
        raise ValueError(
            f"decode_long: expected (B, dim or Q, *{len(backbone.hop)} axes), got {tuple(z.shape)}"
        )
    backbone.positions([n * h for n, h in zip(z.shape[2:], backbone.hop, strict=True)])
    context = backbone.decoder_context
    window = check_window(backbone, context, window)
    plan = [spans(n, w, *c) for n, w, c in zip(z.shape[2:], window, context, strict=True)]
    scale = Scale((1,) * len(backbone.hop), backbone.hop)
    return run_windows(decode_function(backbone, first), z, plan, scale)


def check_window(
    backbone: Backbone, context: Context, window: Sequence[int] | None
) -> tuple[int, ...]:
    """The window, or the default one.

    Raises:
        ValueError: for another number of axes, or one that is not of whole tiles.
    """
    if window is None:
        return default_window(context, backbone.tile)
    if len(window) != len(backbone.hop) or any(
        w < 1 or w % t for w, t in zip(window, backbone.tile, strict=True)
    ):
        raise ValueError(
            f"windows: expected {len(backbone.hop)} sizes in positions, multiples of {backbone.tile}, got {window}"
        )
    return tuple(window)


def encode_function(backbone: Backbone, then: Function | None) -> Function:
    """``then(backbone.encode(window))`` without gradient."""

    @torch.no_grad()
    def function(part: Tensor) -> Tensor:
        features = backbone.encode(part)
        return features if then is None else then(features)

    return function


def decode_function(backbone: Backbone, first: Function | None) -> Function:
    """``backbone.decode(first(window))`` without gradient."""

    @torch.no_grad()
    def function(part: Tensor) -> Tensor:
        return backbone.decode(part if first is None else first(part))

    return function
