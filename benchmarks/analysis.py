"""How long ``vq analyze`` takes: tokens by the hundred million, a large codebook, a compressed model.

    python benchmarks/analysis.py --json benchmarks/results/analysis.json
    python benchmarks/analysis.py --model COMPRESSED --original ORIGINAL

Seconds of CPU time of the whole process, and of the clock. Without ``--model`` a folder with the matrices of a
Llama-like model of 135 million parameters is made, its codes drawn at random: they decode as fast as any.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from vq.analysis.environment import result, table, write_json
from vq.analysis.files.open import open_subject
from vq.analysis.measures.gather import gather
from vq.analysis.pipeline import analyze
from vq.analysis.subject import Subject, Table
from vq.codebooks import build
from vq.kernels.formats import PackedHeader, assemble

K = 16384
SHAPES = {"q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
          "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536)}  # fmt: skip
BLOCKS, VOCABULARY, WIDTH = 30, 49152, 576


def timed(what: str, run: Callable[[], Any], **more: Any) -> dict[str, Any]:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    row = {
        "what": what,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        **more,
    }
    print(f"{what}: {row['cpu_s']:.2f} s CPU", flush=True)
    return row


def write_tokens(folder: Path, tokens: int, kind: str, seed: int) -> None:
    """Shards of one code a position, uint16, an item for each 2^20 tokens."""
    generator, each = np.random.default_rng(seed), 1 << 20
    p = 1 / np.arange(1, K + 1)
    cdf = np.cumsum(p / p.sum())
    spec = {"kind": "audio", "entries": [K], "strides": [1], "hop": [320], "channels": 1, "sample_rate": 24000,
            "normalisation": "none", "model_hash": "benchmark", "version": 1}  # fmt: skip
    shards, items = [], []
    for number, start in enumerate(range(0, tokens, 16 * each)):
        count = min(16 * each, tokens - start)
        uniform = generator.random(count)
        codes = np.searchsorted(cdf, uniform) if kind == "zipf" else (uniform * K).astype(np.int64)
        name = f"tokens-{number:05d}.safetensors"
        save_file({"codes": torch.from_numpy(codes.astype(np.uint16))}, folder / name)
        shards.append({"name": name, "bytes": (folder / name).stat().st_size, "sha256": ""})
        for offset in range(0, count, each):
            size = min(each, count - offset)
            items.append({"key": f"{number}/{offset}", "shape": [size], "size": [size * 320], "gain": 1.0,
                          "shard": number, "offset": 2 * offset, "bytes": 2 * size})  # fmt: skip
    index = {"format": "vq-tokens", "version": 1, "spec": spec, "storage": "uint16", "positions": tokens,
             "shards": shards, "items": items}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))


def write_model(folder: Path, seed: int) -> None:
    """A folder as the compressor writes it, of random codes of the hash trellis."""
    generator = torch.Generator().manual_seed(seed)
    spec = "trellis(bits=2, memory=12, code=hash)"
    book: Any = build(spec)
    tensors = {f"vq_codebooks.c0.{n}": t for n, t in book.state_dict().items()}
    tensors["model.embed_tokens.weight"] = torch.randn(
        VOCABULARY, WIDTH, generator=generator
    ).half()
    layers = {}
    for block in range(BLOCKS):
        for part, (rows, columns) in SHAPES.items():
            name = f"model.layers.{block}.{part}"
            header = PackedHeader(2, rows, columns, book.step_bits, 256, book.memory, book.symbols, 1,
                                  256 // book.symbols, int(book.hash_constant), float(book.step))  # fmt: skip
            payload = torch.randint(
                0, 256, (header.payload_bytes,), generator=generator, dtype=torch.uint8
            )
            tensors[f"{name}.weight"] = assemble(header, payload)
            tensors[f"{name}.scales"] = torch.rand(rows, generator=generator).half() + 0.5
            tensors[f"{name}.signs_in"] = torch.randint(0, 256, (columns // 8,), dtype=torch.uint8)
            layers[name] = {"codebook": spec, "shape": [rows, columns], "proxy_error": 0.07}
    save_file(tensors, folder / "model.safetensors")
    about = {"quant_method": "vq", "format_version": 1, "codebooks": {"c0": {"spec": spec, "version": 1}},
             "default_codebook": "c0", "layers": {}, "rotation": "input", "rounding": "ldlq"}  # fmt: skip
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "quantization_config": about})
    )
    (folder / "compression.json").write_text(json.dumps({"layers": layers}))


def token_rows(tokens: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for kind in ("zipf", "even"):
        with tempfile.TemporaryDirectory() as name:
            write_tokens(Path(name), tokens, kind, seed)
            subject = open_subject(name)
            assert subject.codes is not None
            codes = subject.codes

            def use_and_pairs(codes: Any = codes) -> None:
                streams = gather(codes)
                streams.pairs[0].result()

            more = {"tokens": tokens, "entries": K}
            rows.append(timed(f"use and pairs, {kind}", use_and_pairs, **more))
            rows.append(timed(f"whole report, {kind}", lambda s=subject: analyze(s), **more))
    return rows


def command(what: str, *arguments: object, **more: Any) -> dict[str, Any]:
    """The whole command in a process of its own, start of Python and the page included."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        subprocess.run(
            [sys.executable, "-m", "vq.cli", "analyze", *map(str, arguments), "-o", page],
            check=True,
            capture_output=True,
        )
        more["page_bytes"] = page.stat().st_size
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what}: {cpu:.2f} s CPU", flush=True)
    return {"what": what, "cpu_s": cpu, "wall_s": time.perf_counter() - wall, **more}


def codebook_rows(seed: int) -> list[dict[str, Any]]:
    values = torch.randn(65536, 8, generator=torch.Generator().manual_seed(seed))
    subject = Subject("codebook", "random", Path("random"), tables=(Table("", values),))
    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "table.npy", values.numpy())
        return [
            timed("report, 65536 x 8", lambda: analyze(subject), entries=65536),
            command("command with page, 65536 x 8", Path(name) / "table.npy", entries=65536),
        ]


def write_original(folder: Path, seed: int) -> None:
    """Dense matrices of the model of ``write_model``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"model.layers.{block}.{part}.weight": torch.randn(*shape, generator=generator).half()
        for block in range(BLOCKS)
        for part, shape in SHAPES.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def model_rows(path: str | None, original: str | None, seed: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as dense:
        more: dict[str, Any] = {}
        if path is None:
            write_model(Path(name), seed)
            write_original(Path(dense), seed)
            path, original = name, dense
            more["weights"] = BLOCKS * sum(rows * columns for rows, columns in SHAPES.values())
        rows = [
            timed("report, compressed model", lambda: analyze(open_subject(path)), **more),
            command("command with page, compressed model", path, **more),
        ]
        if original is not None:
            what = "command with page, compressed model and its original"
            rows.append(command(what, path, original, **more))
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=float, default=1e8)
    parser.add_argument("--model", help="folder of a compressed model")
    parser.add_argument("--original", help="folder of that model before compression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the result")
    args = parser.parse_args()
    rows = [
        *codebook_rows(args.seed),
        *model_rows(args.model, args.original, args.seed),
        *token_rows(int(args.tokens), args.seed),
    ]
    lines = [[r["what"], f"{r['cpu_s']:.2f}", f"{r['wall_s']:.2f}"] for r in rows]
    print(table(["what", "CPU s", "clock s"], lines))
    if args.json:
        write_json(result(rows, args.seed), args.json)


if __name__ == "__main__":
    main()
