"""What do ways of rounding, outliers, low-rank parts, second codes, own tables and more scales bring at equal bits?

    python benchmarks/rounding.py MODEL --calibration cal.txt --json benchmarks/results/rounding.json
    python benchmarks/rounding.py MODEL --calibration cal.txt --only columns   # keeps the other rows of the file

Some matrices of a real model are rounded under their Hessians (inputs of the original, windows of 1024 tokens). The
error is `tr(E H E^T) / tr(W H W^T)` of the packed layer; bits are the bytes that the layer stores over
its weights, all scales, signs, outliers, thin matrices and own tables included. The last column compares with plain
LDLQ of the same codebook on the rotated matrix as if every further bit quartered its error, which is the best that bits
can do: below 1 the extra bytes are better spent here than on more bits.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vq.analysis.environment import result, table, write_json
from vq.compressors.calibration.texts import choose_windows, load_tokenizer, read_texts, tokenize
from vq.compressors.rounding.options import (
    ColumnOptions,
    LowRankOptions,
    OutlierOptions,
    TableOptions,
)
from vq.compressors.rounding.packing import pack
from vq.compressors.rounding.round import RoundingOptions, round_matrices
from vq.compressors.rounding.shelf import fitted

LAYERS = (
    "model.layers.1.self_attn.k_proj",
    "model.layers.10.self_attn.q_proj",
    "model.layers.10.mlp.down_proj",
)
SCALAR, SUMS = "kmeans(dim=1, entries=4)", "additive(stages=2, dim=8, entries=256)"
FOUR_BITS = "scalar(bits=4)"
VECTORS, TRELLIS = "kmeans(dim=4, entries=256)", "trellis(bits=2, memory=12, code=hash)"


def settings(text: str) -> dict[str, Any]:
    """Options of a row, as a recipe has them."""
    made: dict[str, Any] = {}
    for item in text.split(", ") if text else []:
        key, *values = item.split()
        numbers = [float(v) if "." in v else int(v) if v.isdigit() else v for v in values]
        if key == "outliers":
            made[key] = OutlierOptions(*numbers)
        elif key == "low_rank":
            made[key] = LowRankOptions(*numbers)
        elif key == "tables":
            made[key] = TableOptions(*numbers)
        elif key == "columns":
            made[key] = ColumnOptions(*numbers)
        else:
            made[key] = numbers[0]
    return made


NONE = "rotation none"
BESIDE = [
    "",
    "polish 1",
    "polish 4",
    "outliers 0.005 magnitude",
    "outliers 0.005 sensitivity",
    "low_rank 4 1",
    "low_rank 4 3",
    NONE,
    f"{NONE}, polish 4",
    f"{NONE}, outliers 0.005 magnitude",
    f"{NONE}, outliers 0.005 sensitivity",
    f"{NONE}, outliers 0.005 sensitivity, polish 4",
    f"{NONE}, low_rank 4 3",
]
COLUMNS = [
    f"{NONE}, columns 0.01",
    f"{NONE}, columns 0.05",
    f"{NONE}, columns 0.05 1 256",
    f"{NONE}, columns 0.02 4 256",
    f"{NONE}, columns 0.05, polish 4",
]
GROUPS = [f"{NONE}, group 128", "group 128"]
ROWS = [
    (SCALAR, f"{NONE}, method nearest"),
    (SCALAR, "method nearest"),
    *[(SCALAR, text) for text in BESIDE],
    *[(SCALAR, text) for text in COLUMNS],
    (SCALAR, f"{NONE}, method nearest, tables 1 0, outliers 0.005 sensitivity"),
    (SCALAR, f"{NONE}, tables 1 0"),
    (SCALAR, f"{NONE}, tables 1 4"),
    (SCALAR, "tables 0 0"),
    (SCALAR, "tables 0 4"),
    *[(SCALAR, text) for text in GROUPS],
    (FOUR_BITS, f"{NONE}, method nearest"),
    (FOUR_BITS, f"{NONE}, method nearest, group 128"),
    (FOUR_BITS, ""),
    (FOUR_BITS, NONE),
    *[(FOUR_BITS, text) for text in GROUPS],
    (FOUR_BITS, f"{NONE}, group 32"),
    (FOUR_BITS, f"{NONE}, group 128, polish 4"),
    (FOUR_BITS, f"{NONE}, group 128, outliers 0.005 sensitivity"),
    *[(VECTORS, text) for text in BESIDE],
    *[(VECTORS, text) for text in COLUMNS],
    *[(VECTORS, text) for text in GROUPS],
    (VECTORS, "tables 0 0"),
    (VECTORS, "tables 0 4"),
    (VECTORS, f"{NONE}, tables 0 4"),
    (SUMS, ""),
    (SUMS, "polish 4"),
    (SUMS, "tables 0 4"),
    ("e8p()", ""),
    ("e8p()", "polish 4"),
    (TRELLIS, ""),
    (TRELLIS, "polish 1"),
    (TRELLIS, "polish 4"),
    (TRELLIS, "outliers 0.005 sensitivity"),
    (TRELLIS, "low_rank 4 3"),
    (TRELLIS, f"{NONE}, outliers 0.005 sensitivity"),
    (TRELLIS, f"{NONE}, columns 0.05"),
]


class _Enough(Exception):
    """All layers were seen."""


def collect(model: str, calibration: str, layers: list[str], windows: int, seed: int) -> dict:
    """Weights and Hessians of some layers."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = tokenize(read_texts(calibration), load_tokenizer(Path(model)))
    found: dict[str, torch.Tensor] = {}
    last = max(layers, key=lambda name: int(name.split(".")[2]))

    def add(name: str):
        def hook(_module, args, _output):
            x = args[0].reshape(-1, args[0].shape[-1])
            found[f"{name}.hessian"] = found.get(f"{name}.hessian", 0) + x.t() @ x

        return hook

    def stop(*_):
        raise _Enough

    for name in layers:
        layer = net.get_submodule(name)
        found[f"{name}.weight"] = layer.weight.detach().clone()
        layer.register_forward_hook(add(name))
    net.get_submodule(".".join(last.split(".")[:3])).register_forward_hook(stop)
    rows = choose_windows(tokens, windows, 1024, seed).tokens
    for row in rows:
        try:
            with torch.no_grad():
                net(row[None])
        except _Enough:
            pass
    return {n: t / rows.numel() if n.endswith("hessian") else t for n, t in found.items()}


