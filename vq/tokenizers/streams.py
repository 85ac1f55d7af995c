"""Signals and codes that arrive in pieces: the same result as from the whole, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vq.tokenizers.backbones.base import Backbone, Context
from vq.tokenizers.windows import (
    Function,
    check_mode,
    check_window,
    decode_function,
    encode_function,
    fresh,
    pad_to_grain,
    spans,
)


class Stream:
    """Runs the canonical windows of ``windows.spans`` as their input arrives.

    ``push`` returns what is ready; ``finish`` the rest. A window runs as soon as it is full: a position waits for at
    most one window, so that a short window has little delay and recomputes its context more often. Memory is one
    window and one piece.

    Args:
        function: ``(1, C, window * inputs)`` to ``(1, D, window * outputs)``.
        window: in positions.
        context: positions needed before and after one.
        inputs: input samples of a position.
        outputs: output samples of a position.
    """

    def __init__(
        self, function: Function, window: int, context: tuple[int, int], inputs: int, outputs: int
    ) -> None:
        self.function = function
        self.window = window
        self.before, self.after = context
        self.inputs = inputs
        self.outputs = outputs
        spans(1, window, *context)  # complains of a window that is too short
        self._held: Tensor | None = None  # input from position _start on
        self._start = 0
        self._next = 0  # where the next window starts
        self._done = 0  # positions given out
        self._finished = False

    def push(self, piece: Tensor) -> Tensor | None:
        """Add input ``(B, C, n)``, n from 0; the output ``(B, D, m)`` that is ready, or None.

        Raises:
            ValueError: after ``finish``, or for a piece of another number of axes, items or channels.
        """
        self._open()
        shape = piece.shape[:2] if self._held is None else self._held.shape[:2]
        if piece.ndim != 3 or piece.shape[:2] != shape:
            raise ValueError(
                f"stream: expected pieces ({', '.join(map(str, shape))}, n), got {tuple(piece.shape)}"
            )
        self._held = piece if self._held is None else torch.cat([self._held, piece], -1)
        parts = list(self._ready())
        self._forget()
        return torch.cat(parts, -1) if parts else None

    def finish(self) -> Tensor | None:
        """The rest, after padding; None for an empty stream.

        Raises:
            ValueError: if the stream is finished, or its length is no whole number of positions and cannot be padded.
        """
        self._open()
        self._finished = True
        if self._held is None or not self._held.shape[-1]:
            return None
        self._held = self.pad(self._held)
        parts = list(self._ready())
        total = self._whole
        if self._done < total:
            parts.append(self._run(max(total - self.window, 0), total, total))
        self._held = None
        return torch.cat(parts, -1) if parts else None

    def pad(self, held: Tensor) -> Tensor:
        """The end of the input ``(B, C, n)``, made a whole number of positions."""
        assert held.shape[-1] % self.inputs == 0
        return held

    def _open(self) -> None:
        if self._finished:
            raise ValueError("stream: it is finished; make a new one")

    @property
    def _whole(self) -> int:
        """Positions that have arrived whole."""
        assert self._held is not None
        return self._start + self._held.shape[-1] // self.inputs

    def _ready(self) -> Iterator[Tensor]:
        """Run the windows that are full."""
        while self._next + self.window <= self._whole:
            stop = self._next + self.window
            yield self._run(self._next, stop, stop - self.after)
            self._next += self.window - self.before - self.after

    def _forget(self) -> None:
        """Drop input that neither a window nor the mirror at the end will ask for."""
        assert self._held is not None
        keep = max(self._whole - self.window, self._start)
        self._held = fresh(self._held[..., (keep - self._start) * self.inputs :])
        self._start = keep

    def _run(self, start: int, stop: int, last: int) -> Tensor:
        """Run the window of positions start..stop; its output from the first that is missing up to ``last``."""
        assert self._held is not None
        low, high = ((at - self._start) * self.inputs for at in (start, stop))
        part = self._held[..., low:high]
        result = torch.cat([self.function(fresh(part[i : i + 1])) for i in range(len(part))])
        kept = result[..., (self._done - start) * self.outputs : (last - start) * self.outputs]
        self._done = last
        return kept


class EncodeStream(Stream):
    """``windows.encode_long`` of ``pad_to_grain(signal)``, from pieces of the signal.

    Args:
        backbone: with one axis.
        window: as for ``encode_long``.
        then: as for ``encode_long``.
        mode: how the end is padded; see ``pad_to_grain``.

    Raises:
        ValueError: for a backbone of more axes, a window that does not fit, or another mode.
    """

    def __init__(
        self,
        backbone: Backbone,
        window: Sequence[int] | None = None,
        then: Function | None = None,
        mode: str = "reflect",
    ) -> None:
        size = _one_axis(backbone, backbone.context, window)
        self.grain = backbone.grain
        self.mode = mode
        check_mode(mode)
        function = encode_function(backbone, then)
        super().__init__(function, size, backbone.context[0], backbone.hop[0], 1)

    def pad(self, held: Tensor) -> Tensor:
        """Mirror or zeros up to the next whole position."""
        return pad_to_grain(held, self.grain, self.mode)


class DecodeStream(Stream):
    """``windows.decode_long`` from pieces of the codes or features.

    Args:
        backbone: with one axis.
        window: as for ``decode_long``.
        first: as for ``decode_long``.

    Raises:
        ValueError: for a backbone of more axes, or a window that does not fit.
    """

    def __init__(
        self,
        backbone: Backbone,
        window: Sequence[int] | None = None,
        first: Function | None = None,
    ) -> None:
        size = _one_axis(backbone, backbone.decoder_context, window)
        function = decode_function(backbone, first)
        super().__init__(function, size, backbone.decoder_context[0], 1, backbone.hop[0])


def _one_axis(backbone: Backbone, context: Context, window: Sequence[int] | None) -> int:
    if len(backbone.hop) != 1:
        raise ValueError(
            f"stream: expected a backbone with one axis, {backbone.name!r} has hop {backbone.hop}"
        )
    return check_window(backbone, context, window)[0]
