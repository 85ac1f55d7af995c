"""Trellis encoding on a GPU: one program runs both Viterbi passes of one sequence.

The lanes of a program are groups of states (the states that share their last ``memory - step_bits`` bits).
All numbers are integers, so codes equal the reference's bit for bit. Path costs lie in two rows of scratch
memory, one read while the other is written, with a barrier after each step: a row is at most 64 KiB and stays
in the processor's own cache. Back-pointers are packed: a byte holds those of the groups
``lane, lane + width, lane + 2 width, ...``, so that packing moves nothing between lanes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels import trellis_reference as reference

_SCRATCH = 256 << 20  # bytes of back-pointers and costs at once
_MOST_PROGRAMS = 4096
_LIMIT = tl.constexpr(65535)  # costs are unsigned 16-bit sums that saturate
_HALF = tl.constexpr(32768)  # what a stored cost is moved by, to fit int16
_HUGE = tl.constexpr(2147483647)


def encode(x: Tensor, table: Tensor, step_bits: int, memory: int) -> Tensor:
    """Operation ``trellis_encode``: codes ``(n, steps)`` uint8, those of the reference.

    Args:
        x: ``(n, length)`` float32.
        table: ``(2**memory, symbols)`` float32.
        step_bits: bits of one step.
        memory: bits of one state.
    """
    symbols = table.shape[1]
    steps = x.shape[1] // symbols
    groups = 1 << (memory - step_bits)
    if steps * shape_of(step_bits, groups)[1] >= 1 << 31:  # offsets in a sequence are 32 bits
        return reference.encode(x, table, step_bits, memory)
    codes = torch.empty((len(x), steps), dtype=torch.uint8, device=x.device)
    if len(x):
        values = reference._fixed(x).contiguous()
        _launch(values, pack_table(table), codes, step_bits, groups, symbols)
    return codes


def _launch(
    values: Tensor, packed: Tensor, codes: Tensor, step_bits: int, groups: int, symbols: int
) -> None:
    """Fill ``codes``, as many sequences at once as scratch memory allows."""
    count, steps = codes.shape
    fields, width, block, warps = shape_of(step_bits, groups)
    programs = min(_SCRATCH // (steps * width + 4 * groups) or 1, _MOST_PROGRAMS, count)
    back = torch.empty((programs, steps * width), dtype=torch.uint8, device=codes.device)
    costs = torch.empty((programs, 2 * groups), dtype=torch.int16, device=codes.device)
    with torch.cuda.device_of(codes):
        for start in range(0, count, programs):
            part = slice(start, start + programs)
            viterbi_kernel[(len(codes[part]),)](
                values[part],
                packed,
                codes[part],
                costs,
                back,
                steps,
                BITS=step_bits,
                GROUPS=groups,
                SYMBOLS=symbols,
                FIELDS=fields,
                BLOCK=block,
                UNROLL=min(8, 1 << step_bits),
                num_warps=warps,
                num_stages=1,
                enable_fp_fusion=True,  # said, so that Triton does not warn; the kernel has integers only
            )


def shape_of(step_bits: int, groups: int) -> tuple[int, int, int, int]:
    """Back-pointers in a byte, bytes of a step, lanes of a block, warps.

    Few groups are not packed down to less than 32 lanes: there is nothing to save.

    Args:
        step_bits: bits of a back-pointer.
        groups: of states, a power of two.
    """
    fields = 1 << ((8 // step_bits).bit_length() - 1)
    fields = min(fields, max(1, groups // 32))
    width = groups // fields
    block = min(width, 512)  # divides the width: both are powers of two
    return fields, width, block, max(1, min(8, block // 32))


def pack_table(table: Tensor) -> Tensor:
    """Fixed-point values of each state: int16 ``(states,)``, or two of them in an int32."""
    fixed = reference._fixed(table)
    if fixed.shape[1] == 1:
        return fixed[:, 0].to(torch.int16).contiguous()
    return ((fixed[:, 1] << 16) | (fixed[:, 0] & 0xFFFF)).contiguous()


@triton.jit
def _forward(
    x, table, costs, back, steps, turned,
    BITS: tl.constexpr, GROUPS: tl.constexpr, SYMBOLS: tl.constexpr,
    FIELDS: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """All steps of one pass from step ``turned`` on; step ``i`` reads row ``i % 2`` of the costs, writes the other.

    The smallest ``cost * 256 + branch`` is the cheapest predecessor, the lowest one among equals.
    """
    WIDTH: tl.constexpr = GROUPS // FIELDS
    floor = 0
    for step in range(0, steps):
        place = step + turned
        place = tl.where(place >= steps, place - steps, place) * SYMBOLS
        first = tl.load(x + place)
        second = tl.load(x + place + SYMBOLS - 1)
        source = costs + (step % 2) * GROUPS
        target = costs + (1 - step % 2) * GROUPS
        lowest = tl.full([BLOCK], _HUGE, tl.int32)
        for start in range(0, WIDTH, BLOCK):
            lane = start + tl.arange(0, BLOCK)
            inside = lane < WIDTH
            byte = tl.full([BLOCK], 0, tl.int32)
            for field in tl.static_range(FIELDS):
                group = lane + field * WIDTH
                key = tl.full([BLOCK], _HUGE, tl.int32)
                for branch in tl.range(0, 1 << BITS, loop_unroll_factor=UNROLL):
                    state = branch * GROUPS + group
                    entry = tl.load(table + state, mask=inside, other=0).to(tl.int32)
                    cost = tl.load(source + (state >> BITS), mask=inside, other=0).to(tl.int32)
                    apart = first - ((entry << 16) >> 16)
                    apart = tl.minimum(tl.maximum(apart, -32768), 32767)
                    cost += ((apart * apart + 16384) >> 15) + _HALF
                    if SYMBOLS == 2:
                        apart = tl.minimum(tl.maximum(second - (entry >> 16), -32768), 32767)
                        cost += (apart * apart + 16384) >> 15
                    key = tl.minimum(key, tl.minimum(cost, _LIMIT) * 256 + branch)
                cost = (key >> 8) - floor
                tl.store(target + group, (cost - _HALF).to(tl.int16), mask=inside)
                lowest = tl.minimum(lowest, cost)
                byte = byte | ((key & 255) << (field * BITS))
            tl.store(back + step * WIDTH + lane, byte.to(tl.uint8), mask=inside)
        floor = tl.min(lowest, axis=0)
        tl.debug_barrier()  # the row just written is read in the next step


@triton.jit
def _begin(costs, seam, free, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """First row of costs: nothing anywhere, or nothing at the seam and the limit elsewhere."""
    for start in range(0, GROUPS, BLOCK):
        group = start + tl.arange(0, BLOCK)
        cost = tl.where((group == seam) | (free > 0), 0, _LIMIT)
        tl.store(costs + group, (cost - _HALF).to(tl.int16), mask=group < GROUPS)


@triton.jit
def _cheapest(costs, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Group of the lowest cost, the lowest among equals; cost and group fit 31 bits together."""
    low = tl.full([BLOCK], _HUGE, tl.int32)
    for start in range(0, GROUPS, BLOCK):
        group = start + tl.arange(0, BLOCK)
        cost = tl.load(costs + group, mask=group < GROUPS, other=32767).to(tl.int32) + _HALF
        low = tl.minimum(low, cost * GROUPS + group)
    return tl.min(low, axis=0) % GROUPS


