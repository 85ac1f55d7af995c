"""What is each recipe worth on a real model? Compresses and scores it, one row a recipe.

    python benchmarks/recipes.py MODEL --calibration cal.txt --text held-out.txt \
        --json benchmarks/results/recipes.json

Every recipe runs in a process of its own, so that the peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from vq.analysis.environment import result, table, write_json

RECIPES = ("2bit-scalar-rtn", "2bit-scalar-ldlq", "2bit")


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "vq", *map(str, arguments)], check=True)


def measure(recipe: str, args: argparse.Namespace, folder: Path) -> dict:
    """Compress and score with one recipe."""
    small, made, scored = folder / recipe, folder / "made.json", folder / "scored.json"
    calibration = [] if recipe.endswith("rtn") else ["--calibration", args.calibration]
    run("compress", args.model, "-o", small, "--recipe", recipe, *calibration,
        "--seed", args.seed, "--json", made)  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    run("eval", small, "--reference", args.model, "--text", args.text,
        "--windows", args.windows, "--json", scored)  # fmt: skip
    report, score = (json.loads(path.read_text()) for path in (made, scored))
    keys = (
        "perplexity",
        "reference_perplexity",
        "kl",
        "top1",
        "bits_per_weight",
        "context",
        "tokens",
    )
    return {
        "recipe": recipe,
        "codebook": report["options"]["codebook"],
        **{key: score[key] for key in keys},
        "ratio": score["perplexity"] / score["reference_perplexity"],
        "seconds": report["seconds"],
        "peak_gib_so_far": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default="benchmarks/results/recipes.json")
    args = parser.parse_args()
    rows = []
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(recipe, args, Path(folder)))
        write_json(result(rows, args.seed), args.json)
    cells = [
        [r["recipe"], f"{r['bits_per_weight']:.3f}", f"{r['perplexity']:.2f}", f"{r['ratio']:.2f}",
         f"{r['kl']:.3f}", f"{r['top1']:.1%}", f"{r['seconds']:.0f}"]
        for r in rows
    ]  # fmt: skip
    print(table(["recipe", "bits", "perplexity", "ratio", "KL", "top-1", "seconds"], cells))


if __name__ == "__main__":
    main()
