"""The trellis operations in plain torch: what the compiled kernels must equal, code for code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNIT = 8192  # fixed point of values: 16 bits reach to 4 units
_LIMIT = 65535  # costs are unsigned 16-bit sums that saturate
_CHUNK = 1 << 22  # states x sequences held at once
_Forward = Callable[[int, Tensor], tuple[Tensor, Tensor]]


def trellis_states(codes: Tensor, step_bits: int, memory: int) -> Tensor:
    """State of each step, the window of ``memory`` bits of the circular stream that begins there.

    Args:
        codes: ``(n, steps)`` integers.
        step_bits: bits of one step.
        memory: bits of one state.

    Returns:
        ``(n, steps)`` int64.
    """
    ahead = -(-memory // step_bits)
    wide = codes.long()
    window = torch.zeros_like(wide)
    for j in range(ahead):
        window = (window << step_bits) | wide.roll(-j, dims=1)
    return window >> (ahead * step_bits - memory)


def _fixed(values: Tensor) -> Tensor:
    """Values in fixed point, int32; ties to even, saturating."""
    return (values.float() * UNIT).clamp(-32767, 32767).round().to(torch.int32)


def _forward(x: Tensor, table: Tensor, start: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Best predecessor of each group ``(steps, n, groups)`` and the last minima ``(n, groups)``."""
    branches, groups = 1 << bits, start.shape[1]
    order = torch.arange(branches, dtype=torch.int32, device=x.device).unsqueeze(1)
    minima, floor, chosen = start, torch.zeros_like(start[:, :1]), []
    for now in x.unbind(1):
        apart = (now.unsqueeze(1) - table).clamp(-32768, 32767)
        error = ((apart * apart + (1 << 14)) >> 15).sum(-1, dtype=torch.int32)
        cost = (minima.repeat_interleave(branches, 1) + error).clamp(max=_LIMIT)
        best = (cost.view(-1, branches, groups) * 256 + order).amin(1)  # ties: lowest predecessor
        chosen.append((best & 255).to(torch.uint8))
        minima = (best >> 8) - floor
        floor = minima.amin(1, keepdim=True)
    return torch.stack(chosen), minima


def _forward_weighted(
    both: Tensor, table: Tensor, start: Tensor, bits: int
) -> tuple[Tensor, Tensor]:
    """``_forward`` of values and weights ``(n, 2, steps, symbols)`` in float32, one rounding an operation."""
    branches, groups = 1 << bits, start.shape[1]
    order = torch.arange(branches, device=both.device).unsqueeze(1)
    minima, chosen = start, []
    for step in both.unbind(2):
        now, weight = step.unsqueeze(2).unbind(1)
        apart = now - table
        parts = (weight * (apart * apart)).unbind(-1)
        error = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        cost = (minima.repeat_interleave(branches, 1) + error).view(-1, branches, groups)
        minima = cost.amin(1)
        lowest = torch.where(cost == minima.unsqueeze(1), order, branches)
        chosen.append(lowest.amin(1).to(torch.uint8))
    return torch.stack(chosen), minima


