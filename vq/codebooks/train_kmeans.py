"""Training of the k-means tables we ship: ``python -m vq.codebooks.train_kmeans``.

Lloyd's algorithm on N(0, I), from several starts; the best goes on over fresh points, with the sums of earlier
iterations kept at a weight that decays, which averages the sampling noise away. The table is stored in
float16, its rows in order of their density. The same command makes the same table again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vq.codebooks import lloyd
from vq.codebooks.kmeans import table_name
from vq.kernels.lloyd import CellSums, cell_sums
from vq.kernels.search import nearest

_HELD_OUT = 1 << 23  # numbers that measure the result
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Plan:
    """One table to train.

    Attributes:
        dim: of a vector.
        entries: of the table.
        starts: from which the best is taken.
        points: vectors of one iteration.
        rounds: iterations over fresh points after the start.
    """

    dim: int
    entries: int
    starts: int = 4
    points: int = 1 << 18
    rounds: int = 60


PLANS = (
    Plan(2, 16, starts=24),
    Plan(2, 256),
    Plan(4, 16, starts=12),
    Plan(4, 256),
    Plan(8, 256),
    Plan(8, 4096, starts=1, points=1 << 19, rounds=40),
)


def train(plan: Plan, seed: int) -> tuple[Tensor, dict[str, str]]:
    """A table in float16 and what to say about it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(plan.points, plan.dim, generator=generator)
    starts = [
        lloyd.fit(x, plan.entries, iterations=60, sample=None, generator=generator, tolerance=1e-5)
        for _ in range(plan.starts)
    ]
    table = min(starts, key=lambda found: float(found.history[-1])).table[None]
    kept: CellSums | None = None
    for _ in tqdm(range(plan.rounds), desc=f"kmeans {plan.dim} {plan.entries}", leave=False):
        x = torch.randn(plan.points, plan.dim, generator=generator)
        kept = _decayed(kept, cell_sums(x[None], table), 0.9)
        table = lloyd.update(kept, table, x[None])
    table = table[0][table[0].square().sum(1).sort(stable=True).indices].half()
    mse = measure(table.float(), seed + 77_000)
    command = "python -m vq.codebooks.train_kmeans"
    return table, {
        "spec": f"kmeans(dim={plan.dim}, entries={plan.entries})",
        "seed": str(seed),
        "points": str(plan.points),
        "rounds": str(plan.rounds),
        "mse": f"{mse:.5f}",
        "command": f"{command} --dim {plan.dim} --entries {plan.entries} --seed {seed}",
    }


def _decayed(kept: CellSums | None, sums: CellSums, decay: float) -> CellSums:
    if kept is None:
        return sums
    return CellSums(
        decay * kept.total + sums.total,
        decay * kept.mass + sums.mass,
        sums.error,
        (decay * kept.members).long() + sums.members,
        sums.reach,
        sums.farthest,
    )


def measure(table: Tensor, seed: int) -> float:
    """Squared error over power on 2^23 fresh N(0, 1) numbers."""
    generator = torch.Generator().manual_seed(seed)
    error = power = 0.0
    for _ in range(_HELD_OUT // (_CHUNK * table.shape[1])):
        x = torch.randn(_CHUNK, table.shape[1], generator=generator)
        error += float((x - table[nearest(x, table).long()]).double().square().sum())
        power += float(x.double().square().sum())
    return error / power


def main() -> None:
    """Train the tables asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, help="only tables of this dimension")
    parser.add_argument("--entries", type=int, help="only tables of this size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    args = parser.parse_args()
    for plan in PLANS:
        if args.dim not in (None, plan.dim) or args.entries not in (None, plan.entries):
            continue
        begun = time.monotonic()
        table, about = train(plan, args.seed)
        path = args.out / table_name(plan.dim, plan.entries)
        save_file({"table": table.contiguous()}, path, metadata=about)
        tqdm.write(f"{about['spec']}: mse {about['mse']}, {time.monotonic() - begun:.0f} s, {path}")


if __name__ == "__main__":
    main()
