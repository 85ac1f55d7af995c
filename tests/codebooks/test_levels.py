import math

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.floats import dynamic_tree, float_values
from vq.codebooks.grids import power_shape
from vq.codebooks.levels import best_scale, gaussian_cells, gaussian_mse, lloyd, midpoints

SPECS = [
    "uniform(bits=2)",
    "uniform(bits=5, zero=true)",
    "nf(bits=4)",
    "nf(bits=2)",
    "power(bits=4)",
    "minifloat(exponent=2, mantissa=1)",
    "minifloat(exponent=4, mantissa=3)",
    "pow2(bits=3)",
    "pow2(bits=3, zero=false)",
    "binary()",
    "dynamic8()",
    "latent(dim=1, levels=7)",
]
# J. Max (1960), table II: levels -> step, error of the best uniform quantizer
UNIFORM = {2: (1.596, 0.3634), 4: (0.9957, 0.1188), 8: (0.5860, 0.03744), 16: (0.3352, 0.01154)}
MIDTREAD = {3: (1.224, 0.1902), 7: (0.6508, 0.04686)}
# QLoRA (2023), appendix E
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", SPECS)
def test_closed_form_error_by_numerical_integration(spec):
    codebook = build(spec)
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    error = (x.float()[:, None] - codebook(x.float()[:, None])).double()[:, 0].square()
    assert float((density * error).sum() / density.sum()) == pytest.approx(
        codebook.distortion, rel=2e-3
    )


@pytest.mark.parametrize("spec", SPECS[:-1])
def test_nearest_level_by_brute_force(spec):
    codebook = build(spec)
    x = 3 * normal(4000, 1)
    distance = (x.double() - codebook.levels.double()).abs()
    assert torch.equal(codebook(x)[:, 0], codebook.levels[distance.argmin(1)])


