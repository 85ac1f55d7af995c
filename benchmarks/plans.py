"""Does the forecast of `vq plan` rank plans as they turn out, and is a plan better than an even mixture of its size?

    python benchmarks/plans.py MODEL --calibration cal.txt --text held-out.txt --json benchmarks/results/plans.json

The model is compressed once with each codebook, every layer calibrated on the original model, so that layers of
different runs can stand side by side. Then plans are drawn at random: `free` ones differ in size, those of `equal`
size only in where the bits go. Each is put together from the layers, and its divergence from the original is measured
on held-out text. The forecast comes from a probe on the calibration text and knows neither.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

import vq
from vq.analysis.environment import result, table, write_json
from vq.compressors.files.source import open_source
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.planning.plan import Planner
from vq.compressors.planning.stage import find_sensitivities
from vq.compressors.scores.evaluate import text_windows

CODEBOOKS = [f"trellis(bits={bits}, memory=8, code=hash)" for bits in (2, 2.5, 3, 3.5)]


def compressed(args: argparse.Namespace, spec: str, folder: Path) -> dict[str, torch.Tensor]:
    """Restored weights by layer of the model with one codebook everywhere."""
    out = folder / "".join(c if c.isalnum() else "-" for c in spec)
    if not out.exists():
        subprocess.run(
            [sys.executable, "-m", "vq", "compress", args.model, "-o", out, "--codebook", spec,
             "--calibration", args.calibration, "--calibrate-on", "original", "--windows", "8",
             "--context", "512", "--seed", str(args.seed)],
            check=True,
        )  # fmt: skip
    model = vq.load(out)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    return {name: layer.dequantize().to(torch.bfloat16) for name, layer in layers.items()}


class Judge:
    """Divergence of a model with replaced layers from the original."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = vq.load(args.model, dtype=torch.float32)
        ids = vq.load_tokenizer(args.model)(Path(args.text).read_text(), return_tensors="pt")
        self.windows = text_windows(ids.input_ids[0], args.context, args.windows)
        self.wanted = [self._predict(window).half() for window in self.windows]

    @torch.no_grad()
    def _predict(self, window: torch.Tensor) -> torch.Tensor:
        return self.model(window[None], use_cache=False).logits[0].log_softmax(-1)

    @torch.no_grad()
    def kl(self, weights: dict[str, torch.Tensor]) -> float:
        """Nats a token, with these weights in the layers."""
        for name, weight in weights.items():
            self.model.get_submodule(name).weight.copy_(weight)
        total = 0.0
        for window, half in zip(self.windows, self.wanted, strict=True):
            wanted, found = half.float(), self._predict(window)
            total += float((wanted.exp() * (wanted - found)).sum(-1).double().mean())
        return total / len(self.windows)


def free_plan(layers: list[str], generator: torch.Generator) -> dict[str, str]:
    """Codebooks drawn with shares that are drawn first, so that sizes differ."""
    shares = -torch.rand(len(CODEBOOKS), generator=generator).log()
    picks = torch.multinomial(shares, len(layers), replacement=True, generator=generator)
    return {layer: CODEBOOKS[i] for layer, i in zip(layers, picks.tolist(), strict=True)}


def equal_plan(planner: Planner, generator: torch.Generator, budget: int) -> dict[str, str]:
    """Random steps up from the smallest plan until the budget is used."""
    plan, names = planner.uniform(CODEBOOKS[0]), [layer.layer for layer in planner.findings.layers]
    for _ in range(20 * len(names)):
        layer = names[int(torch.randint(len(names), (1,), generator=generator))]
        up = CODEBOOKS.index(plan[layer]) + 1
        if up < len(CODEBOOKS):
            more = {**plan, layer: CODEBOOKS[up]}
            if planner.forecast(more).bytes <= budget:
                plan = more
    return plan


def candidates(
    planner: Planner, count: int, generator: torch.Generator
) -> list[tuple[str, dict[str, str]]]:
    """Random plans of both kinds, and at two sizes the best one beside a plain one, each with its kind."""
    names = [layer.layer for layer in planner.findings.layers]
    middle = planner.forecast(planner.uniform(CODEBOOKS[1])).bytes
    between = (planner.forecast(planner.uniform(CODEBOOKS[0])).bytes + middle) // 2
    mixed = planner.mixture(between)
    assert mixed is not None
    plans = [("free", free_plan(names, generator)) for _ in range(count)]
    plans += [("equal", equal_plan(planner, generator, middle)) for _ in range(count)]
    plans += [("planned", planner.plan(between).codebooks), ("even mixture", mixed)]
    plans += [
        ("planned", planner.plan(middle).codebooks),
        ("uniform", planner.uniform(CODEBOOKS[1])),
    ]
    return plans


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation."""
    ranks = torch.stack([torch.tensor(x).argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--plans", type=int, default=10, help="of each kind")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--every", type=int, default=4, help="blocks from one probed to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", default="benchmarks/results/plans.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = open_source(args.model, Path(temporary))
        findings = find_sensitivities(source, args.calibration, every=args.every, seed=args.seed)
        held = {s: compressed(args, s, args.keep or Path(temporary)) for s in CODEBOOKS}
    planner = Planner(findings, CODEBOOKS)
    plans = candidates(planner, args.plans, torch.Generator().manual_seed(args.seed))
    judge, rows = Judge(args), []
    for kind, plan in tqdm(plans, desc="plans"):
        forecast = planner.forecast(plan)
        measured = judge.kl({name: held[spec][name] for name, spec in plan.items()})
        rows.append({
            "plan": kind, "bits_per_weight": forecast.bits_per_weight,
            "forecast_kl": forecast.kl, "kl": measured,
        })  # fmt: skip
    ranks = {}
    for kind in ("free", "equal"):
        those = [r for r in rows if r["plan"] == kind]
        ranks[kind] = spearman([r["forecast_kl"] for r in those], [r["kl"] for r in those])
    print(table(["plan", "bits", "KL forecast", "KL"],
                [[r["plan"], f"{r['bits_per_weight']:.3f}", f"{r['forecast_kl']:.4f}",
                  f"{r['kl']:.4f}"] for r in rows]))  # fmt: skip
    print("Spearman:", ", ".join(f"{kind} {value:.3f}" for kind, value in ranks.items()))
    rows.append({"spearman": ranks, "codebooks": CODEBOOKS})
    write_json(result(rows, args.seed), args.json)


if __name__ == "__main__":
    main()
