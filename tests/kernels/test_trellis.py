"""The trellis operations against exhaustive search, an independent oracle and each other."""

import itertools

import pytest
import torch

from vq.kernels import dispatch, trellis_reference
from vq.kernels.trellis import trellis_decode, trellis_encode, trellis_pack, trellis_unpack

# step_bits, memory, symbols: every width of a step, few groups and many, memory no multiple of a step
SHAPES = [
    (1, 6, 1), (2, 6, 1), (4, 6, 2), (5, 6, 2), (8, 9, 1), (1, 8, 2), (3, 9, 2), (6, 9, 1), (7, 11, 2),
    (2, 10, 1), (4, 12, 2), (5, 12, 2), (6, 12, 2), (8, 12, 2), (3, 12, 1), (4, 12, 1),
]  # fmt: skip


def problem(step_bits, memory, symbols, *, n=6, length=256, seed=0):
    generator = torch.Generator().manual_seed(seed + memory)
    x = torch.randn(n, length, generator=generator)
    return x, torch.randn(1 << memory, symbols, generator=generator)


def streams(codes, step_bits):
    return ["".join(format(int(c), f"0{step_bits}b") for c in row) for row in codes]


def scalar_values(stream, table, step_bits, memory):
    """Values of a circular bit string, by the format's words and nothing else."""
    turn = stream * (memory // len(stream) + 2)
    windows = [turn[i : i + memory] for i in range(0, len(stream), step_bits)]
    return torch.cat([table[int(w, 2)] for w in windows])


@pytest.fixture
def instructions():
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    before = native.isa()
    yield native
    native.set_isa(before)


@pytest.mark.parametrize("step_bits, memory, symbols", SHAPES)
def test_every_instruction_set_gives_the_reference_codes(instructions, step_bits, memory, symbols):
    x, table = problem(step_bits, memory, symbols, n=6 if memory < 11 else 3)
    x[1] *= 5  # saturates
    x[2] = 0.3  # ties
    expected = trellis_reference.encode(x, table, step_bits, memory)
    for name in ("portable", "avx2", "avx512"):
        try:
            instructions.set_isa(name)
        except ValueError:
            continue
        assert torch.equal(trellis_encode(x, table, step_bits, memory), expected), name


def test_ties_are_the_same_everywhere(instructions):
    table = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)).sign()
    x = torch.randn(20, 256, generator=torch.Generator().manual_seed(1)).sign()
    expected = trellis_reference.encode(x, table, 2, 8)
    for name in ("portable", "avx2", "avx512"):
        try:
            instructions.set_isa(name)
        except ValueError:
            continue
        assert torch.equal(trellis_encode(x, table, 2, 8), expected), name


@pytest.mark.parametrize("step_bits, memory, symbols", [(2, 10, 1), (4, 10, 2)])
def test_thread_count_does_not_matter(step_bits, memory, symbols):
    x, table = problem(step_bits, memory, symbols, n=101)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(trellis_encode(x, table, step_bits, memory))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    alone = torch.cat([trellis_encode(row[None], table, step_bits, memory) for row in x[:5]])
    assert torch.equal(found[0][:5], alone)


@pytest.mark.parametrize(
    "step_bits, memory, symbols, steps", [(1, 3, 1, 10), (2, 5, 1, 6), (2, 4, 2, 5)]
)
def test_second_pass_is_exact_and_the_first_nearly(step_bits, memory, symbols, steps):
    x, table = problem(step_bits, memory, symbols, n=60, length=steps * symbols)
    codes = trellis_encode(x, table, step_bits, memory)
    chosen = streams(codes, step_bits)
    every = ["".join(bits) for bits in itertools.product("01", repeat=steps * step_bits)]
    values = torch.stack([scalar_values(s, table, step_bits, memory) for s in every])
    errors = torch.cdist(x.double(), values.double()).square()
    seam = memory - step_bits
    best_ratio = []
    for row, stream in enumerate(chosen):
        got = float(errors[row, int(stream, 2)])
        same = [i for i, s in enumerate(every) if s[:seam] == stream[:seam]]
        assert got <= float(errors[row, same].min()) + steps * 1e-3  # rounding of costs
        best_ratio.append(got / float(errors[row].min()))
    assert sum(ratio < 1.001 for ratio in best_ratio) >= 0.5 * len(best_ratio)


def best_over_all_seams(x, table, step_bits, memory):
    """Smallest squared error of a tail-biting path, by Viterbi in float64 from every group."""
    branches, groups = 1 << step_bits, 1 << (memory - step_bits)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for seam in range(groups):
        cost = torch.full((len(x), groups), torch.inf, dtype=torch.float64)
        cost[:, seam] = 0
        for now in x.double().reshape(len(x), -1, table.shape[1]).unbind(1):
            error = (now[:, None] - table.double()).square().sum(-1)
            states = cost.repeat_interleave(branches, 1) + error
            cost = states.reshape(len(x), branches, groups).amin(1)
        best = torch.minimum(best, cost[:, seam])
    return best


@pytest.mark.parametrize("step_bits, memory, symbols", [(1, 5, 1), (2, 6, 1), (2, 6, 2), (3, 6, 2)])
def test_two_passes_come_near_the_best_tail_biting_path(step_bits, memory, symbols):
    x, table = problem(step_bits, memory, symbols, n=24)
    codes = trellis_encode(x, table, step_bits, memory)
    values = trellis_decode(codes, table, step_bits, memory)
    got = (x.double() - values.double()).square().sum(1)
    best = best_over_all_seams(x, table, step_bits, memory)
    assert bool((got >= best * (1 - 1e-9)).all())
    assert float(got.mean()) <= 1.005 * float(best.mean())


