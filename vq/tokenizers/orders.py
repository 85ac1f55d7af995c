"""Codes of several stages as one sequence for a language model, and exactly back.

A position has Q codes; a language model wants one token after another. The orders:

- ``flatten``: stage after stage, all of the first stage before the second (coarse first).
- ``interleave``: position after position, the Q codes of each in turn (the flattening pattern of MusicGen).
- ``delay``: as interleave, but stage q comes q positions late, with a padding token where nothing is (the delay pattern
  of MusicGen, Copet et al. 2023, arXiv 2306.05284): a model that predicts Q tokens at once sees the coarser codes of a
  position before it predicts its finer ones.

Each stage has its own range of token ids, after the special tokens: ``token = offset[q] + code``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.storage import check_codes, stored_rows

ORDERS = ("flatten", "interleave", "delay")
PAD, BEGIN, END = "pad", "begin", "end"


@dataclass(frozen=True)
class TokenOrder:
    """A way to write codes as one sequence.

    Args:
        spec: of the codes.
        order: one of ``ORDERS``. Codes that repeat (strides above 1) are written once; ``delay`` has none of them.
        special: names of special tokens, which get the ids 0, 1, ...: "begin" and "end" are put around a sequence,
            "pad" is what ``delay`` needs; others are the caller's.

    Raises:
        ValueError: for an unknown order, or one that does not go with the codes or special tokens.
    """

    spec: CodeSpec
    order: str = "interleave"
    special: Sequence[str] = ()
    offsets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        special = tuple(self.special)
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")
        if len(set(special)) != len(special):
            raise ValueError(f"special: expected different names, got {special}")
        if self.order == "delay" and PAD not in special:
            raise ValueError(f"special: the order delay needs the token 'pad', got {special}")
        if self.order == "delay" and max(self.spec.strides) > 1:
            raise ValueError(
                f"order: delay needs one code of each stage per position, got strides "
                f"{self.spec.strides}; use interleave"
            )
        ends = [len(special)]
        for entries in self.spec.entries:
            ends.append(ends[-1] + entries)
        if ends[-1] >= 2**62:
            raise ValueError(f"spec: {ends[-1]} token ids do not fit 64 bits; use fewer entries")
        object.__setattr__(self, "special", special)
        object.__setattr__(self, "offsets", tuple(ends[:-1]))

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self.special) + sum(self.spec.entries)

    def length(self, positions: int) -> int:
        """Tokens of a sequence of this many positions, special ones included."""
        around = (BEGIN in self.special) + (END in self.special)
        if self.order == "delay":
            stages = self.spec.codes_per_position
            return around + stages * (positions + stages - 1)
        return around + sum(-(-positions // stride) for stride in self.spec.strides)

    def special_id(self, name: str) -> int:
        """Token id of a special token.

        Raises:
            ValueError: if there is none of this name.
        """
        if name not in self.special:
            raise ValueError(f"special: no token {name!r}, there are {tuple(self.special)}")
        return tuple(self.special).index(name)

    def to_sequence(self, codes: Tensor) -> Tensor:
        """Tokens int64 ``(length,)`` of codes ``(Q, *spatial)``; spatial axes are read in row-major order.

        Raises:
            ValueError: for codes of another shape or out of range.
        """
        flat = self._flat(codes)
        stage, place = self._plan(flat.shape[1])
        real = stage >= 0
        tokens = torch.zeros_like(stage)
        if self.order == "delay":
            tokens.fill_(self.special_id(PAD))
        offsets = torch.tensor(self.offsets)
        tokens[real] = flat[stage[real], place[real]] + offsets[stage[real]]
        front = [self.special_id(BEGIN)] if BEGIN in self.special else []
        back = [self.special_id(END)] if END in self.special else []
        return torch.cat([torch.tensor(front).long(), tokens, torch.tensor(back).long()])

    def from_sequence(self, tokens: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Codes int64 ``(Q, *shape)`` of tokens ``(length,)``: the exact inverse.

        Args:
            tokens: as ``to_sequence`` gives them.
            shape: spatial shape; None for one axis as long as the sequence says (not possible where every stride is
                above 1).

        Raises:
            ValueError: for a wrong length, or a token that is not of its stage (with its place).
        """
        if tokens.ndim != 1 or tokens.is_floating_point():
            raise ValueError(
                f"tokens: expected integers (length,), got {tokens.dtype} {tuple(tokens.shape)}"
            )
        shape = (self._positions(len(tokens)),) if shape is None else tuple(shape)
        positions = int(torch.Size(shape).numel())
        if positions < 1 or self.length(positions) != len(tokens):
            raise ValueError(
                f"tokens: expected {self.length(positions)} for shape {shape}, got {len(tokens)}"
            )
        stage, place = self._plan(positions)
        begin = int(BEGIN in self.special)
        inner = tokens[begin : begin + len(stage)].long().cpu()
        self._check(tokens, inner, stage)
        real = stage >= 0
        codes = torch.zeros(len(self.offsets), positions, dtype=torch.int64)
        codes[stage[real], place[real]] = inner[real] - torch.tensor(self.offsets)[stage[real]]
        for q, stride in enumerate(self.spec.strides):
            codes[q] = codes[q, ::stride].repeat_interleave(stride)[:positions]
        return codes.reshape(-1, *shape)

    def _plan(self, positions: int) -> tuple[Tensor, Tensor]:
        """Stage and position of each token between begin and end; stage -1 is padding."""
        stages = self.spec.codes_per_position
        if self.order == "delay":
            stage = torch.arange(stages).repeat(positions + stages - 1)
            place = torch.arange(positions + stages - 1).repeat_interleave(stages) - stage
            outside = (place < 0) | (place >= positions)
            return stage.masked_fill(outside, -1), place.masked_fill(outside, 0)
        places = [torch.arange(0, positions, stride) for stride in self.spec.strides]
        stage = torch.cat([torch.full_like(row, q) for q, row in enumerate(places)])
        place = torch.cat(places)
        if self.order == "flatten":
            return stage, place
        order = torch.argsort(place * stages + stage)
        return stage[order], place[order]

    def _flat(self, codes: Tensor) -> Tensor:
        """Codes ``(Q, positions)``, checked."""
        check_codes(codes, self.spec)
        if max(self.spec.strides) > 1 and codes.ndim > 2:
            raise ValueError(f"codes: strides need one spatial axis, got {tuple(codes.shape)}")
        stored_rows(codes, self.spec)  # raises where a code does not repeat as it should
        return codes.reshape(codes.shape[0], -1).long().cpu()

    def _positions(self, length: int) -> int:
        """Positions of a sequence of this length.

        Raises:
            ValueError: if there is none, or more than one.
        """
        low, high = 1, max(length, 1) * max(self.spec.strides) + 1
        while low < high:  # length() never falls
            middle = (low + high) // 2
            low, high = (low, middle) if self.length(middle) >= length else (middle + 1, high)
        if self.length(low) != length:
            raise ValueError(f"tokens: no number of positions gives a sequence of {length}")
        if self.length(low + 1) == length:
            raise ValueError("shape: the length alone does not tell it with these strides; give it")
        return low

    def _check(self, tokens: Tensor, inner: Tensor, stage: Tensor) -> None:
        """Raise for a token that its place does not allow."""
        low = torch.tensor(self.offsets)[stage.clamp(min=0)]
        high = low + torch.tensor(self.spec.entries)[stage.clamp(min=0)]
        if self.order == "delay":
            pad = self.special_id(PAD)
            low = torch.where(stage < 0, pad, low)
            high = torch.where(stage < 0, pad + 1, high)
        wrong = (inner < low) | (inner >= high)
        if bool(wrong.any()):
            n = int(wrong.nonzero()[0])
            raise ValueError(
                f"tokens[{n + (BEGIN in self.special)}]: expected {int(low[n])} to "
                f"{int(high[n]) - 1} (stage {int(stage[n])}), got {int(inner[n])}"
            )
        for name, place in ((BEGIN, 0), (END, -1)):
            if name in self.special and int(tokens[place]) != self.special_id(name):
                raise ValueError(
                    f"tokens[{place}]: expected {name} ({self.special_id(name)}), "
                    f"got {int(tokens[place])}"
                )
