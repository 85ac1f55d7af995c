"""Training of the trellis tables we ship: ``python -m vq.codebooks.train_tables``.

A table starts as normal quantiles in the order of a multiplicative hash, state s taking quantile
``(s * C mod 2**memory)``, with the best of many constants C; Lloyd's algorithm on fresh N(0, 1) blocks
improves it. Every file holds the table in float16 and how it was made.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vq.codebooks.search_hash import blocks, measure
from vq.codebooks.trellis_codes import table_name
from vq.codebooks.trellis_fit import centroids, sums_of_states


@dataclass(frozen=True)
class Plan:
    """One table to train.

    Attributes:
        bits: rate.
        memory: bits of a state.
        count: blocks of one iteration.
        draws: constants to choose the start from.
        iterations: of Lloyd's algorithm.
        held_out: blocks that measure the result.
    """

    bits: int
    memory: int
    count: int = 3000
    draws: int = 2000
    iterations: int = 40
    held_out: int = 3000

    @property
    def spec(self) -> str:
        """Text of the codebook the table belongs to."""
        return f"trellis(bits={self.bits}, memory={self.memory}, code=lut)"


PLANS = (
    Plan(2, 6),
    Plan(2, 8),
    Plan(2, 10),
    Plan(1, 12),
    Plan(2, 12),
    Plan(3, 12),
    Plan(4, 12),
    Plan(2, 14, count=3000, draws=1000, iterations=30),
    Plan(2, 16, count=2400, draws=400, iterations=16, held_out=1000),
)


def quantile_table(memory: int, constant: int, scale: float) -> Tensor:
    """Normal quantiles in the order of a multiplicative hash, ``(2**memory, 1)`` float32."""
    size = 1 << memory
    normal = NormalDist()
    levels = torch.tensor([normal.inv_cdf((i + 0.5) / size) for i in range(size)])
    return levels[(torch.arange(size) * constant) % size].unsqueeze(1).float() * scale


def start_table(plan: Plan, seed: int) -> tuple[Tensor, int]:
    """The quantile table of the best constant, found by halving: few blocks for many first."""
    sorted_levels = quantile_table(plan.memory, 1, 1.0)
    size, scale = 1 << plan.memory, (1 - 0.25**plan.bits) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    found = (torch.randperm(size // 2, generator=generator)[: plan.draws] * 2 + 1).tolist()
    for count, keep in ((16, max(20, plan.draws // 10)), (80, 20), (400, 1)):
        x = blocks(count, seed=seed + count)
        scores = []
        for constant in tqdm(found, desc=f"{plan.spec}: constants on {count} blocks", leave=False):
            table = sorted_levels[(torch.arange(size) * constant) % size] * scale
            scores.append((measure(x, table, plan.bits, plan.memory), constant))
        found = [constant for _, constant in sorted(scores)[:keep]]
    return quantile_table(plan.memory, found[0], scale), found[0]


def train(plan: Plan, seed: int) -> tuple[Tensor, dict[str, str]]:
    """A table and what to say about it.

    Lloyd's algorithm with fresh blocks in every iteration; in the second half the sums of earlier
    iterations are kept with a weight that decays, which averages the sampling noise away.
    """
    table, constant = start_table(plan, seed)
    sums = torch.zeros(table.shape, dtype=torch.float64)
    counts = sums.clone()
    for iteration in tqdm(range(plan.iterations), desc=plan.spec, leave=False):
        x = blocks(plan.count, seed=1_000_000 * (seed + 1) + iteration)
        kept = 0.0 if iteration < plan.iterations // 2 else 0.85
        found = sums_of_states(x, table, plan.bits, plan.memory)
        sums, counts = kept * sums + found[0], kept * counts + found[1]
        table = centroids(sums, counts, table, prior=1.0)
    table = table.half()
    mse = measure(blocks(plan.held_out, seed=77_000 + seed), table.float(), plan.bits, plan.memory)
    return table, {
        "spec": plan.spec,
        "seed": str(seed),
        "iterations": str(plan.iterations),
        "blocks": str(plan.count),
        "constant": str(constant),
        "mse": f"{mse:.5f}",
        "command": "python -m vq.codebooks.train_tables "
        f"--bits {plan.bits} --memory {plan.memory} --seed {seed}",
    }


def main() -> None:
    """Train the tables asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, help="only tables of this rate")
    parser.add_argument("--memory", type=int, help="only tables of this memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    args = parser.parse_args()
    for plan in PLANS:
        if args.bits not in (None, plan.bits) or args.memory not in (None, plan.memory):
            continue
        begun = time.monotonic()
        table, about = train(plan, args.seed)
        path = args.out / table_name(plan.bits, plan.memory, 1)
        save_file({"table": table.contiguous()}, path, metadata=about)
        tqdm.write(f"{plan.spec}: mse {about['mse']}, {time.monotonic() - begun:.0f} s, {path}")


if __name__ == "__main__":
    main()
