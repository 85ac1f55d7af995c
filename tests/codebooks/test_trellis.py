"""The trellis codebook: codes, distortions, packing, training, shipped tables."""

import pytest
import torch
from safetensors.torch import load_file

from vq._data_files import data_path
from vq.codebooks import PackedCodes, build
from vq.codebooks.train_tables import GOLDEN, GOLDEN_SHORT
from vq.codebooks.trellis import CODES, Trellis
from vq.codebooks.trellis_codes import trained_table

# spec, largest held-out mean squared error on N(0, 1); (spec, limit, blocks) of the full measurement
GATES = [
    ("trellis(bits=2, memory=6, code=lut)", 0.0855),
    ("trellis(bits=2, memory=8, code=lut)", 0.0785),
    ("trellis(bits=2, memory=10, code=lut)", 0.0750),
    ("trellis(bits=2, memory=12, code=lut)", 0.0740),
    ("trellis(bits=2, memory=10, code=hash)", 0.0765),
    ("trellis(bits=2, memory=12, code=hash)", 0.0728),
    ("trellis(bits=1, memory=12, code=lut)", 0.283),
    ("trellis(bits=3, memory=12, code=lut)", 0.0200),
    ("trellis(bits=4, memory=12, code=lut)", 0.0056),
    ("trellis(bits=2, memory=12, code=hybrid)", 0.0750),
    ("trellis(bits=2, memory=12, code=mcg)", 0.0740),
]
SLOW_GATES = [
    *GATES,
    ("trellis(bits=2, memory=14, code=hash)", 0.0715),
    ("trellis(bits=2, memory=16, code=hash)", 0.0695),
    ("trellis(bits=2, memory=16, code=lut)", 0.0690),
    ("trellis(bits=2, memory=16, code=hybrid)", 0.0720),
    *(
        (f"trellis(bits=2, memory=16, code={code})", 0.0695)
        for code in ("mad1", "inst3", "mcg", "mul1")
    ),
]


def gaussian(n, seed=0):
    return torch.randn(n, 256, generator=torch.Generator().manual_seed(seed))


def error(codebook, x):
    difference = codebook(x).double() - x.double()
    return float(difference.square().mean() / x.double().square().mean())


@pytest.mark.parametrize("spec, limit", GATES)
def test_distortion_on_held_out_gaussians(spec, limit):
    codebook = build(spec)
    assert error(codebook, gaussian(150, seed=4)) < 1.01 * limit


@pytest.mark.slow
@pytest.mark.parametrize("spec, limit", SLOW_GATES)
def test_distortion_on_many_held_out_gaussians(spec, limit):
    codebook = build(spec)
    found = error(codebook, gaussian(1200, seed=5))
    assert found < limit
    assert found == pytest.approx(codebook.distortion, rel=0.012)


@pytest.mark.parametrize("code", CODES)
def test_more_memory_is_better_than_a_scalar(code):
    assert error(build(f"trellis(bits=2, memory=10, code={code})"), gaussian(60)) < 0.083


@pytest.mark.parametrize("bits", [1, 1.5, 2, 2.5, 3, 3.5, 4])
def test_rates(bits):
    codebook = build(f"trellis(bits={bits}, memory=10, code=hash)")
    assert codebook.rate == bits and codebook.dim == 256 and codebook.entries is None
    assert codebook.tile == (64, 4)
    x = gaussian(12)
    codes = codebook.encode(x)
    packed = codebook.pack(codes)
    assert packed.payload.numel() * 8 == 12 * 256 * bits
    again = codebook.unpack(PackedCodes.from_bytes(packed.to_bytes()))
    assert torch.equal(again, codes)
    assert torch.equal(codebook.decode(again), codebook(x))
    assert 4**-bits < error(codebook, x) < 2.6 * 4**-bits


@pytest.mark.parametrize(
    "spec, blocks",
    [
        ("trellis(bits=2, memory=6, code=mcg)", 600),
        ("trellis(bits=2, memory=9, code=mul1)", 500),
        ("trellis(bits=3, memory=10, code=inst3)", 500),
        ("trellis(bits=1, memory=12, code=mad1)", 300),
        ("trellis(bits=2, memory=12, code=hybrid)", 300),
        ("trellis(bits=1.5, memory=8, code=hybrid)", 500),
        ("trellis(bits=3.5, memory=9, code=hybrid)", 500),
        ("trellis(bits=2.5, memory=12, code=lut)", 300),
        ("trellis(bits=5, memory=12, code=lut)", 200),
        ("trellis(bits=2, memory=16, code=hybrid)", 40),
    ],
)
def test_shipped_figures_hold_on_held_out_numbers(spec, blocks):
    codebook = build(spec)
    rel = 0.015 if blocks >= 200 else 0.03
    assert error(codebook, gaussian(blocks, seed=17)) == pytest.approx(codebook.distortion, rel=rel)


