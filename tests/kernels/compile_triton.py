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

from vq.kernels.triton import search, viterbi

TABLES = [(1, 256), (2, 16), (8, 300), (8, 4096), (16, 1024), (32, 256)]  # dim, entries
TRELLISES = [(1, 6, 1), (2, 12, 1), (4, 12, 2), (3, 13, 1), (8, 12, 2), (1, 16, 1), (2, 16, 1), (4, 16, 2)]  # fmt: skip
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


if __name__ == "__main__":
    for kernel in (search.short_kernel, search.long_kernel, viterbi.viterbi_kernel):
        stop_before_launch(kernel)
    for capability in map(int, sys.argv[2:]):
        driver.set_active(Nowhere(capability))
        main(sys.argv[1] == "all")
