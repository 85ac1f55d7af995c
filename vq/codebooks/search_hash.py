"""Search of the hash code's constants and levels: ``python -m vq.codebooks.search_hash``.

Writes ``codebooks/trellis-hash.json``, with ``--levels 16`` or ``32`` that of the short forms. First the levels, shared
by all rates, are trained on 2-bit codes of several memories (Lloyd's algorithm with one centroid a level); then odd
16-bit constants are drawn at random for every rate and memory, screened on few blocks and the best compared on more.
The short forms take their candidates from the constants found for 64 levels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import NormalDist

import torch
from torch import Tensor
from tqdm import tqdm

from vq.codebooks.trellis_codes import HASH_COUNTS, HASH_FILES, hash_code, hash_indices
from vq.kernels.trellis import trellis_decode, trellis_encode, trellis_states

RATES = (2, 1, 1.5, 2.5, 3, 3.5, 4)
TRAINED_ON = (10, 12, 14, 16)  # memories whose 2-bit codes shape the levels
PEAK = 125  # largest of 64 integer levels: sums of two products with 127 fit 16 bits
SHORT_PEAK = 63  # of 16 or 32, all odd: as bytes (level + 63) / 2 sums of four products fit 16 bits
SHORT_MEMORIES = (12, 14, 16)
SHORT_RATES = (1, 2, 3, 4)


def first_levels(count: int = 64) -> Tensor:
    """Normal quantiles at unit rms, float64 ``(64,)``: fewer than 64 are repeated."""
    levels = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    wide = torch.tensor(levels, dtype=torch.float64)
    return (wide / wide.square().mean().sqrt()).repeat(64 // count)


def integers(levels: Tensor, count: int) -> tuple[Tensor, float]:
    """Trained levels as integers (odd ones for the short forms) and the step they are multiples of."""
    peak = float(levels.max())
    if count == 64:
        step = peak / PEAK
        return (levels / step).round(), step
    step = peak / SHORT_PEAK
    return ((levels / step + SHORT_PEAK) / 2).round() * 2 - SHORT_PEAK, step


def blocks(count: int, seed: int) -> Tensor:
    """N(0, 1) blocks ``(count, 256)`` at unit power."""
    x = torch.randn(count, 256, generator=torch.Generator().manual_seed(seed))
    return x / x.square().mean().sqrt()


def measure(x: Tensor, table: Tensor, step_bits: int, memory: int) -> float:
    """Mean squared error of ``x`` coded with ``table``, over the power of ``x``."""
    codes = trellis_encode(x, table, step_bits, memory)
    error = trellis_decode(codes, table, step_bits, memory) - x
    return float(error.double().square().mean() / x.double().square().mean())


def rank(constants: list[int], levels: Tensor, bits: float, memory: int, count: int) -> list[int]:
    """Constants from the best to the worst on ``count`` blocks of their own."""
    x = blocks(count, seed=count + memory)
    scores = []
    for constant in constants:
        table = levels[hash_indices(memory, constant)].float()
        scores.append((measure(x, table, int(2 * bits), memory), constant))
    return [constant for _, constant in sorted(scores)]


def search(levels: Tensor, bits: float, memory: int, known: list[int], draws: int) -> list[int]:
    """The best of ``draws`` random constants and the ``known``, by halving: few blocks for many first."""
    generator = torch.Generator().manual_seed(memory)
    odd = torch.randperm(1 << 15, generator=generator)[:draws] * 2 + 1
    found = list(dict.fromkeys([*known, *odd.tolist()]))
    for count, keep in ((16, draws // 10), (64, 60), (300, 12)):
        found = rank(found, levels, bits, memory, count)[: max(keep, 12)]
    best = rank(found[:6], levels, bits, memory, 1200 if memory < 15 else 600)
    return best + found[6:]


def level_sums(x: Tensor, indices: Tensor, levels: Tensor, memory: int) -> tuple[Tensor, Tensor]:
    """For each level the sum of the values coded with it and their number, per value of ``x``."""
    table = levels[indices].float()
    states = trellis_states(trellis_encode(x, table, 4, memory), 4, memory)
    used = indices[states].reshape(-1)
    sums = torch.bincount(used, x.reshape(-1).double(), 64)
    return sums / x.numel(), torch.bincount(used, minlength=64).double() / x.numel()


def train_levels(
    constants: dict[int, list[int]], levels: Tensor, rounds: int, count: int = 64
) -> Tensor:
    """Levels fitted to all the codes at once, kept odd-symmetric."""
    for _ in tqdm(range(rounds), desc="levels"):
        total, number = torch.zeros(64).double(), torch.zeros(64).double()
        for memory, chosen in constants.items():
            for place, constant in enumerate(chosen):
                x = blocks(800 if memory < 15 else 150, seed=1000 + 10 * memory + place)
                found = level_sums(x, hash_indices(memory, constant), levels, memory)
                total, number = total + found[0], number + found[1]
        mean = total.reshape(-1, count).sum(0) / number.reshape(-1, count).sum(0)
        levels = ((mean - mean.flip(0)) / 2).repeat(64 // count)
    return levels


def finish(
    constant: int, whole: Tensor, step: float, bits: float, memory: int, share: float = 1.0
) -> dict[str, float]:
    """Fit the step of a constant, and measure the distortion on fresh sequences (a share of the usual number)."""
    width = int(2 * bits)
    integer = whole[hash_indices(memory, constant)].float()
    x = blocks(int(300 * share), seed=2000 + memory)
    for _ in range(4):
        codes = trellis_encode(x, integer * step, width, memory)
        values = trellis_decode(codes, integer, width, memory).double()
        step = float((values * x).sum() / values.square().sum())
    step = round(step, 6)
    held_out = blocks(int((3000 if memory < 15 else 1000) * share), seed=3000 + memory)
    mse = measure(held_out, integer * step, width, memory)
    return {"constant": constant, "step": step, "distortion": round(mse, 5)}


def draws_for(memory: int, draws: int) -> int:
    """Fewer constants where encoding is slow."""
    return max(100, draws >> max(0, memory - 13))


def search_levels(draws: int) -> tuple[Tensor, dict[int, list[int]]]:
    """Levels, and the constants they were trained with."""
    levels, best = first_levels(), dict[int, list[int]]()
    for rounds in (6, 4):
        for memory in tqdm(TRAINED_ON, desc="constants"):
            some = draws_for(memory, draws) // 2
            best[memory] = search(levels, 2, memory, best.get(memory, []), some)
        levels = train_levels({m: found[:3] for m, found in best.items()}, levels, rounds)
    return levels, best


def whole_search(draws: int) -> dict[str, object]:
    """The file of the form of 64 levels."""
    levels, best = search_levels(draws)
    whole, step = integers(levels, 64)
    codes = {}
    for bits in RATES:
        for memory in range(6, 17):
            if memory <= 2 * bits:
                continue
            count = draws_for(memory, draws) if bits == 2 else 100
            found = search(whole * step, bits, memory, best.get(memory, []), count)
            if bits == 2:
                best[memory] = found
            name = f"bits={bits:g}, memory={memory}"
            codes[name] = finish(found[0], whole, step, bits, memory)
            tqdm.write(f"{name}: {codes[name]}")
    command = f"python -m vq.codebooks.search_hash --draws {draws}"
    return {"command": command, "levels": whole.int().tolist(), "codes": codes}


def short_search(count: int) -> dict[str, object]:
    """The file of a form of fewer levels: levels anew, constants among those of 64 levels."""
    known = {m: [hash_code(bits, m).constant for bits in RATES] for m in SHORT_MEMORIES}
    trained = {m: known[m][:2] for m in SHORT_MEMORIES[:2]}
    levels = train_levels(trained, first_levels(count), 5, count)
    whole, step = integers(levels, count)
    every = list(dict.fromkeys(constant for found in known.values() for constant in found))
    codes = {}
    for bits in SHORT_RATES:
        for memory in SHORT_MEMORIES if bits <= 2 else SHORT_MEMORIES[:2]:
            few = rank(every, whole * step, bits, memory, 32)[:5]
            best = rank(few, whole * step, bits, memory, 160)[0]
            name = f"bits={bits:g}, memory={memory}"
            codes[name] = finish(best, whole, step, bits, memory, share=0.4)
            tqdm.write(f"{name}: {codes[name]}")
    command = f"python -m vq.codebooks.search_hash --levels {count}"
    return {"command": command, "levels": whole.int().tolist()[:count], "codes": codes}


def main() -> None:
    """Search everything and write the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    parser.add_argument("--draws", type=int, default=8000, help="random constants for 2 bits")
    parser.add_argument("--levels", type=int, default=64, choices=HASH_COUNTS)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of float sums, and so the last bits, depends on threads
    data = whole_search(args.draws) if args.levels == 64 else short_search(args.levels)
    (args.out / HASH_FILES[args.levels]).write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
