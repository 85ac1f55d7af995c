"""Plan a compression before anything is quantized: what each matrix is worth, and which codebook it gets.

Noise such as rounding leaves is put into one matrix at a time and the damage to the model's predictions is measured.
From that follow a forecast of size and perplexity for every choice of codebooks, and the best choice within a budget.
The result is a recipe for `vq compress`.

  vq plan ./SmolLM2 --calibration texts/ --budget 2.25 -o plan.yaml
  vq compress ./SmolLM2 -o ./SmolLM2-planned --calibration texts/ --recipe plan.yaml
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import add_common, apply_threads, need_transformers, progress
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.compressors.planning.plan import Plan
    from vq.compressors.planning.sensitivity import Findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq plan``."""
    parser.add_argument("model", metavar="MODEL", help="model folder, .gguf file or hub id")
    parser.add_argument(
        "--calibration",
        nargs="+",
        required=True,
        metavar="FILE",
        help="text the model should stay good at",
    )
    parser.add_argument(
        "--budget",
        required=True,
        metavar="B",
        help="bits per weight (2.25) or size (40MB) of the layers",
    )
    parser.add_argument("-o", "--output", metavar="YAML", help="where the recipe goes")
    parser.add_argument(
        "--codebooks",
        nargs="+",
        metavar="SPEC",
        help="to choose from (default: trellises, 1 to 4 bits)",
    )
    parser.add_argument(
        "--recipe",
        default="2bit",
        metavar="NAME",
        help="recipe whose other keys are taken (default: 2bit)",
    )
    parser.add_argument(
        "--every", type=int, default=4, metavar="N",
        help="probe every Nth block, interpolate between (default: 4; 1 is slowest and best)",
    )  # fmt: skip
    parser.add_argument(
        "--windows", type=int, default=8, metavar="N", help="windows for Hessians (default: 8)"
    )
    parser.add_argument(
        "--probes", type=int, default=2, metavar="N", help="texts compared (default: 2)"
    )
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens of each (default: 512)"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Probe, plan and print."""
    need_transformers()
    from vq.compressors.planning.plan import Planner, parse_budget, recipe
    from vq.compressors.recipes import read_recipe

    apply_threads(args)
    options = read_recipe(args.recipe)
    if options.group:
        raise VqError(
            f"--recipe {args.recipe}: a plan does not count scales of groups of columns, got group {options.group}; "
            "plan with group 0"
        )
    base = {**options.to_dict(), "budget": ""}
    for name, low in (("every", 1), ("windows", 1), ("probes", 1), ("context", 2)):
        if getattr(args, name) < low:
            raise VqError(f"--{name}: expected at least {low}, got {getattr(args, name)}")
    parse_budget(args.budget, 8)  # a typo is told before the work
    findings = _probe(args)
    planner = Planner(findings, args.codebooks)
    plan = planner.plan(parse_budget(args.budget, planner.weights))
    if args.output:
        _write(Path(args.output), recipe(plan, base), plan)
    if args.json:
        write_json(_data(args, findings, plan), args.json)
    if args.json != "-":
        print(_report(findings, plan))
        if args.output:
            print(f"\nvq compress {args.model} -o OUT --calibration ... --recipe {args.output}")


def _probe(args: argparse.Namespace) -> Findings:
    """Sensitivities of the model that is named, with a progress bar."""
    from vq.compressors.files.source import open_source
    from vq.compressors.planning.stage import find_sensitivities

    bars: list[tuple[Callable[[int], None], Callable[[], None]]] = []

    def tell(index: int, total: int) -> None:
        """Open the bar at the first block, and close it after the last."""
        if not bars:
            bars.append(progress(total, "probing", "block"))
        bars[0][0](index)
        if index == total:
            bars[0][1]()

    with tempfile.TemporaryDirectory() as folder:  # for a converted copy of a .gguf file
        return find_sensitivities(
            open_source(args.model, Path(folder)),
            args.calibration,
            windows=args.windows,
            probes=args.probes,
            context=args.context,
            every=args.every,
            seed=args.seed,
            progress=tell,
        )


def _write(path: Path, values: dict[str, Any], plan: Plan) -> None:
    import yaml

    head = (
        f"# Planned: {plan.forecast.bits_per_weight:.3f} bits per weight, "
        f"forecast KL {plan.forecast.kl:.3f} nats a token.\n"
    )
    path.write_text(head + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _data(args: argparse.Namespace, findings: Findings, plan: Plan) -> dict[str, Any]:
    return {
        "model": args.model,
        "budget": args.budget,
        "forecast": asdict(plan.forecast),
        "uniform": {"codebook": plan.uniform[0], **asdict(plan.uniform[1])},
        "mixture": None if plan.mixture is None else asdict(plan.mixture),
        "exact": plan.exact,
        "layers": [
            {**asdict(layer), "codebook": plan.codebooks[layer.layer]} for layer in findings.layers
        ],
        "seed": args.seed,
        "machine": machine(),
        "versions": versions(),
    }


def _report(findings: Findings, plan: Plan) -> str:
    """Forecasts, and how the codebooks are shared out over kinds of layers."""
    rows = [
        [name, f"{f.bits_per_weight:.3f}", f"{f.bytes / 1e6:.2f}", f"{f.kl:.3f}", f"{f.perplexity:.2f}"]
        for name, f in (
            ("plan", plan.forecast),
            *((("mixture", plan.mixture),) if plan.mixture else ()),
            (f"uniform {plan.uniform[0]}", plan.uniform[1]),
        )
    ]  # fmt: skip
    text = table(["forecast", "bits", "MB", "KL", "perplexity"], rows)
    return text + "\n\n" + _kinds(findings, plan)


def _kinds(findings: Findings, plan: Plan) -> str:
    from vq.compressors.planning.plan import stored_bytes

    kinds: dict[str, list[float]] = {}
    for layer in findings.layers:
        size = plan.codebooks[layer.layer]
        bits = 8 * stored_bytes(size, *layer.shape) / (layer.shape[0] * layer.shape[1])
        entry = kinds.setdefault(layer.layer.rpartition(".")[2], [0.0, 0.0, 0.0])
        entry[0] += bits
        entry[1] += layer.slope
        entry[2] += 1
    body = [
        [kind, f"{bits / count:.2f}", f"{slope:.2f}"]
        for kind, (bits, slope, count) in kinds.items()
    ]
    return table(["layers", "mean bits", "KL for distortion 1"], body)
