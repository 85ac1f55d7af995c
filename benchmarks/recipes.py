"""What is each recipe worth on a real model? Compresses and scores it, one row a recipe and seed.

    python benchmarks/recipes.py MODEL --calibration cal.txt --text held-out.txt \
        --rows 2bit 2bit-e8p --seeds 0 1 2 --json benchmarks/results/recipes.json

Every row runs in processes of its own, so that the peak memory is its own, and holds the commands that made it. Rows
that the JSON file has already are replaced one by one, the others stay; `--keep FOLDER` keeps the compressed models
there, and finds them again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from vq.analysis.environment import machine, result, table, write_json

ROWS = {
    "2bit-scalar-rtn": ["--recipe", "2bit-scalar-rtn"],
    "2bit-scalar-ldlq": ["--recipe", "2bit-scalar-ldlq"],
    "2bit-kmeans-4d": ["--recipe", "2bit", "--codebook", "kmeans(dim=4, entries=256)"],
    "2bit-e8p": ["--recipe", "2bit", "--codebook", "e8p"],
    "2bit": ["--recipe", "2bit"],
    "2bit-compensated": ["--recipe", "2bit-compensated"],
    "2bit-L16": ["--recipe", "2bit", "--codebook", "trellis(bits=2, memory=16, code=hash)"],
    "2bit-tuned": ["--recipe", "2bit-tuned"],
    "3bit": ["--recipe", "3bit"],
    "3bit-tuned": ["--recipe", "3bit-tuned"],
    "mixed": ["--recipe", "mixed"],
}
SCORES = (
    "perplexity", "reference_perplexity", "kl", "top1", "bits_per_weight",
    "total_bits_per_weight", "context", "tokens",
)  # fmt: skip


def run(*arguments: object) -> tuple[str, float]:
    """Run a command; returns it as text, and its CPU seconds."""
    words = [str(argument) for argument in arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "vq", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"vq {shown}", spent


def measure(name: str, seed: int, args: argparse.Namespace, folder: Path) -> dict:
    """Compress and score one row."""
    small, made, scored = (folder / f"{name}-{seed}{end}" for end in ("", ".json", ".score.json"))
    options = ROWS.get(name) or ["--recipe", name]
    calibration = [] if name.endswith("rtn") else ["--calibration", args.calibration]
    command = [
        "compress",
        args.model,
        "-o",
        small,
        *options,
        *calibration,
        *(
            ["--windows", args.calibration_windows]
            if calibration and args.calibration_windows
            else []
        ),
        "--seed",
        seed,
        "--json",
        made,
    ]
    spent = 0.0
    if not small.exists():
        _, spent = run(*command)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    run("eval", small, "--reference", args.model, "--text", args.text,
        "--windows", args.windows, "--json", scored)  # fmt: skip
    report, score = (json.loads(path.read_text()) for path in (made, scored))
    return {
        "row": name,
        "seed": seed,
        "cpu": machine()["cpu"],
        "command": f"vq compress MODEL -o OUT {' '.join(_quoted(o) for o in options)}"
        + (" --calibration CALIBRATION" if calibration else "")
        + (
            f" --windows {args.calibration_windows}"
            if calibration and args.calibration_windows
            else ""
        )
        + f" --seed {seed}",
        "evaluation": f"vq eval OUT --reference MODEL --text HELD_OUT --windows {args.windows}",
        "codebook": report["options"]["codebook"],
        "calibration_windows": report["options"]["windows"],
        **{key: score[key] for key in SCORES},
        "ratio": score["perplexity"] / score["reference_perplexity"],
        "cpu_minutes": round(spent / 60, 2) if spent else None,
        "wall_minutes": round(report["seconds"] / 60, 2),
        "resumed_blocks": report["resumed_blocks"],
        "peak_gib_so_far": round(peak, 2),
        "tuning": report.get("tuning"),
    }


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def known_rows(path: Path) -> list[dict]:
    """Rows of an earlier run."""
    if not path.is_file():
        return []
    return [row for row in json.loads(path.read_text()).get("rows", []) if "row" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument(
        "--rows", nargs="+", default=["2bit-scalar-rtn", "2bit-scalar-ldlq", "2bit"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--calibration-windows", type=int, help="other than the recipe's")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", default="benchmarks/results/recipes.json")
    args = parser.parse_args()
    rows = known_rows(Path(args.json))
    for seed in args.seeds:
        for name in args.rows:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(name, seed, args, args.keep or Path(folder))
            rows = [r for r in rows if (r["row"], r["seed"]) != (name, seed)] + [row]
            write_json(result(rows, seed), args.json)
    cells = [
        [r["row"], str(r["seed"]), f"{r['bits_per_weight']:.3f}", f"{r['perplexity']:.2f}",
         f"{r['ratio']:.3f}", f"{r['kl']:.3f}", f"{r['top1']:.1%}", str(r.get("cpu_minutes"))]
        for r in rows
    ]  # fmt: skip
    head = ["row", "seed", "bits", "perplexity", "ratio", "KL", "top-1", "CPU minutes"]
    print(table(head, cells))


if __name__ == "__main__":
    main()
