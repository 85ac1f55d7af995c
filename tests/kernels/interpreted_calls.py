"""What the tests of the GPU kernels call in the process where Triton's kernels are interpreted."""

import importlib
import importlib.util
import warnings
from types import SimpleNamespace

import torch

from vq.kernels.hadamard import hadamard
from vq.kernels.linear import packed_linear, quick_linear


def rotation(x, first, last):
    return hadamard(x, first, last)


def operation(x, args, mode):
    return packed_linear(x, *args, mode)


def transposed(grad, args, width):
    return torch.ops.vq.packed_linear_transposed(grad, *args, width)


def forward(module, x):
    return module(x)


def set_in(module, name, value):
    """Changes a constant of a module, and returns what it was."""
    module = importlib.import_module(module)
    before = getattr(module, name)
    setattr(module, name, value)
    return before


def caught(x, args):
    """Warnings of two calls."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            operation(x, args, "float")
    return [str(w.message) for w in told]


def header_reads(weight, other):
    """How often headers were read: of one weight again and again, another, and one after a change."""
    from vq.kernels.triton import common

    count, read = [], common.read_header
    common.read_header = lambda w: count.append(1) or read(w)
    steps = []
    for one in (weight, weight, other, weight):
        common.header_of(one)
        steps.append(len(count))
    weight.copy_(other)
    assert common.header_of(weight).out_features == 7
    common.read_header = read
    return [*steps, len(count)]


def checked(x, args):
    torch.library.opcheck(torch.ops.vq.packed_linear.default, (x, *args, "float"))
    return quick_linear(x, *args, "float").grad_fn is not None


def panel_product(x, weight, fields, table):
    from vq.kernels.triton import rows

    header = SimpleNamespace(**fields)
    out = torch.empty(header.out_features - 64, header.in_features)
    rows.decode(weight, header, table, out, 64)
    return rows.product(x, None, weight, header, table).sum(0), out


def tuned(x, args):
    from vq.kernels.triton import common, tuning

    def seconds(work):
        work()
        return next(clock)

    clock = iter((3.0, 1.0, 2.0, 4.0, 5.0))
    common.TUNED.clear()
    times = tuning.tune(x, *args, "float", seconds)
    kept = dict(common.TUNED)
    y = operation(x, args, "float")
    common.TUNED.clear()
    return times, kept, y


def benchmark_rows(script):
    """Rows of the GPU benchmark for tiny layers, without a GPU."""
    spec = importlib.util.spec_from_file_location("gpu_kernels", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = []
    for format_ in ("trellis(bits=2, memory=8, code=hash)", "scalar(bits=2)"):
        rows += module.layer_rows(format_, (8, 16), (2,), "cpu", 0, 1)
    return [*rows, module.rotation_row((1, 16), "cpu", 0, 1)]