def best_over_all_seams(x, weight, codebook):
    """Smallest (weighted) squared error of a tail-biting path: Viterbi in float64 from every group."""
    bits, memory = codebook.step_bits, codebook.memory
    branches, groups = 1 << bits, 1 << (memory - bits)
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    shape = (len(x), -1, codebook.symbols)
    steps = list(zip(x.reshape(shape).unbind(1), weight.reshape(shape).unbind(1), strict=True))
    for seam in range(groups):
        cost = torch.full((len(x), groups), torch.inf, dtype=torch.float64)
        cost[:, seam] = 0
        for now, factor in steps:
            square = (now[:, None] - codebook.table.double()).square()
            states = cost.repeat_interleave(branches, 1) + (factor[:, None] * square).sum(-1)
            cost = states.reshape(len(x), branches, groups).amin(1)
        best = torch.minimum(best, cost[:, seam])
    return best


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        "trellis(bits=2, memory=6)",
        "trellis(bits=1.5, memory=6, code=hybrid)",
        "trellis(bits=2, memory=6, code=mcg)",
        "trellis(bits=3, memory=6, code=inst3)",
    ],
)
def test_paths_come_near_the_best_there_is(spec, weighted):
    codebook, x = build(spec), gaussian(12, seed=9)
    generator = torch.Generator().manual_seed(10)
    weight = torch.rand(x.shape, generator=generator) ** 3 if weighted else torch.ones_like(x)
    values = codebook.decode(codebook.encode(x, weight if weighted else None))
    got = (weight.double() * (values.double() - x.double()).square()).sum(1)
    best = best_over_all_seams(x.double(), weight.double(), codebook)
    assert bool((got >= best * (1 - 1e-6)).all())
    assert float(got.mean()) <= 1.01 * float(best.mean())


@pytest.mark.parametrize("code", ["hash", "hybrid", "mul1", "lut"])
def test_weights_lower_the_weighted_error(code):
    codebook, x = build(f"trellis(bits=2, memory=8, code={code})"), gaussian(30, seed=11)
    if not codebook.fitted:
        codebook.fit(gaussian(100))
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(12)) ** 3

    def cost(codes):
        return float((weight * (codebook.decode(codes) - x).square()).sum())

    assert cost(codebook.encode(x, weight)) < 0.85 * cost(codebook.encode(x))
    shared = weight[0]  # one weight for all blocks, as a column importance would be
    assert torch.equal(codebook.encode(x, shared), codebook.encode(x, shared.expand(x.shape)))


def test_fit_takes_weights():
    spec, generator = "trellis(bits=2, memory=7, code=lut)", torch.Generator().manual_seed(1)
    x, held_out = gaussian(200, seed=2), gaussian(100, seed=3)
    x[:, ::2], held_out[:, ::2] = 0.2 * x[:, ::2], 0.2 * held_out[:, ::2]
    weight = torch.ones(256)
    weight[::2] = 10.0
    plain = build(spec).fit(x, generator=torch.Generator().manual_seed(1))
    aware = build(spec).fit(x, weight, generator)

    def cost(codebook):
        codes = codebook.encode(held_out, weight)
        return float((weight * (codebook.decode(codes) - held_out).square()).sum())

    assert cost(aware) < 0.97 * cost(plain)
    with pytest.raises(ValueError, match="weight must be finite and not negative"):
        build(spec).fit(x, -weight)


@pytest.mark.parametrize("name, specs", [("", GOLDEN), ("-short", GOLDEN_SHORT)])
def test_golden_vectors(name, specs):
    golden = load_file(data_path("codebooks", f"golden-trellis{name}.safetensors"))
    x = golden["inputs"]
    assert len(golden) == 1 + 3 * len(specs)
    for spec in specs:
        codebook = build(spec)
        assert str(codebook.spec) == spec
        codes = codebook.encode(x)
        assert torch.equal(codes, golden[f"{spec} codes"]), spec
        assert torch.equal(codebook.pack(codes).payload, golden[f"{spec} packed"]), spec
        assert torch.equal(codebook.decode(codes), golden[f"{spec} values"]), spec


def test_shipped_figures():
    shipped = build("trellis(bits=2, memory=12, code=lut)")
    assert shipped.fitted and shipped.distortion == trained_table(2, 12, 1).distortion
    shipped.table[3] += 0.1
    assert shipped.distortion is None  # not the shipped table any more
    again = build("trellis(bits=2, memory=12, code=lut)")
    assert again.distortion is not None  # the cached one was not touched
    assert build("trellis(bits=2, memory=12, code=random)").distortion is None
    assert build("trellis").distortion == pytest.approx(0.071, rel=0.02)