def _trace(chosen: Tensor, group: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Walk back from ``group`` ``(n,)``: codes ``(n, steps)`` and the group before them."""
    groups, codes = chosen.shape[2], []
    for table in chosen.flip(0).unbind(0):
        code = table.gather(1, group.unsqueeze(1)).squeeze(1)
        codes.append(code)
        group = (code.long() * groups + group) >> bits
    return torch.stack(codes[::-1], 1), group


def _first_least(values: Tensor) -> Tensor:
    """Index of the smallest number along the last axis, the lowest where several are."""
    index = torch.arange(values.shape[-1], device=values.device)
    least = values == values.amin(-1, keepdim=True)
    return torch.where(least, index, values.shape[-1]).amin(-1)


def _two_passes(forward: _Forward, free: Tensor, shut: float, steps: int, bits: int) -> Tensor:
    """Codes ``(n, steps)``: an open pass finds the group at the seam, the second starts and ends in it.

    Args:
        forward: backpointers and last minima of the sequence turned by a number of steps, from minima to start with.
        free: ``(n, groups)`` zeros.
        shut: cost of a group that must not be started in.
        steps: of the sequence.
        bits: of a step.
    """
    shift = steps // 2
    chosen, minima = forward(shift, free)
    end = _first_least(minima)
    _, seam = _trace(chosen[steps - shift :], end, bits) if shift else (None, end)
    start = torch.full_like(free, shut).scatter_(1, seam.unsqueeze(1), 0)
    chosen, _ = forward(0, start)
    return _trace(chosen, seam, bits)[0]


def encode(x: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Operation ``trellis_encode``: codes ``(n, steps)`` uint8."""
    n, symbols = x.shape[0], table.shape[1]
    steps, groups, fixed = x.shape[1] // symbols, 1 << (memory - step_bits), _fixed(table)

    def part(chunk: Tensor) -> Tensor:
        free = torch.zeros(len(chunk), groups, dtype=torch.int32, device=x.device)
        return _two_passes(
            lambda turn, start: _forward(chunk.roll(-turn, 1), fixed, start, step_bits),
            free,
            _LIMIT,
            steps,
            step_bits,
        )

    parts = [part(c) for c in _fixed(x).reshape(n, steps, symbols).split(_chunk(memory))]
    return torch.cat(parts) if n else x.new_empty((0, steps)).byte()


def encode_weighted(
    x: Tensor, weight: Tensor, table: Tensor, step_bits: int, memory: int
) -> Tensor:
    """Operation ``trellis_encode_weighted``: codes ``(n, steps)`` uint8."""
    n, symbols = x.shape[0], table.shape[1]
    steps, groups = x.shape[1] // symbols, 1 << (memory - step_bits)
    both = torch.stack([x, weight], 1).reshape(n, 2, steps, symbols)

    def part(chunk: Tensor) -> Tensor:
        return _two_passes(
            lambda turn, start: _forward_weighted(chunk.roll(-turn, 2), table, start, step_bits),
            x.new_zeros(len(chunk), groups),
            float("inf"),
            steps,
            step_bits,
        )

    parts = [part(c) for c in both.split(_chunk(memory))]
    return torch.cat(parts) if n else x.new_empty((0, steps)).byte()


def _chunk(memory: int) -> int:
    return max(1, _CHUNK >> memory)


def decode(codes: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Operation ``trellis_decode``: values ``(n, steps * symbols)``."""
    return table[trellis_states(codes, step_bits, memory)].reshape(codes.shape[0], -1)


def pack(codes: Tensor, step_bits: int) -> Tensor:
    """Operation ``trellis_pack``: bytes ``(n, steps * step_bits / 8)``."""
    n = codes.shape[0]
    places = torch.arange(step_bits - 1, -1, -1, device=codes.device)
    bits = ((codes.long().unsqueeze(-1) >> places) & 1).reshape(n, -1, 8)
    weights = 1 << torch.arange(7, -1, -1, device=codes.device)
    return (bits * weights).sum(-1).reshape(n, -1, 8).flip(-1).reshape(n, -1).to(torch.uint8)


def unpack(stream: Tensor, step_bits: int) -> Tensor:
    """Operation ``trellis_unpack``: codes ``(n, bytes * 8 / step_bits)``."""
    n = stream.shape[0]
    octets = stream.reshape(n, -1, 8).flip(-1).reshape(n, -1).long()
    bits = (octets.unsqueeze(-1) >> torch.arange(7, -1, -1, device=stream.device)) & 1
    weights = 1 << torch.arange(step_bits - 1, -1, -1, device=stream.device)
    return (bits.reshape(n, stream.shape[1] * 8 // step_bits, step_bits) * weights).sum(-1).byte()
