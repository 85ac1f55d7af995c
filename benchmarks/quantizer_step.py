"""How long does one training step of a quantizer layer take, and how much memory?

Forward and backward of 4096 vectors of 256 numbers by default, calls alternating in one process, beside
vector-quantize-pytorch where that is installed:

    python benchmarks/quantizer_step.py --threads 1 --json benchmarks/results/quantizer_step.json

With one thread times are that thread's processor time. Memory is what a call adds to the process at its peak, after a
call to warm up: state that stays (tables, averages, gradients) is not in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vq.analysis import environment
from vq.analysis.bench.timing import medians, peak_mib
from vq.quantizers import KINDS, make

Output = Callable[[Any], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One method; ``speedup`` and ``other_mib`` compare it with its counterpart of the other library."""

    method: str
    entries: int
    vectors: int
    dim: int
    ms: float
    extra_mib: float | None
    other_ms: float | None
    other_mib: float | None
    speedup: float | None


def step(layer: nn.Module, x: Tensor, read: Output) -> Callable[[], None]:
    """One training step: values and losses of a batch, and all gradients."""

    def call() -> None:
        layer.zero_grad()
        x.grad = None
        values, loss = read(layer(x))
        torch.autograd.backward([values, loss], [torch.ones_like(values), torch.ones_like(loss)])

    return call


def read_ours(found: Any) -> tuple[Tensor, Tensor]:
    return found.values, found.loss


def read_other(found: Any) -> tuple[Tensor, Tensor]:
    return found[0], found[2].sum()


def ours(entries: int, dim: int) -> dict[str, nn.Module]:
    table = f"kmeans(dim={dim}, entries={entries})"
    layers: dict[str, nn.Module] = {
        "vq straight": make("vq", codebook=table),
        "vq rotation": make("vq", codebook=table, estimator="rotation"),
        "vq cosine dim 8": make(
            "vq", codebook=f"kmeans(dim=8, entries={entries})", dim=dim, lookup="cosine"
        ),
        "simvq": make("simvq", codebook=f"simvq(dim={dim}, entries={entries})"),
    }
    if "residual" in KINDS and entries == 1024:
        layers["residual x8"] = make("residual", stages=8, of={"kind": "vq", "codebook": table})
    return layers


def others(entries: int, dim: int) -> dict[str, nn.Module]:
    """Counterparts in vector-quantize-pytorch; none where it is not installed."""
    try:
        from vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize
    except ImportError:
        return {}
    options = {"dim": dim, "codebook_size": entries, "threshold_ema_dead_code": 2, "decay": 0.99}
    layers: dict[str, nn.Module] = {
        "vq straight": VectorQuantize(rotation_trick=False, **options),
        "vq rotation": VectorQuantize(rotation_trick=True, **options),
        "vq cosine dim 8": VectorQuantize(
            rotation_trick=False, use_cosine_sim=True, codebook_dim=8, **options
        ),
        "simvq": SimVQ(dim=dim, codebook_size=entries, rotation_trick=False),
    }
    if entries == 1024:
        layers["residual x8"] = ResidualVQ(num_quantizers=8, rotation_trick=False, **options)
    return layers


def give_back() -> None:
    """Return freed memory to the system, so that a call that takes it again is seen to do so."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def measure(name: str, entries: int, options: argparse.Namespace) -> Row | None:
    """One method and its counterpart; None where ours does not exist."""
    generator = torch.Generator().manual_seed(options.seed)
    x = torch.randn(options.vectors, options.dim, generator=generator)
    mine = ours(entries, options.dim).get(name)
    theirs = others(entries, options.dim).get(name)
    if mine is None:
        return None
    calls = {"ours": step(mine, x.clone().requires_grad_(), read_ours)}
    if theirs is not None:
        batched = x.reshape(16, -1, options.dim).clone().requires_grad_()
        calls["other"] = step(theirs, batched, read_other)
    seconds = medians(calls, options.rounds)
    memory = {}
    for key, call in calls.items():
        give_back()
        memory[key] = peak_mib(call)
    other = seconds.get("other")
    return Row(
        name,
        entries,
        options.vectors,
        options.dim,
        round(seconds["ours"] * 1e3, 2),
        memory["ours"] and round(memory["ours"], 1),
        other and round(other * 1e3, 2),
        memory.get("other") and round(memory["other"], 1),
        other and round(other / seconds["ours"], 2),
    )


def text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[1024, 16384, 65536])
    parser.add_argument("--methods", nargs="+", default=list(ours(1024, 8)))
    parser.add_argument("--vectors", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the result, - for standard output")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rows = []
    for entries in options.entries:
        for name in options.methods:
            row = measure(name, entries, options)
            if row is None:
                continue
            rows.append(row)
            shown = (row.ms, row.extra_mib, row.other_ms, row.other_mib, row.speedup)
            print(
                f"{name:16} K={entries:<6}", *(text(value).rjust(9) for value in shown), flush=True
            )
    headers = ["method", "K", "ms", "extra MiB", "other ms", "other MiB", "speedup"]
    lines = [
        [r.method, str(r.entries)]
        + [text(v) for v in (r.ms, r.extra_mib, r.other_ms, r.other_mib, r.speedup)]
        for r in rows
    ]
    print("\n" + environment.table(headers, lines))
    if options.json:
        result = environment.result([asdict(row) for row in rows], options.seed)
        environment.write_json(result, options.json)


if __name__ == "__main__":
    main()
