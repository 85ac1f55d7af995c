"""Training of the trellis tables we ship: ``python -m vq.codebooks.train_tables``.

A table starts as normal quantiles in the order of a multiplicative hash, state s taking quantile
``(s * C mod 2**memory)``, with the best of many constants C; Lloyd's algorithm on fresh N(0, 1) blocks
improves it. Every file holds the table in float16 and how it was made; the same command makes the same
table again.
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

from vq.codebooks import build
from vq.codebooks.search_hash import blocks, measure
from vq.codebooks.trellis_codes import table_name
from vq.codebooks.trellis_fit import centroids, start_table, sums_of_states


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

    bits: float
    memory: int
    count: int = 3000
    draws: int = 2000
    iterations: int = 40
    held_out: int = 3000

    @property
    def spec(self) -> str:
        """Text of the codebook the table belongs to."""
        return f"trellis(bits={self.bits:g}, memory={self.memory}, code=lut)"

    @property
    def symbols(self) -> int:
        """Values of a step: 2 where the rate is fractional."""
        return 1 if self.bits == int(self.bits) else 2

    @property
    def step_bits(self) -> int:
        """Bits of a step."""
        return int(self.bits * self.symbols)


PLANS = (
    Plan(2, 6),
    Plan(2, 7),
    Plan(2, 8),
    Plan(2, 9),
    Plan(2, 10),
    Plan(2, 11),
    Plan(1, 12),
    Plan(1.5, 12),
    Plan(2, 12),
    Plan(2.5, 12),
    Plan(3, 12),
    Plan(3.5, 12),
    Plan(4, 12),
    Plan(5, 12),
    Plan(2, 13, count=3000, draws=1000, iterations=30),
    Plan(2, 14, count=3000, draws=1000, iterations=30),
    Plan(2, 15, count=2400, draws=400, iterations=16, held_out=1000),
    Plan(2, 16, count=2400, draws=400, iterations=16, held_out=1000),
)


def normal_levels(memory: int, bits: float) -> Tensor:
    """As many normal quantiles as states, ``(2**memory,)``, at the power of the best reproduction."""
    size, normal = 1 << memory, NormalDist()
    levels = torch.tensor([normal.inv_cdf((i + 0.5) / size) for i in range(size)])
    return levels * (1 - 0.25**bits) ** 0.5


def train(plan: Plan, seed: int) -> tuple[Tensor, dict[str, str]]:
    """A table and what to say about it.

    Lloyd's algorithm with fresh blocks in every iteration; in the second half the sums of earlier
    iterations are kept with a weight that decays, which averages the sampling noise away.
    """
    generator = torch.Generator().manual_seed(seed)
    levels = normal_levels(plan.memory, plan.bits)
    some = blocks(400, seed)
    table = start_table(
        levels, some, plan.step_bits, plan.symbols, draws=plan.draws, generator=generator
    )
    sums = torch.zeros(table.shape, dtype=torch.float64)
    counts = sums.clone()
    for iteration in tqdm(range(plan.iterations), desc=plan.spec, leave=False):
        x = blocks(plan.count, seed=1_000_000 * (seed + 1) + iteration)
        kept = 0.0 if iteration < plan.iterations // 2 else 0.85
        found = sums_of_states(x, table, plan.step_bits, plan.memory)
        sums, counts = kept * sums + found[0], kept * counts + found[1]
        table = centroids(sums, counts, table, prior=1.0)
    table = table.half()
    mse = measure(
        blocks(plan.held_out, seed=77_000 + seed), table.float(), plan.step_bits, plan.memory
    )
    return table, {
        "spec": plan.spec,
        "seed": str(seed),
        "iterations": str(plan.iterations),
        "blocks": str(plan.count),
        "draws": str(plan.draws),
        "mse": f"{mse:.5f}",
        "command": "python -m vq.codebooks.train_tables "
        f"--bits {plan.bits:g} --memory {plan.memory} --seed {seed}",
    }


GOLDEN = (
    *(f"trellis(bits=2, memory={memory}, code=hash)" for memory in (10, 12, 14, 16)),
    *(f"trellis(bits={bits}, memory=12, code=hash)" for bits in (1, 1.5, 3, 4)),
    *(plan.spec for plan in PLANS if plan.memory <= 12),
    *(
        f"trellis(bits=2, memory=12, code={code})"
        for code in ("mad1", "inst3", "mcg", "mul1", "hybrid", "random")
    ),
    "trellis(bits=1.5, memory=8, code=hybrid)",
)

GOLDEN_SHORT = tuple(
    f"trellis(bits={bits}, memory={memory}, code=hash, levels={levels})"
    for levels in (16, 32)
    for bits, memory in ((2, 12), (2, 14), (2, 16), (1, 12), (3, 12), (4, 12))
)


def save_golden(path: Path, specs: tuple[str, ...]) -> None:
    """Inputs, codes, packed bytes and values of the shipped specs, for tests."""
    x = blocks(2, seed=31_415)
    x[0, 7], x[1, 200] = 9.0, -40.0  # beyond what 16 bits hold
    found = {"inputs": x}
    for spec in specs:
        codebook = build(spec)
        codes = codebook.encode(x)
        found[f"{spec} codes"] = codes
        found[f"{spec} packed"] = codebook.pack(codes).payload
        found[f"{spec} values"] = codebook.decode(codes)
    save_file(found, path)


def main() -> None:
    """Train the tables asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=float, help="only tables of this rate")
    parser.add_argument("--memory", type=int, help="only tables of this memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    parser.add_argument("--golden", action="store_true", help="only write the vectors for tests")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of float sums, and so the last bits, depends on threads
    if args.golden:
        save_golden(args.out / "golden-trellis.safetensors", GOLDEN)
        save_golden(args.out / "golden-trellis-short.safetensors", GOLDEN_SHORT)
        return
    for plan in PLANS:
        if args.bits not in (None, plan.bits) or args.memory not in (None, plan.memory):
            continue
        begun = time.monotonic()
        table, about = train(plan, args.seed)
        path = args.out / table_name(plan.bits, plan.memory, plan.symbols)
        save_file({"table": table.contiguous()}, path, metadata=about)
        tqdm.write(f"{plan.spec}: mse {about['mse']}, {time.monotonic() - begun:.0f} s, {path}")


if __name__ == "__main__":
    main()
