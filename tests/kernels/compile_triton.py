"""Compiles the Triton kernels for a GPU that is not there, as the operations would launch them.

Run as a script with compute capabilities (80 90): prints a line of JSON for every kernel. The driver is replaced by
one that only names its target, and a launch stops after compiling, so the code of the operations runs up to there.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from vq.cli.bench_matmul import random_layer
from vq.codebooks import build
from vq.kernels.formats import HASH_CODE, TABLE_CODE, TILES, PackedHeader, assemble
from vq.kernels.triton import common, hadamard, linear, rows, search, tiles, viterbi

TABLES = [(1, 256), (2, 16), (8, 300), (8, 4096), (16, 1024), (32, 256)]  # dim, entries
TRELLISES = [(1, 6, 1), (2, 12, 1), (4, 12, 2), (3, 13, 1), (8, 12, 2), (1, 16, 1), (2, 16, 1), (4, 16, 2)]  # fmt: skip
CODEBOOKS = [
    "scalar(bits=2)", "scalar(bits=3)", "scalar(bits=4)", "kmeans(dim=4, entries=256)", "kmeans(dim=8, entries=4096)",
    "e8p", "additive(stages=2, dim=8, entries=256)",
]  # fmt: skip
PACKED_TRELLISES = [
    (2, 12, 2, 1),
    (1, 10, 2, 1),
    (3, 16, 2, 1),
    (4, 14, 2, 1),
    (2, 16, 2, 0),
    (2, 12, 1, 0),
]
ROTATIONS = [64, 1024, 4096, 16384]
compiled = []


class Nowhere:
    """A driver of a GPU that is not there."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


def stop_before_launch(kernel):
    launch = kernel.run

    def run(*arguments, grid, warmup, **options):
        compiled.append(launch(*arguments, grid=grid, warmup=True, **options))

    kernel.run = run


def stack_bytes(cubin):
    """Bytes a thread spills, by the tool that comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        told = subprocess.run(
            [tool, "-res-usage", path], capture_output=True, text=True, check=True
        )
    return int(re.search(r"STACK:(\d+)", told.stdout).group(1))


def report(name):
    kernel = compiled.pop()
    told = {"stack": stack_bytes(kernel.asm["cubin"]), "shared": kernel.metadata.shared}
    told |= {
        "tensor_cores": "mma" in kernel.asm["ptx"],
        "barriers": "bar.sync" in kernel.asm["ptx"],
    }
    print(json.dumps({"name": name, **told}), flush=True)


def trellis_layer(bits, memory, symbols, code):
    """Arguments of a packed layer of 128 x 256 with a trellis; what its codes are does not matter."""
    header = PackedHeader(
        TILES, 128, 256, bits * symbols, 256, memory, symbols, code, 256 // symbols,
        hash_constant=36547 if code == HASH_CODE else 0, step=0.025 if code == HASH_CODE else 0.0,
    )  # fmt: skip
    table = torch.zeros(64, dtype=torch.int8)
    if code == TABLE_CODE:
        table = torch.zeros(1 << memory, symbols)
    weight = assemble(header, torch.zeros(header.payload_bytes, dtype=torch.uint8))
    return weight, torch.ones(128).half(), None, None, table


def codebook_layer(spec):
    book = build(spec)
    made = random_layer(book, 128, 256, 0)
    table = book.tables if hasattr(book, "tables") else made._table()
    return made.weight, made.scales, None, None, table


def packed_layers(every):
    """All kernels of packed layers: fused in float16 and float32, decoding; the sum over splits comes after each."""
    layers = [
        ("trellis " + str(t), trellis_layer(*t)) for t in PACKED_TRELLISES[: None if every else 1]
    ]
    layers += [(spec, codebook_layer(spec)) for spec in (CODEBOOKS if every else CODEBOOKS[3:6:2])]
    for name, layer in layers:
        for rows_of_x, dtype in ((2, torch.float16), (2, torch.float32), (20, torch.float16)):
            if every or dtype == torch.float16:
                compiled.clear()
                linear.packed_linear(torch.zeros(rows_of_x, 256, dtype=dtype), *layer, "float")
                kind = (
                    "decode" if rows_of_x > 16 else "half" if dtype == torch.float16 else "float32"
                )
                finish = compiled.pop()
                report(f"packed_linear {name} {kind}")
    compiled.append(finish)
    report("finish")
    for n in ROTATIONS if every else ROTATIONS[1:2]:
        compiled.clear()
        hadamard.hadamard(torch.zeros(2, n, dtype=torch.float16), None, None)
        while compiled:
            report(f"hadamard {n} {compiled[-1].metadata.name}")


def main(every):
    for (dim, entries), own, keep in itertools.product(TABLES, (False, True), (1, 2)):
        if every or (dim, own, keep) in ((8, True, 2), (32, False, 1)):
            x, table = torch.zeros(500, dim), torch.zeros(entries, dim)
            search.find(x, table, x if own else None, None, keep, False)
            report(f"nearest dim={dim} entries={entries} own={own} keep={keep}")
    for bits, memory, symbols in TRELLISES:
        if every or (memory == 12 and bits <= 4):
            viterbi.encode(torch.zeros(9, 256), torch.zeros(1 << memory, symbols), bits, memory)
            report(f"trellis_encode bits={bits} memory={memory} symbols={symbols}")
    packed_layers(every)


if __name__ == "__main__":
    for kernel in (
        search.short_kernel,
        search.long_kernel,
        viterbi.viterbi_kernel,
        common.finish_kernel,
    ):
        stop_before_launch(kernel)
    for module in (tiles, rows):
        stop_before_launch(module.product_kernel)
        stop_before_launch(module.decode_kernel)
    for kernel in (hadamard.small_kernel, hadamard.block_kernel, hadamard.combine_kernel):
        stop_before_launch(kernel)
    for capability in map(int, sys.argv[2:]):
        driver.set_active(Nowhere(capability))
        main(sys.argv[1] == "all")
