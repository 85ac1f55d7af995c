"""How fast is a packed linear layer next to those of other packages, in one process?

python benchmarks/peers.py --json benchmarks/results/peers.json

Each package is optional; what is missing, or does not run here, is said and left out:
    pip install onnxruntime onnx openvino numba auto-round-lib bitsandbytes && pip install --no-deps aqlm
All layers have one shape and read their weights from memory: calls of all packages take turns, each time on another
copy. One thread each; a time is the processor time of the whole process, so threads that a package starts beside count.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # read when the packages are imported

import statistics  # noqa: E402 - after the environment is set
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from vq.analysis.environment import result, table, write_json  # noqa: E402
from vq.cli.bench_matmul import random_layer  # noqa: E402
from vq.cli.common import progress  # noqa: E402
from vq.codebooks import build  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from peer_layers import PEERS, Peer  # noqa: E402

OURS = (
    "trellis(bits=2, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=hash, levels=16)",
    "e8p",
    "additive(stages=2, dim=8, entries=256)",
    "kmeans(dim=4, entries=256)",
    "scalar(bits=2)",
    "scalar(bits=4)",
)
PACKAGES = ("onnxruntime", "openvino", "aqlm", "numba", "auto-round-lib", "bitsandbytes")
MODES = ("int8", "int15")
Row = dict[str, Any]


def torch_peer(dtype: torch.dtype) -> Callable[[int, int, int, int], Peer]:
    """A linear layer of torch itself."""

    def make(out: int, width: int, copies: int, seed: int) -> Peer:
        dense = torch.randn(out, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
        stored = [dense.clone() for _ in range(max(2, copies // dtype.itemsize))]

        def call(x: Tensor, i: int) -> Tensor:
            return torch.nn.functional.linear(x.to(dtype), stored[i % len(stored)])

        return Peer(8 * dtype.itemsize, call, dense.float())

    return make


def own_peer(spec: str, mode: str) -> Callable[[int, int, int, int], Peer]:
    """A ``QuantizedLinear`` of a codebook with random codes."""

    def make(out: int, width: int, copies: int, seed: int) -> Peer:
        first = random_layer(build(spec), out, width, seed)
        layers = [first]
        for _ in range(copies - 1):
            other = type(first)(width, out, first.codebook)
            other.weight, other.scales = first.weight.clone(), first.scales
            other.signs_in = first.signs_in
            layers.append(other)
        for layer in layers:
            layer.mode = mode
        return Peer(first.bits_per_weight, lambda x, i: layers[i % copies](x), first.dequantize())

    return make


def methods() -> dict[str, Callable[[int, int, int, int], Peer]]:
    """Everything that is measured."""
    own = {f"vq {spec} {mode}": own_peer(spec, mode) for spec in OURS for mode in MODES}
    return {
        "torch float32": torch_peer(torch.float32),
        "torch bfloat16": torch_peer(torch.bfloat16),
        **own,
        **PEERS,
    }


def make_all(shape: tuple[int, int], copies: int, seed: int) -> dict[str, Peer]:
    """Layers of all packages that are here and run here."""
    peers, x = {}, torch.randn(2, shape[1])
    found = methods()
    done, close = progress(len(found), "layers", "layer")
    for count, (name, make) in enumerate(found.items(), 1):
        try:
            peer = make(*shape, copies, seed)
            peer.call(x, 0)
            peers[name] = peer
        except ImportError as error:
            print(f"peers: {name} is left out: {error}", file=sys.stderr)
        except Exception as error:  # other people's code may fail in its own ways on this processor
            print(
                f"peers: {name} does not run here: {type(error).__name__}: {error}", file=sys.stderr
            )
        done(count)
    close()
    return peers


def timed(peers: dict[str, Peer], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of every layer in every round; the order turns, two rounds warm up."""
    names, times = list(peers), {name: [] for name in peers}
    done, close = progress(rounds + 2, f"batch {len(x)}", "round")
    for turn in range(rounds + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            peers[name].call(x, turn)
            times[name].append(time.process_time() - start)
        done(turn + 1)
    close()
    return {name: own[2:] for name, own in times.items()}


@torch.no_grad()
def measure(
    shape: tuple[int, int], batches: list[int], copies: int, rounds: int, seed: int
) -> list[Row]:
    """Rows of every layer and batch."""
    peers, rows = make_all(shape, copies, seed), []
    for batch in batches:
        x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(seed + 1))
        times = timed(peers, x, rounds)
        for name, peer in peers.items():
            y = torch.as_tensor(peer.call(x, 0)).double()
            exact = x.double() @ peer.dense.double().T
            pairs = zip(times["torch float32"], times[name], strict=True)
            rows.append(
                {
                    "name": name,
                    "bits_per_weight": peer.bits_per_weight,
                    "out": shape[0],
                    "in": shape[1],
                    "batch": batch,
                    "ms": statistics.median(times[name]) * 1e3,
                    "ratio_fp32": statistics.median(a / b for a, b in pairs),
                    "rel_error": float((y - exact).norm() / exact.norm()),
                }
            )
    return rows


def installed() -> dict[str, str]:
    """Versions of the packages that are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def show(rows: list[Row]) -> str:
    """One table, fastest first within a batch."""
    ordered = sorted(rows, key=lambda row: (row["batch"], row["ms"]))
    cells = [
        [row["name"], f"{row['bits_per_weight']:.2f}", f"{row['out']}x{row['in']}", str(row["batch"]),
         f"{row['ms']:.3f}", f"{row['ratio_fp32']:.2f}", f"{row['rel_error']:.1e}"]
        for row in ordered
    ]  # fmt: skip
    return table(["layer", "bits", "shape", "batch", "ms", "x fp32", "error"], cells)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 4096], metavar=("OUT", "IN"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--copies", type=int, default=12, help="of each weight (default: 12)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the result to this file, or - for standard output")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = measure(tuple(args.shape), args.batch, args.copies, args.rounds, args.seed)
    data = result(rows, args.seed)
    data["versions"] |= installed()
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(f"{data['machine']['cpu']}, one thread, torch {torch.__version__}, seed {args.seed}")
        print(show(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