def measure(name: str, data: dict, spec: str, text: str, seed: int) -> dict[str, Any]:
    """One row for one layer."""
    weight, hessian = data[f"{name}.weight"], data[f"{name}.hessian"]
    book, started = fitted(spec, 0), time.process_time()
    options = RoundingOptions(**{"rotation": "input", **settings(text)})
    rounded = round_matrices({name: weight}, hessian, book, options, seed=seed)[name]
    seconds = time.process_time() - started
    layer = pack(rounded, book, weight.shape[1])
    error = (weight - layer.dequantize()).double()
    whole, metric = weight.double(), hessian.double()
    proxy = float(((error @ metric) * error).sum() / ((whole @ metric) * whole).sum())
    return {
        "layer": name,
        "codebook": spec,
        "options": text,
        "bits_per_weight": layer.bits_per_weight,
        "error": proxy,
        "cpu_seconds": round(seconds, 2),
    }


def compare(rows: list[dict[str, Any]]) -> None:
    """Add the ratio to plain LDLQ at equal bits to each row."""
    plain = {(r["layer"], r["codebook"]): r for r in rows if not r["options"]}
    for row in rows:
        base = plain[row["layer"], row["codebook"]]
        more = row["bits_per_weight"] - base["bits_per_weight"]
        row["ratio_at_equal_bits"] = row["error"] / (base["error"] * 4**-more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hessians", type=Path, help="file that keeps weights and Hessians")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", help="measure rows with this word in their options, and plain ones"
    )
    parser.add_argument("--json", default="benchmarks/results/rounding.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.hessians and args.hessians.is_file():
        data = load_file(args.hessians)
    else:
        data = collect(args.model, args.calibration, args.layers, args.windows, args.seed)
        if args.hessians:
            save_file(data, args.hessians)
    rows: list[dict[str, Any]] = []
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    if args.only:
        stored = json.loads(Path(args.json).read_text(encoding="utf-8"))["rows"]
        known = {(r["layer"], r["codebook"], r["options"]): r for r in stored}
    for spec, text in ROWS:
        for name in args.layers:
            if args.only and text and args.only not in text and (name, spec, text) in known:
                rows.append(known[name, spec, text])
                continue
            rows.append(measure(name, data, spec, text, args.seed))
            print(*rows[-1].values(), flush=True)
    compare(rows)
    write_json(result(rows, args.seed), args.json)
    cells = []
    for spec, text in ROWS:
        own = [r for r in rows if (r["codebook"], r["options"]) == (spec, text)]
        cells.append(
            [spec, text or "LDLQ, rotated"]
            + [f"{r['bits_per_weight']:.2f} {r['error']:.5f} {r['ratio_at_equal_bits']:.2f}" for r in own]
            + [f"{sum(r['cpu_seconds'] for r in own):.1f}"]
        )  # fmt: skip
    names = [f"{name}: bits, error, ratio" for name in args.layers]
    print(table(["codebook", "options", *names, "CPU seconds"], cells))


if __name__ == "__main__":
    main()
