"""Find the best step of each lattice codebook for N(0, 1) and measure it; writes codebooks/lattice.json.

    python -m vq.codebooks.scale_lattices

The mean squared error as a function of the step is searched on one set of numbers (golden section, the same numbers
for all steps), and measured at the step found on fresh ones, divided by their power.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from vq._data_files import data_path
from vq.codebooks.base import Codebook
from vq.codebooks.lattice import FIGURES_FILE
from vq.codebooks.registry import build

# codebook, where to start the search
START = {
    "zn(dim=1, bits=1)": 1.6, "zn(dim=1, bits=2)": 1.0, "zn(dim=1, bits=3)": 0.59, "zn(dim=1, bits=4)": 0.34,
    "zn(dim=2, bits=2)": 0.98, "zn(dim=4, bits=2)": 0.96, "zn(dim=8, bits=2)": 0.95,
    "dn(dim=2, bits=2)": 0.68, "dn(dim=4, bits=2)": 0.76, "dn(dim=4, bits=3)": 0.45,
    "dn(dim=4, bits=4)": 0.25, "dn(dim=8, bits=1)": 1.2, "dn(dim=8, bits=2)": 0.8,
    "e8(bits=1)": 1.3, "e8(bits=1.5)": 1.2, "e8(bits=2)": 0.95, "e8p()": 0.97,
    "leech(bits=0.75)": 0.7, "leech(bits=1.25)": 0.6, "leech(bits=1.5)": 0.5, "leech(bits=1.75)": 0.42,
    "leech(bits=2)": 0.35,
}  # fmt: skip


def with_step(spec: str, step: float) -> Codebook:
    """The codebook with a step of its own."""
    inside = spec[:-1] + ("" if spec.endswith("()") else ", ")
    return build(f"{inside}step={step:.6f})")


def error(book: Codebook, numbers: int, seed: int) -> float:
    """Mean squared error on N(0, 1) over the power of the numbers."""
    x = torch.randn(
        -(-numbers // book.dim), book.dim, generator=torch.Generator().manual_seed(seed)
    )
    return float((book(x) - x).double().square().sum() / x.double().square().sum())


def best_step(spec: str, start: float, numbers: int) -> float:
    """Step with the least error within a quarter of ``start``, by golden section to 0.1 %."""
    low, high, ratio = 0.75 * start, 1.25 * start, (5**0.5 - 1) / 2
    steps = [high - ratio * (high - low), low + ratio * (high - low)]
    errors = [error(with_step(spec, s), numbers, 1) for s in steps]
    while high - low > 0.002 * start:
        if errors[0] < errors[1]:
            high, steps = steps[1], [steps[1] - ratio * (steps[1] - low), steps[0]]
            errors = [error(with_step(spec, steps[0]), numbers, 1), errors[0]]
        else:
            low, steps = steps[0], [steps[1], steps[0] + ratio * (high - steps[0])]
            errors = [errors[1], error(with_step(spec, steps[1]), numbers, 1)]
    return round(steps[errors[1] < errors[0]], 4)


def main() -> None:
    """Search all, or the named ones, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", nargs="*", help="codebooks to search; all of them by default")
    parser.add_argument("--numbers", type=int, default=400_000)
    options = parser.parse_args()
    path = Path(data_path("codebooks", FIGURES_FILE))
    known = json.loads(path.read_text())["codebooks"] if path.exists() else {}
    for spec in options.specs or START:
        step = best_step(spec, START[spec], options.numbers)
        distortion = error(with_step(spec, step), 4 * options.numbers, 2)
        known[spec] = {"step": step, "distortion": round(distortion, 5)}
        print(spec, known[spec], flush=True)
    data = {"command": "python -m vq.codebooks.scale_lattices", "codebooks": known}
    path.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
