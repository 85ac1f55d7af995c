import pytest
import torch

from vq.codebooks import build
from vq.codebooks.additive import Additive
from vq.codebooks.additive_fit import PRIOR, least_squares, normal_form, refill, sum_of
from vq.kernels.beam import beam_search


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_by_a_dense_solver(weighted):
    n, stages, entries, dim = 150, 2, 5, 3
    x, old = data(n, dim), data(stages * entries, dim, 1).reshape(stages, entries, dim)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(entries, (n, stages), generator=generator)
    weight = torch.rand(n, dim, generator=generator) if weighted else torch.ones(n, dim)
    found = least_squares(x, codes, old, weight if weighted else None)
    design = torch.cat([torch.eye(entries)[codes[:, s]] for s in range(stages)], dim=1).double()
    for d in range(dim):
        scale = (weight[:, d].double() / weight.double().mean()).sqrt()[:, None]
        ridge = PRIOR**0.5 * torch.eye(stages * entries, dtype=torch.float64)
        left = torch.cat([scale * design, ridge])
        right = torch.cat([scale[:, 0] * x[:, d], PRIOR**0.5 * old.reshape(-1, dim)[:, d].double()])
        expected = torch.linalg.lstsq(left, right[:, None]).solution[:, 0].float()
        torch.testing.assert_close(found.reshape(-1, dim)[:, d], expected, rtol=1e-5, atol=1e-6)


def test_normal_form_leaves_the_sums_and_orders_by_energy():
    tables = data(3 * 8, 4).reshape(3, 8, 4) * torch.tensor([0.5, 2, 1])[:, None, None] + 1
    codes = torch.randint(8, (500, 3), generator=torch.Generator().manual_seed(1))
    formed = normal_form(tables, codes)
    order = [1, 2, 0]
    torch.testing.assert_close(
        sum_of(formed, codes[:, order]), sum_of(tables, codes), atol=1e-5, rtol=1e-5
    )
    for stage, own in ((1, 2), (2, 0)):
        mean = formed[stage][codes[:, own]].mean(0)
        assert float(mean.abs().max()) < 1e-5


def test_unused_entries_complete_bad_sums():
    x = data(100, 3)
    tables = torch.zeros(2, 4, 3)
    codes = torch.zeros(100, 2, dtype=torch.int32)
    filled = refill(x, codes, tables)
    worst = x[x.square().sum(1).argsort(descending=True)[:6]]
    assert torch.equal(torch.cat([filled[0, 1:], filled[1, 1:]]), worst)


def test_rounds_lower_the_error_on_what_was_fitted():
    x = data(4000, 4)
    errors = []
    for rounds in (0, 2, 6):
        made = Additive(2, 4, 16, beam=8, rounds=rounds).fit(x)
        errors.append(float((made(x) - x).square().mean()))
        assert len(made.encode(x)[:, 1].unique()) == 16
    assert errors[2] < errors[1] < errors[0]


def test_weights_lower_the_weighted_error():
    x = data(4000, 4)
    weight = torch.rand(4000, 4, generator=torch.Generator().manual_seed(3)) ** 4
    plain = Additive(2, 4, 16, beam=8, rounds=4).fit(x)
    made = Additive(2, 4, 16, beam=8, rounds=4).fit(x, weight)

    def error(codebook, own):
        return float((weight * (x - codebook.decode(codebook.encode(x, own))).square()).sum())

    assert error(made, weight) < error(plain, weight) < error(plain, None)


def test_fit_is_deterministic_and_seeded():
    x = data(2000, 3)
    books = [
        Additive(2, 3, 8, beam=4, rounds=2).fit(x, generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    ]
    assert torch.equal(books[0].tables, books[1].tables)
    assert not torch.equal(books[0].tables, books[2].tables)


@pytest.mark.parametrize(
    "spec, limit",
    [
        ("additive(stages=2, dim=8, entries=256)", 0.0933),
        ("additive(stages=4, dim=16, entries=256, beam=32)", 0.0860),
    ],
)
def test_shipped_tables_hold_the_published_distortion(spec, limit):
    made = build(spec)
    assert made.rate == 2 and made.distortion is not None
    x = data(300_000 // made.dim, made.dim, seed=99)
    assert float((made(x) - x).square().sum() / x.square().sum()) <= limit


def test_beats_stages_fitted_one_after_another():
    residual = build("residual(stages=2, of=kmeans(dim=8, entries=256), beam=16)").distortion
    additive = build("additive(stages=2, dim=8, entries=256)").distortion
    product = build("product(groups=2, of=kmeans(dim=4, entries=256))").distortion
    assert additive < residual < product


def test_prefixes_are_useful():
    made = build("additive(stages=4, dim=16, entries=256)")
    x = data(2000, 16)
    codes = made.encode(x)
    errors = [float((made.decode(codes, stages=n) - x).square().mean()) for n in (1, 2, 3, 4)]
    assert 1 > errors[0] > errors[1] > errors[2] > errors[3]
    assert torch.equal(made.decode(codes[:, :2], stages=2), made.decode(codes, stages=2))
    assert torch.equal(made.decode(codes, stages=4), made.decode(codes))


def test_codes_are_those_of_the_search():
    made, x = build("additive(stages=2, dim=8, entries=256, beam=3)"), data(50, 8)
    assert torch.equal(made.encode(x), beam_search(x, made.tables, None, 3))


def test_bad_arguments():
    with pytest.raises(ValueError, match="at most 8192"):
        Additive(stages=4, entries=4096)
    with pytest.raises(ValueError, match="beam must be"):
        Additive(beam=0)
    with pytest.raises(ValueError, match="at least 9 vectors"):
        Additive(2, 3, 9).fit(data(5, 3))
    with pytest.raises(ValueError, match="expected codes of shape"):
        build("additive(stages=2, dim=8, entries=256)").decode(torch.zeros(4, 3, dtype=torch.long))
