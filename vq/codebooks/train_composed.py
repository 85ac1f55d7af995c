"""Training of the composed tables we ship: ``python -m vq.codebooks.train_composed``.

Each codebook is fitted on N(0, 1) vectors and stored in float16 (frozen rows and their maps in float32) with how it was
made and its error on other vectors; on the same kind of CPU the same command makes the same tables again, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vq.codebooks import Additive, Codebook, Frozen, KMeans, Residual, build
from vq.codebooks.shipped import shipped_name, without_search

BEAMS = (1, 4, 8, 16, 32)
_STREAM = 6_000_011  # of the seeds: benchmarks draw their numbers from small ones, and must not meet what was fitted


@dataclass(frozen=True)
class Plan:
    """One codebook to train.

    Attributes:
        spec: text; ``rounds`` and ``beam`` in it hold for the fit and are not part of the name.
        vectors: to fit on.
    """

    spec: str
    vectors: int


PLANS = (
    Plan("factorized(of=[scalar(bits=2), kmeans(dim=2, entries=13)])", 200_000),
    Plan("residual(stages=2, of=kmeans(dim=8, entries=256))", 1_000_000),
    Plan("residual(stages=4, of=kmeans(dim=16, entries=256))", 500_000),
    Plan("additive(stages=2, dim=8, entries=256, rounds=25)", 1_000_000),
    Plan("additive(stages=4, dim=16, entries=256, rounds=20)", 500_000),
    Plan("simvq(dim=8, entries=256)", 200_000),
    Plan("frozen(of=kmeans(dim=8, entries=256))", 500_000),
    Plan("frozen(of=kmeans(dim=16, entries=256), dim=8)", 200_000),
)


def train(plan: Plan, seed: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State of a fitted codebook, rounded to what is stored, and what to say about it."""
    generator = torch.Generator().manual_seed(_STREAM + 2 * seed)
    codebook = build(plan.spec)
    for part in codebook.modules():
        if isinstance(part, KMeans):
            part.sample = None
    if isinstance(
        codebook, Frozen
    ):  # features of a larger space than the data, as an encoder's are
        features = torch.randn(plan.vectors, codebook.features.dim, generator=generator)
        codebook.features.fit(features, generator=generator)
    x = torch.randn(plan.vectors, codebook.dim, generator=generator)
    codebook.fit(x, generator=generator)
    keep = codebook.family in ("simvq", "frozen")
    state = {
        key: value.detach().contiguous() if keep or value.ndim < 2 else value.detach().half()
        for key, value in codebook.state_dict().items()
    }
    codebook.load_state_dict({key: value.float() for key, value in state.items()})
    return state, {
        "spec": str(without_search(codebook.spec)),
        "seed": str(seed),
        "vectors": str(plan.vectors),
        "fitted_as": plan.spec,
        "mse": json.dumps(measure(codebook, seed)),
        "command": f"python -m vq.codebooks.train_composed --only '{plan.spec}' --seed {seed}",
    }


def measure(codebook: Codebook, seed: int, numbers: int = 1 << 21) -> dict[str, float]:
    """Mean squared error on fresh N(0, 1) numbers, relative to their power, by beam; "1" where there is none."""
    generator = torch.Generator().manual_seed(_STREAM + 2 * seed + 1)
    x = torch.randn(numbers // codebook.dim, codebook.dim, generator=generator)
    found = {}
    for beam in BEAMS if isinstance(codebook, (Additive, Residual)) else (1,):
        if isinstance(codebook, (Additive, Residual)):
            codebook.beam = beam
        error = float((codebook(x) - x).double().square().sum() / x.double().square().sum())
        found[str(beam)] = round(error, 5)
    return found


def main() -> None:
    """Train the codebooks asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="only specs that contain this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("codebooks"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of float sums, and so the last bits, depends on threads
    for plan in PLANS:
        if args.only and args.only not in plan.spec:
            continue
        begun = time.monotonic()
        state, about = train(plan, args.seed)
        path = args.out / shipped_name(build(plan.spec).spec)
        save_file(state, path, metadata=about)
        tqdm.write(f"{plan.spec}: mse {about['mse']}, {time.monotonic() - begun:.0f} s, {path}")


if __name__ == "__main__":
    main()