@pytest.mark.parametrize("step_bits, memory, symbols", SHAPES)
def test_decode_reads_windows_of_the_circular_stream(step_bits, memory, symbols):
    _, table = problem(step_bits, memory, symbols)
    steps = 256 // symbols
    codes = torch.randint(1 << step_bits, (4, steps), dtype=torch.uint8)
    expected = [scalar_values(s, table, step_bits, memory) for s in streams(codes, step_bits)]
    assert torch.equal(trellis_decode(codes, table, step_bits, memory), torch.stack(expected))
    assert torch.equal(
        trellis_reference.decode(codes, table, step_bits, memory), torch.stack(expected)
    )


@pytest.mark.parametrize("step_bits, symbols", [(b, v) for b in range(1, 9) for v in (1, 2)])
def test_pack_is_the_stream_most_significant_bit_first(step_bits, symbols):
    steps = 256 // symbols
    codes = torch.randint(1 << step_bits, (5, steps), dtype=torch.uint8)
    packed = trellis_pack(codes, step_bits)
    assert packed.shape == (5, steps * step_bits // 8)  # not one bit more
    for row, stream in zip(packed, streams(codes, step_bits), strict=True):
        words = [int(stream[i : i + 64], 2) for i in range(0, len(stream), 64)]
        assert bytes(row.tolist()) == b"".join(w.to_bytes(8, "little") for w in words)
    assert torch.equal(trellis_reference.pack(codes, step_bits), packed)
    assert torch.equal(trellis_unpack(packed, step_bits), codes)
    assert torch.equal(trellis_reference.unpack(packed, step_bits), codes)


def test_outliers_saturate_and_do_not_wrap():
    table = torch.linspace(-3.9, 3.9, 4096).unsqueeze(1)[torch.randperm(4096)]
    for value in (3.9, 4.1, 8.0, 1e4, 3e38):
        x = torch.tensor([value, -value]).repeat(128)[None]
        decoded = trellis_decode(trellis_encode(x, table, 4, 12), table, 4, 12)
        assert bool((decoded.sign() == x.sign()).all())
        assert float(decoded.abs().min()) > 2.5


def test_an_even_input_finds_the_matching_state():
    table = torch.zeros(64, 1)
    table[21] = table[42] = 1.0  # 010101 and 101010: the stream 0101...
    table[table == 0] = -1.0
    codes = trellis_encode(torch.ones(1, 64), table, 1, 6)
    assert streams(codes, 1)[0] in ("01" * 32, "10" * 32)


def test_empty_batch():
    _, table = problem(4, 10, 2)
    codes = trellis_encode(torch.zeros(0, 256), table, 4, 10)
    assert codes.shape == (0, 128) and codes.dtype == torch.uint8
    assert trellis_reference.encode(torch.zeros(0, 256), table, 4, 10).shape == (0, 128)
    assert trellis_decode(codes, table, 4, 10).shape == (0, 256)
    assert trellis_unpack(trellis_pack(codes, 4), 4).shape == (0, 128)


def test_strided_and_half_inputs():
    x, table = problem(2, 8, 1, n=8)
    expected = trellis_encode(x[::2].contiguous(), table, 2, 8)
    assert torch.equal(trellis_encode(x[::2], table, 2, 8), expected)
    assert torch.equal(trellis_encode(x[::2], table.t().contiguous().t(), 2, 8), expected)
    narrow = trellis_encode(x.half(), table, 2, 8)
    assert torch.equal(narrow, trellis_encode(x.half().float(), table, 2, 8))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, t: trellis_encode(x, t, 9, 12), "step_bits of 1 to 8"),
        (lambda x, t: trellis_encode(x, t, 2, 17), "at most 16"),
        (lambda x, t: trellis_encode(x, t, 2, 9), r"table of shape \(512, 1\)"),
        (lambda x, t: trellis_encode(x[0], t, 2, 8), r"x of shape \(n, length\)"),
        (lambda x, t: trellis_encode(x[:, :3], t, 2, 8), "at least 8 bits"),
        (lambda x, t: trellis_decode(x, t, 2, 8), "codes uint8"),
        (lambda x, t: trellis_decode(x.abs().byte() + 4, t, 2, 8), "codes below 4"),
        (lambda x, t: trellis_pack(x[:, :30].byte() * 0, 2), "multiple of 64 bits"),
        (lambda x, t: trellis_unpack(x[:, :30].byte(), 2), r"8 \* words"),
        (lambda x, t: trellis_unpack(x.byte(), 0), "step_bits must be 1 to 8"),
    ],
)
def test_bad_arguments_are_named(call, message):
    x, table = problem(2, 8, 1)
    with pytest.raises(ValueError, match=message):
        call(x, table)


def test_operations_pass_opcheck():
    x, table = problem(4, 8, 2, n=3)
    codes = trellis_encode(x, table, 4, 8)
    ops = torch.ops.vq
    torch.library.opcheck(ops.trellis_encode.default, (x, table, 4, 8))
    torch.library.opcheck(ops.trellis_decode.default, (codes, table, 4, 8))
    torch.library.opcheck(ops.trellis_pack.default, (codes, 4))
    torch.library.opcheck(ops.trellis_unpack.default, (trellis_pack(codes, 4), 4))


def test_compiles_in_one_graph():
    x, table = problem(4, 8, 2, n=3)

    def quantize(y):
        return trellis_decode(trellis_encode(y, table, 4, 8), table, 4, 8) * 2

    compiled = torch.compile(quantize, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), quantize(x))


def test_reference_backend_can_be_forced(monkeypatch):
    x, table = problem(2, 6, 1, n=2)
    expected = trellis_encode(x, table, 2, 6)
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert torch.equal(trellis_encode(x, table, 2, 6), expected)