def test_cell_masses_keep_their_digits_in_the_tails():
    mass, mean = gaussian_cells(torch.tensor([-math.inf, -8, 0, 8, math.inf], dtype=torch.float64))
    assert float(mass[0]) == pytest.approx(6.22096e-16, rel=1e-5)
    assert float(mass[3]) == pytest.approx(float(mass[0]), rel=1e-12)
    assert float(mean[3]) == pytest.approx(8.1217, rel=1e-4)  # 8 + 1/8 - 2/8^3 + ...
    assert float(mass.sum()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("entries", [*UNIFORM, *MIDTREAD])
def test_uniform_against_the_published_table(entries):
    step, error = {**UNIFORM, **MIDTREAD}[entries]
    zero = entries % 2 == 1
    codebook = build(f"uniform(bits={(entries - 1).bit_length()}, zero={str(zero).lower()})")
    assert codebook.entries == entries
    assert codebook.step == pytest.approx(step, rel=3e-4)
    assert codebook.distortion == pytest.approx(error, rel=1e-3)
    assert (0.0 in codebook.levels.tolist()) == zero
    assert torch.equal(codebook.levels, -codebook.levels.flip(0))


def test_nf4_is_the_published_table():
    codebook = build("nf(bits=4)")
    assert codebook.shape.tolist() == pytest.approx(NF4, abs=3e-6)
    scaled = codebook.levels / codebook.levels[-1]
    assert torch.allclose(scaled, torch.tensor(NF4), atol=3e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_default_exponent_is_the_best(bits):
    codebook = build(f"power(bits={bits})")
    for other in (codebook.exponent - 0.05, min(1.0, codebook.exponent + 0.05)):
        shape = power_shape(bits, other)
        assert gaussian_mse(shape * best_scale(shape)) > codebook.distortion
    lloyd_max = build(f"scalar(bits={bits})").distortion
    uniform = build(f"uniform(bits={bits})").distortion
    assert lloyd_max < codebook.distortion < uniform


def test_power_one_is_uniform():
    assert torch.allclose(
        build("power(bits=3, exponent=1)").levels, build("uniform(bits=3)").levels, atol=1e-4
    )
    halves = power_shape(2, 0.5)  # squares of 1/4 and 3/4, over the largest
    assert halves.tolist() == pytest.approx([-1, -1 / 9, 1 / 9, 1])


def test_float_value_sets_of_the_standard():
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert float_values(2, 1) == [*e2m1, *(-v for v in e2m1)]
    largest = {(2, 3): 7.5, (3, 2): 28.0, (4, 3): 448.0, (5, 2): 57344.0}
    smallest = {(2, 3): 0.125, (3, 2): 0.0625, (4, 3): 2.0**-9, (5, 2): 2.0**-16}
    for kind, top in largest.items():
        values = [v for v in float_values(*kind) if math.isfinite(v)]
        assert max(values) == top == -min(values)
        assert min(v for v in values if v > 0) == smallest[kind]
    assert sum(not math.isfinite(v) for v in float_values(4, 3)) == 2
    assert sum(not math.isfinite(v) for v in float_values(5, 2)) == 8


@pytest.mark.parametrize(("kind", "dtype"), [((4, 3), "float8_e4m3fn"), ((5, 2), "float8_e5m2")])
def test_eight_bit_floats_are_torch_s(kind, dtype):
    patterns = torch.arange(256, dtype=torch.uint8).view(getattr(torch, dtype)).float()
    assert torch.allclose(torch.tensor(float_values(*kind)), patterns, equal_nan=True, atol=0)
    codebook = build(f"minifloat(exponent={kind[0]}, mantissa={kind[1]})")
    x = normal(5000, 1)
    codes = codebook.encode(x)
    expected = (x[:, 0].double() / codebook.scale).to(getattr(torch, dtype)).view(torch.uint8)
    same = (codes == expected.long()) | (codebook.decode(codes)[:, 0] == 0)
    assert float(same.float().mean()) > 0.999  # ties round to even there, down here
    assert bool(codebook.decode(torch.tensor([127])).isnan())


def test_codes_of_small_floats_are_bit_patterns():
    codebook = build("minifloat(exponent=2, mantissa=1)")
    x = torch.tensor([[0.0], [6.0], [-6.0], [1.5], [-0.5], [100.0]]) * codebook.scale
    assert codebook.encode(x).tolist() == [0, 7, 15, 3, 9, 7]
    assert codebook.decode(torch.tensor([8])).item() == 0
    packed = codebook.pack(codebook.encode(x))
    assert packed.payload.tolist() == [0x70, 0x3F, 0x79]


def test_dynamic_tree():
    tree = dynamic_tree()
    assert len(tree) == 256 and len(tree.unique()) == 256
    assert tree[-1] == 1 and 0.0 in tree.tolist()
    assert float(tree[-2]) == pytest.approx(0.1 + 0.9 * 63.5 / 64)
    assert float(tree[tree > 0].min()) == pytest.approx(0.55e-6)
    decades = [int(((tree >= 10.0**-e / 10) & (tree < 10.0**-e)).sum()) for e in range(7)]
    assert decades == [64, 32, 16, 8, 4, 2, 1]


def test_powers_of_two():
    for spec, count in (("pow2(bits=4)", 15), ("pow2(bits=4, zero=false)", 16)):
        levels = build(spec).levels
        ratio = levels[levels > 0].double() / levels[-1].double()
        assert len(levels) == count and (0.0 in levels.tolist()) == (count == 15)
        assert torch.allclose(ratio.log2(), ratio.log2().round(), atol=1e-6)


def test_scale_is_the_best():
    shape = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    factor = best_scale(shape)
    errors = [gaussian_mse(shape * f) for f in torch.linspace(0.05, 4, 4000).tolist()]
    assert gaussian_mse(shape * factor) <= min(errors) + 1e-9


def test_lloyd_reaches_the_fixed_point():
    levels = lloyd(torch.tensor([-1.0, -0.2, 0.1, 2.0], dtype=torch.float64))
    assert torch.allclose(gaussian_cells(midpoints(levels))[1], levels, atol=1e-8)
    assert gaussian_mse(levels) == pytest.approx(0.11748, rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("uniform(bits=9)", "from 1 to 8"),
        ("uniform(bits=1, zero=true)", "from 2 to 8"),
        ("nf(bits=1)", "from 2 to 8"),
        ("power(bits=3, exponent=2.5)", "from 0.05 to 1"),
        ("power(bits=3, exponent=-1)", "positive number"),
        ("minifloat(exponent=5, mantissa=3)", "at most 8 bits"),
        ("minifloat(exponent=0, mantissa=3)", "from 1 to 5"),
        ("pow2(bits=7)", "from 2 to 6"),
        ("uniform(bits=2.5)", "whole number"),
    ],
)
def test_bad_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)