def test_spec_text():
    assert str(Trellis().spec) == "trellis(bits=2, memory=12, code=hash)"
    for text in (
        "trellis(bits=2, memory=8, code=lut)",
        "trellis(bits=1.5, memory=8, code=lut)",
        "trellis(bits=2, memory=8, symbols=2, code=lut)",
        "trellis(bits=2, memory=8, code=random, seed=3)",
        "trellis(bits=2, memory=12, code=hash, levels=16)",
    ):
        assert str(build(text).spec) == text
    assert build("trellis(bits=1.5, memory=8, code=lut)").symbols == 2
    assert build("trellis(bits=2.0, memory=8)").spec == build("trellis(bits=2, memory=8)").spec


def test_random_tables_are_seeded():
    one, same, other = (
        build(f"trellis(bits=2, memory=8, code=random, seed={seed})") for seed in (1, 1, 2)
    )
    assert torch.equal(one.table, same.table) and not torch.equal(one.table, other.table)


@pytest.mark.parametrize(
    "spec", ["trellis(bits=3, memory=7, code=lut)", "trellis(bits=1.5, memory=7, code=lut)"]
)
def test_fit_beats_a_random_table_on_held_out_data(spec):
    codebook = build(spec)
    assert not codebook.fitted and codebook.distortion is None
    with pytest.raises(ValueError, match="has no table yet"):
        codebook.encode(gaussian(1))
    x = gaussian(200, seed=1) * 0.5
    assert codebook.fit(x, generator=torch.Generator().manual_seed(0)) is codebook
    again = build(spec).fit(x, generator=torch.Generator().manual_seed(0))
    assert codebook.fitted and torch.equal(codebook.table, again.table)
    held_out = gaussian(100, seed=2) * 0.5
    rival = build(spec.replace("lut", "random"))
    rival.table.mul_(0.5)
    assert error(codebook, held_out) < 0.95 * error(rival, held_out)
    loaded = build(spec)
    loaded.load_state_dict(codebook.state_dict())
    assert loaded.fitted and torch.equal(loaded.encode(held_out), codebook.encode(held_out))


def test_fit_refuses_what_it_cannot_use():
    codebook = build("trellis(bits=2, memory=6, code=lut)")
    with pytest.raises(TypeError, match="nothing to fit"):
        Trellis().fit(gaussian(1))
    with pytest.raises(ValueError, match="at least one block"):
        codebook.fit(gaussian(0))
    with pytest.raises(ValueError, match="weight broadcastable"):
        codebook.fit(gaussian(1), weight=torch.ones(255))
    broken = gaussian(2)
    broken[1, 3] = float("inf")
    with pytest.raises(ValueError, match=r"x\[\(1, 3\)\] is inf"):
        codebook.fit(broken)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("trellis(bits=5)", "bits \\* symbols must be a whole number from 1 to 8"),
        ("trellis(bits=1.3)", "bits \\* symbols"),
        ("trellis(memory=17)", "at most 16"),
        ("trellis(bits=4, memory=8)", "above bits \\* symbols = 8"),
        ("trellis(code=hsh)", "did you mean hash"),
        ("trellis(code=hash, symbols=1)", "does not have symbols=1"),
        ("trellis(code=mul1, symbols=2)", "does not have symbols=2"),
        ("trellis(code=hybrid, symbols=1)", "does not have symbols=1"),
        ("trellis(bits=1.5, code=mcg)", "does not have symbols=2"),
        ("trellis(symbols=3, code=lut)", "symbols must be 1 or 2"),
        ("trellis(seed=2)", "only means something with code=random"),
        ("trellis(levels=8)", "levels must be one of 64, 32, 16, got 8"),
        ("trellis(code=lut, levels=16)", "only means something with code=hash"),
        ("trellis(memory=9, levels=16)", "no hash code of 16 levels for bits=2, memory=9"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_bad_input():
    codebook = Trellis(memory=8)
    with pytest.raises(ValueError, match="weight must be finite and not negative"):
        codebook.encode(gaussian(1), weight=-torch.ones(256))
    with pytest.raises(ValueError, match=r"\(\*batch, 256\)"):
        codebook.encode(torch.zeros(2, 255))
    with pytest.raises(ValueError, match="expected codes in"):
        codebook.decode(torch.full((1, 128), 16))
    with pytest.raises(ValueError, match="integer codes"):
        codebook.decode(torch.zeros(1, 128))
    codes = codebook.encode(gaussian(2))
    packed = codebook.pack(codes)
    with pytest.raises(ValueError, match="cannot be read by"):
        Trellis(memory=9).unpack(packed)
    short = PackedCodes(packed.payload[:-1], packed.spec, packed.version, packed.shape)
    with pytest.raises(ValueError, match="expected 128 bytes for 2 blocks, got 127"):
        codebook.unpack(short)
