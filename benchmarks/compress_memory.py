"""Does peak memory stay flat as a model grows? Synthetic Llamas of 6 to 48 blocks, and one block in the shape of 7B.

    python benchmarks/compress_memory.py --json benchmarks/results/compress_memory.json
    python benchmarks/compress_memory.py --large --json benchmarks/results/compress_memory.json

Weights are random; each model is compressed in a process of its own. `peak_mib` is the most that was resident there, as
Linux counts it (`VmHWM`); `peak_anonymous_mib` is the part of it that no file stands behind, looked at every 5 ms;
`before_mib` is what was resident before the first weight was read, most of it imported libraries.
`--large` adds a model with a single block as wide as Llama-2-7B (4096, 11008), and projects its 32 blocks: time times
32, memory as measured, for only one block is in memory at a time. The embedding and head are kept small there, for they
are not compressed.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from vq.analysis.environment import result, table, write_json

SMALL = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8}
LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
CHILD = r"""
import json, sys, threading, time
import torch, vq
torch.set_num_threads(int(sys.argv[5]))
model, out, options, windows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
generator = torch.Generator().manual_seed(0)
tokens = torch.randint(256, (windows * options["context"],), generator=generator)
import transformers
from vq.compressors import pipeline

def status():
    with open("/proc/self/status") as file:
        pairs = [line.split() for line in file]
    return {p[0][:-1]: int(p[1]) / 1024 for p in pairs if p[0].startswith(("VmHWM", "VmRSS", "Rss"))}

anonymous, before, ended = [0.0], {}, threading.Event()

def watch():
    while not ended.wait(0.005):
        anonymous[0] = max(anonymous[0], status()["RssAnon"])

def tell(progress):
    if progress.stage == "read":  # the model's classes are imported, none of its weights was read
        before.update(status())

watching = threading.Thread(target=watch, daemon=True)
watching.start()
started = time.process_time()
report = vq.compress(
    model, out, options=vq.CompressOptions(windows=windows, **options), calibration=tokens, progress=tell
)
seconds = time.process_time() - started
ended.set()
watching.join()
print(json.dumps({
    "cpu_seconds": seconds,
    "peak_mib": status()["VmHWM"],
    "peak_anonymous_mib": anonymous[0],
    "before_mib": before["VmRSS"],
    "before_anonymous_mib": before["RssAnon"],
    "weights": report.report["totals"]["quantized_weights"],
    "bits_per_weight": report.report["totals"]["bits_per_weight"],
}))
"""


def make(folder: Path, blocks: int, sizes: dict, seed: int) -> Path:
    """A random model, written tensor by tensor."""
    import torch
    import transformers

    from vq.compressors.files.tensorfile import Pending, write_tensors

    config = transformers.LlamaConfig(
        num_hidden_layers=blocks,
        num_key_value_heads=sizes["num_attention_heads"],
        vocab_size=256,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="float16",
        **sizes,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)

    def load(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.float16)
        number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "little")
        generator = torch.Generator().manual_seed(number)
        return (torch.randn(shape, generator=generator) / shape[1] ** 0.5).half()

    tensors = {
        name: Pending(torch.float16, tuple(p.shape), lambda n=name, s=tuple(p.shape): load(n, s))
        for name, p in model.named_parameters()
    }
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return folder


def measure(blocks: int, sizes: dict, args: argparse.Namespace) -> dict:
    """Compress one model in a process of its own."""
    options = {"codebook": args.codebook, "context": args.context, "seed": args.seed}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        model = make(Path(name) / "model", blocks, sizes, args.seed)
        size = (model / "model.safetensors").stat().st_size
        command = [sys.executable, "-c", CHILD, str(model), str(Path(name) / "out")]
        command += [json.dumps(options), str(args.windows), str(args.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    return {
        "blocks": blocks,
        "width": sizes["hidden_size"],
        "windows": args.windows,
        "context": args.context,
        "codebook": args.codebook,
        "file_mib": size / 2**20,
        **measured,
        "cpu_seconds_a_block": measured["cpu_seconds"] / blocks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="*", default=[6, 12, 24, 48])
    parser.add_argument("--large", action="store_true", help="one block in the shape of 7B")
    parser.add_argument("--codebook", default="scalar(bits=2)")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the models; the system's temporary folder by default")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rows = [measure(blocks, SMALL, args) for blocks in args.blocks]
    if args.large:
        row = measure(1, LARGE, args)
        rows.append(
            {**row, "projected_blocks": 32, "projected_cpu_hours": 32 * row["cpu_seconds"] / 3600}
        )
    keys = ["blocks", "width", "file_mib", "before_mib", "peak_mib", "peak_anonymous_mib"]
    keys += ["cpu_seconds_a_block", "bits_per_weight"]
    print(
        table(
            keys,
            [
                [f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in keys]
                for row in rows
            ],
        )
    )
    if args.json:
        write_json(result(rows, args.seed), args.json)


if __name__ == "__main__":
    main()
