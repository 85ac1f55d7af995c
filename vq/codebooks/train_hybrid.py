"""Rows of the hybrid trellis code, and figures of all computed codes: ``python -m vq.codebooks.train_hybrid``.

For every memory the rows start as k-means of N(0, I) with the second value folded to positive (the code's sign bit
unfolds it), in the best of many random orders at 2 bits; Lloyd's algorithm on fresh blocks improves them, all states of
a row sharing one mean. ``--figures`` finds the best scale of every computed code, rate and memory, and measures it.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vq.codebooks.lloyd import fit as kmeans
from vq.codebooks.search_hash import blocks, measure
from vq.codebooks.trellis_codes import (
    COMPUTED,
    FIGURES_FILE,
    HYBRID_FILE,
    HYBRID_ROWS,
    hybrid_indices,
    hybrid_rows,
    hybrid_table,
)
from vq.codebooks.trellis_fit import sums_of_states

BITS = 2  # rate that the rows are trained at
MEMORIES = range(6, 17)
SCALES = tuple(round(0.66 + 0.05 * i, 2) for i in range(18))
RATES = {
    "hybrid": (1, 1.5, 2, 2.5, 3, 3.5, 4),
    **dict.fromkeys(COMPUTED, (1, 2, 3, 4, 5, 6, 7, 8)),
}


def folded_points(count: int, seed: int) -> Tensor:
    """``count`` points of N(0, I) in the plane, the second coordinate made positive."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    x[:, 1].abs_()
    return x


def start_rows(memory: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """``count`` times the k-means rows in another order and with other signs of the first value."""
    used = hybrid_indices(memory)[0].unique()
    centres = kmeans(folded_points(200_000, memory), len(used), generator=generator).table
    centres = 0.97 * centres / centres.square().mean().sqrt()
    found = []
    for _ in range(count):
        rows = torch.zeros(HYBRID_ROWS, 2)
        rows[used] = centres[torch.randperm(len(used), generator=generator)]
        rows[:, 0] *= torch.randint(2, (HYBRID_ROWS,), generator=generator) * 2 - 1
        found.append(rows)
    return found


def improve(rows: Tensor, memory: int, rounds: int, count: int, seed: int) -> Tensor:
    """Lloyd rounds on fresh blocks; sums of earlier rounds of the second half are kept, decaying."""
    index, sign = hybrid_indices(memory)
    sums = torch.zeros(HYBRID_ROWS, 2, dtype=torch.float64)
    counts = sums.clone()
    for step in range(rounds):
        x = blocks(count, seed=1_000_000 * memory + 1000 * seed + step)
        of_state, visits, _ = sums_of_states(x, hybrid_table(rows, memory), 2 * BITS, memory)
        of_state[:, 1] *= sign
        kept = 0.0 if step < rounds // 2 else 0.8
        sums = (kept * sums).index_add(0, index, of_state)
        counts = (kept * counts).index_add(0, index, visits)
        rows = ((sums + rows) / (counts + 1)).float()
    return rows


def rank(found: list[Tensor], memory: int, count: int, seed: int) -> list[Tensor]:
    """Rows from the best to the worst at 2 bits on ``count`` blocks."""
    x = blocks(count, seed)
    scores = [measure(x, hybrid_table(rows, memory), 2 * BITS, memory) for rows in found]
    return [found[int(i)] for i in torch.tensor(scores).argsort(stable=True)]


def train(memory: int, draws: int) -> Tensor:
    """Rows ``(512, 2)`` float16 of one memory."""
    generator = torch.Generator().manual_seed(memory)
    small = memory < 15
    found = start_rows(memory, max(20, draws >> max(0, memory - 11)), generator)
    found = rank(found, memory, 24, seed=memory)[: 40 if small else 8]
    found = rank(found, memory, 200 if small else 50, seed=100 + memory)[:6]
    found = [
        improve(rows, memory, 6, 400 if small else 100, seed) for seed, rows in enumerate(found)
    ]
    best = rank(found, memory, 600 if small else 150, seed=200 + memory)[0]
    return improve(best, memory, 30 if small else 12, 1500 if small else 400, seed=9).half()


def best_scale(table: Tensor, width: int, memory: int) -> float:
    """Factor of the table with the least error: a grid, then the parabola through its best three."""
    x = blocks(200 if memory < 15 else 40, seed=400 + memory)
    errors = [measure(x, table * scale, width, memory) for scale in SCALES]
    at = min(max(int(torch.tensor(errors).argmin()), 1), len(SCALES) - 2)
    low, mid, high = errors[at - 1 : at + 2]
    step = SCALES[1] - SCALES[0]
    shift = 0.5 * (low - high) / max(low - 2 * mid + high, 1e-12)
    return round(SCALES[at] + step * min(max(shift, -1.0), 1.0), 3)


def figures(code: str) -> dict[str, list[float]]:
    """Best scale and held-out distortion of a code, by rate and memory."""
    found = {}
    for memory in tqdm(MEMORIES, desc=code):
        if code == "hybrid":
            unit, symbols = hybrid_table(hybrid_rows(memory), memory), 2
        else:
            unit, symbols = COMPUTED[code](memory), 1
        held_out = blocks(2000 if memory < 15 else 1000, seed=5000 + memory)
        for bits in RATES[code]:
            width = int(bits * symbols)
            if width < memory:
                scale = best_scale(unit, width, memory)
                mse = measure(held_out, unit * scale, width, memory)
                found[f"bits={bits:g}, memory={memory}"] = [scale, float(f"{mse:.4g}")]
    return found


def main() -> None:
    """Train the rows, or measure the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    parser.add_argument("--draws", type=int, default=4000, help="orders to compare")
    parser.add_argument("--figures", action="store_true", help="only measure what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of float sums, and so the last bits, depends on threads
    if args.figures:
        data = {
            "command": "python -m vq.codebooks.train_hybrid --figures",
            "columns": ["scale", "distortion"],
            "codes": {code: figures(code) for code in RATES},
        }
        path = args.out / FIGURES_FILE
        text = re.sub(
            r"\[\s+([^\[\]]+?),\s+([^\[\]]+?)\s+\]", r"[\1, \2]", json.dumps(data, indent=1)
        )
        path.with_suffix(".part").write_text(text + "\n")
        path.with_suffix(".part").replace(path)
        return
    rows = {f"memory={m:02d}": train(m, args.draws) for m in tqdm(MEMORIES, desc="rows")}
    about = {"command": f"python -m vq.codebooks.train_hybrid --draws {args.draws}"}
    save_file(rows, args.out / HYBRID_FILE, metadata=about)


if __name__ == "__main__":
    main()