@triton.jit
def viterbi_kernel(
    x, table, codes, costs, back, steps,
    BITS: tl.constexpr, GROUPS: tl.constexpr, SYMBOLS: tl.constexpr,
    FIELDS: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Codes of sequence ``program_id``: a pass over the sequence turned by half, then one tied to its seam."""
    WIDTH: tl.constexpr = GROUPS // FIELDS
    program = tl.program_id(0).to(tl.int64)
    x += program * steps * SYMBOLS
    codes += program * steps
    costs += program * (2 * GROUPS)
    back += program * steps * WIDTH
    shift = steps // 2
    seam = 0
    for turn in range(2):
        free = 1 - turn
        tl.debug_barrier()  # nobody still reads what the pass before wrote
        _begin(costs, seam, free, GROUPS, BLOCK)
        tl.debug_barrier()
        _forward(
            x, table, costs, back, steps, shift * free, BITS, GROUPS, SYMBOLS, FIELDS, BLOCK, UNROLL
        )
        end = _cheapest(costs + (steps % 2) * GROUPS, GROUPS, BLOCK)
        group = tl.where(free > 0, end, seam)
        for walked in range(0, tl.where(free > 0, shift, steps)):
            step = steps - 1 - walked
            byte = tl.load(back + step * WIDTH + group % WIDTH).to(tl.int32)
            branch = (byte >> (group // WIDTH * BITS)) & ((1 << BITS) - 1)
            tl.store(codes + step, branch.to(tl.uint8), mask=free == 0)
            group = (branch * GROUPS + group) >> BITS
        seam = group
