import itertools
import math

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.latent import lloyd_rows

SPECS = [
    "fsq(levels=[8, 5, 5, 2])",
    "fsq(levels=[2])",
    "fsq(levels=[3, 4, 7], bound=1)",
    "lfq(dim=8)",
    "bsq(dim=6, radius=1)",
    "latent(dim=3, levels=5)",
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", SPECS)
def test_all_indices_come_back(spec):
    codebook = build(spec)
    every = torch.arange(codebook.entries)
    values = codebook.decode(every)
    assert len(values.unique(dim=0)) == codebook.entries
    assert torch.equal(codebook.encode(values), every)


@pytest.mark.parametrize("spec", SPECS)
def test_nearest_grid_point_by_brute_force(spec):
    codebook = build(spec)
    table = codebook.decode(torch.arange(codebook.entries)).double()
    x = 2 * normal(500, codebook.dim)  # a part lies outside and saturates
    best = torch.cdist(x.double(), table).min(1).values
    error = (x - codebook(x)).double().norm(dim=1)
    assert torch.allclose(error, best, atol=1e-6)


def test_fsq_by_hand():
    codebook = build("fsq(levels=[5, 4, 2], bound=1)")
    grids = [[-1, -0.5, 0, 0.5, 1], [-1, -1 / 3, 1 / 3, 1], [-1, 1]]
    expected = torch.tensor(list(itertools.product(*reversed(grids)))).flip(1)
    assert torch.allclose(codebook.decode(torch.arange(40)), expected)
    assert codebook.encode(torch.tensor([0.1, 0.5, -0.2])).item() == 2 + 5 * 2 + 20 * 0
    assert codebook.encode(torch.tensor([9.0, -9.0, 9.0])).item() == 4 + 5 * 0 + 20 * 1


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_grids_are_symmetric(levels):
    codebook = build(f"fsq(levels=[{levels}, {levels}])")
    x = normal(1000, 2)
    assert torch.equal(codebook(-x), -codebook(x))


def test_default_bounds_are_the_best_uniform_quantizer():
    codebook = build("fsq(levels=[8, 4])")
    for i, bits in enumerate((3, 2)):
        x = normal(1000, 1, seed=i)
        both = torch.zeros(1000, 2)
        both[:, i] = x[:, 0]
        expected = build(f"uniform(bits={bits})")(x)[:, 0]
        assert torch.allclose(codebook(both)[:, i], expected, atol=1e-5)


def test_sixty_two_bits_without_a_table():
    for spec in ("lfq(dim=62)", "fsq(levels=[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, "
                 "4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4])", "latent(dim=31, levels=4)"):  # fmt: skip
        codebook = build(spec)
        assert codebook.code_bits == 62 and codebook.entries == 2**62
        x = normal(200, codebook.dim)
        codes = codebook.encode(x)
        assert int(codes.max()) > 2**61 and int(codes.min()) >= 0
        assert torch.equal(codebook.encode(codebook.decode(codes)), codes)
        assert torch.equal(codebook.unpack(codebook.pack(codes)), codes)
        assert sum(b.numel() for b in codebook.buffers()) <= 124
    for spec in ("lfq(dim=63)", "latent(dim=32, levels=4)"):
        with pytest.raises(ValueError, match=r"62"):
            build(spec)


def test_lfq_and_bsq_are_signs():
    x = normal(50, 10)
    lfq, bsq = build("lfq(dim=10, bound=1)"), build("bsq(dim=10, radius=1)")
    assert torch.equal(lfq(x), x.sign())
    assert torch.allclose(bsq(x).norm(dim=1), torch.ones(50))
    assert torch.equal(lfq.encode(x), bsq.encode(x))
    assert torch.equal(lfq.encode(x), ((x > 0) * 2 ** torch.arange(10)).sum(1))
    assert build("bsq(dim=10)").distortion == pytest.approx(1 - 2 / math.pi, abs=1e-5)


def test_autocast_and_half_precision_change_nothing():
    codebook = build("fsq(levels=[1000, 1000])")
    x = normal(300, 2)
    codes = codebook.encode(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codebook.encode(x), codes)
        assert codebook(x).dtype == torch.float32
    small = build("fsq(levels=[8, 8])")
    assert torch.equal(small.encode(x.bfloat16()), small.encode(x.bfloat16().float()))


def test_latent_fits_other_data_better():
    def draw(seed):
        mixed = torch.stack([normal(6000, seed=seed) ** 3, normal(6000, seed=seed + 9) * 0.1], 1)
        return mixed + torch.tensor([5.0, -3.0])

    codebook = build("latent(dim=2, levels=6)").fit(draw(0))
    fresh = draw(50)
    error = (codebook(fresh) - fresh).square().mean(0) / fresh.var(0)
    lloyd_max_error = 0.0580  # of 6 levels on N(0, 1): Max (1960), table I
    assert float(error[1]) == pytest.approx(lloyd_max_error, rel=0.05)
    assert bool((codebook.table[:, 1:] > codebook.table[:, :-1]).all())
    again = build("latent(dim=2, levels=6)").fit(draw(0))
    assert torch.equal(again.table, codebook.table)


def test_latent_weights_move_values():
    x = torch.cat([normal(500, 1), normal(500, 1) + 10])
    weight = torch.cat([torch.ones(500, 1), torch.full((500, 1), 1e-6)])
    codebook = build("latent(dim=1, levels=4)")
    fresh = normal(2000, 1, seed=5)
    plain = float((codebook.fit(x)(fresh) - fresh).square().mean())
    weighted = float((codebook.fit(x, weight)(fresh) - fresh).square().mean())
    assert plain > 0.3  # two values each
    assert weighted < 0.13  # four for those that count: 0.1175


def test_latent_follows_an_unsorted_table():
    codebook = build("latent(dim=2, levels=3)")
    codebook.table.copy_(torch.tensor([[3.0, -1.0, 0.5], [0.0, 2.0, 1.0]]))
    x = torch.tensor([[2.9, 1.9], [-5.0, 0.9]])
    assert codebook.encode(x).tolist() == [0 + 3 * 1, 1 + 3 * 2]
    assert codebook(x).tolist() == [[3.0, 2.0], [-1.0, 1.0]]


def test_lloyd_rows_against_plain_lloyd():
    x, mass = normal(300).double().sort().values, torch.rand(300, dtype=torch.float64)
    table = start = x[[30, 150, 270]]
    for _ in range(7):
        codes = (x[:, None] - table).abs().argmin(1)
        table = torch.stack(
            [(mass * x)[codes == k].sum() / mass[codes == k].sum() for k in range(3)]
        )
    assert torch.allclose(lloyd_rows(x, mass, 3, 7, start=start), table)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fsq(levels=[])", "list of whole numbers"),
        ("fsq(levels=8)", "list of whole numbers"),
        ("fsq(levels=[8, 1])", "from 2 to 4096"),
        ("fsq(levels=[8], bound=0)", "positive number"),
        ("fsq(levels=[4096, 4096, 4096, 4096, 4096, 4096])", r"at most 2\^62"),
        ("latent(dim=2, levels=1)", "from 2 to 4096"),
        ("bsq(dim=4, radius=-1)", "positive number"),
    ],
)
def test_bad_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_latent_refuses_too_few_vectors():
    with pytest.raises(ValueError, match="at least 8 vectors"):
        build("latent(dim=2, levels=8)").fit(normal(7, 2))
