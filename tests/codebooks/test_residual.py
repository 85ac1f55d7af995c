import itertools

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.compose import table_of
from vq.codebooks.kmeans import KMeans
from vq.codebooks.residual import Residual


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def book(beam=4, stages=3, entries=16):
    made = Residual(stages, f"kmeans(dim=4, entries={entries}, iterations=5)", beam)
    return made.fit(data(3000, 4))


def mse(codebook, x):
    return float((codebook(x) - x).square().mean())


def test_a_greedy_fit_is_kmeans_on_what_is_left():
    x = data(2000, 4)
    made = Residual(3, "kmeans(dim=4, entries=16, iterations=5)", beam=1).fit(x)
    first = KMeans(4, 16, iterations=5).fit(x)
    left = x - first(x)
    second = KMeans(4, 16, iterations=5).fit(left)
    rest = x - (first(x) + second(left))
    third = KMeans(4, 16, iterations=5).fit(rest)
    assert torch.equal(made.parts[0].table, first.table)
    assert torch.equal(made.parts[1].table, second.table)
    assert torch.equal(made.parts[2].table, third.table)
    torch.testing.assert_close(made(x), first(x) + second(left) + third(rest), rtol=0, atol=1e-6)


def test_prefixes_are_partial_sums_in_a_fixed_order():
    made, x = book(), data(200, 4, seed=1)
    codes = made.encode(x)
    total = torch.zeros(200, 4)
    errors = []
    for stages in range(1, 4):
        row = made.parts[stages - 1].table[codes[:, stages - 1].long()]
        total = row if stages == 1 else total + row
        assert torch.equal(made.decode(codes, stages=stages), total)
        assert torch.equal(made.decode(codes[:, :stages], stages=stages), total)
        errors.append(float((total - x).square().mean()))
    assert torch.equal(made.decode(codes), total)
    assert errors[2] < errors[1] < errors[0]


def test_a_beam_finds_better_sums_than_greedy():
    made, x = book(), data(2000, 4, seed=1)
    figures = []
    for beam in (1, 2, 8, 16):
        made.beam = beam
        figures.append(mse(made, x))
    assert figures[0] > figures[1] > figures[2] >= figures[3]


def test_a_full_beam_is_the_best_of_all_sums():
    made, x = book(beam=16, stages=2), data(300, 4, seed=1)
    sums = (made.parts[0].table[:, None] + made.parts[1].table).reshape(-1, 4)
    best = torch.cdist(x, sums).min(1).values
    torch.testing.assert_close((made(x) - x).norm(dim=1), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beam", [1, 8])
def test_weights_lower_the_weighted_error(beam):
    x = data(4000, 4)
    weight = torch.rand(4000, 4, generator=torch.Generator().manual_seed(3)) ** 4
    made = Residual(2, "kmeans(dim=4, entries=16)", beam).fit(x, weight)
    plain = Residual(2, "kmeans(dim=4, entries=16)", beam).fit(x)

    def error(codebook, own):
        return float((weight * (x - codebook.decode(codebook.encode(x, own))).square()).sum())

    assert error(made, weight) < error(plain, weight) < error(plain, None)


def test_fixed_parts_get_scales():
    made = build("residual(stages=3, of=scalar(bits=2))")
    assert made.rate == 6
    x = data(20_000, 1)
    before = mse(made, x)
    assert before < 0.01  # far below one stage's .1175
    made.fit(3 * x)
    assert float(made.scales[0]) == pytest.approx(3.0, rel=0.02)
    assert mse(made, 3 * x) < 9 * 0.01


def test_a_trellis_after_a_trellis():
    made = build("residual(stages=2, of=trellis(bits=2, memory=8, code=lut))")
    assert made.beam == 1 and made.rate == 4
    x = data(20, 256)
    once = build("trellis(bits=2, memory=8, code=lut)").distortion
    assert mse(made, x) == pytest.approx(once**2, rel=0.1)
    with pytest.raises(ValueError, match="too many vectors to list"):
        build("residual(stages=2, of=trellis(bits=2, memory=8, code=lut), beam=4)")
    weight = torch.rand(256, generator=torch.Generator().manual_seed(5)) ** 3

    def error(codes):
        return float((weight * (made.decode(codes) - x).square()).sum())

    assert error(made.encode(x, weight)) < 0.8 * error(made.encode(x))


@pytest.mark.parametrize(
    "part, above",
    [
        ("trellis(bits=2, memory=10)", 1.04),
        ("trellis(bits=2.5, memory=12, code=lut)", 1.06),
        ("trellis(bits=3, memory=12, code=lut)", 1.06),
        ("trellis(bits=4, memory=12, code=lut)", 1.3),
    ],
)
def test_stacked_trellises_come_near_the_product_of_their_errors(part, above):
    made = build(f"residual(stages=2, of={part})")
    assert made.tile == (64, 4)
    x = data(150, 256, seed=3)
    once, twice = made.part.distortion, mse(made, x)
    assert 4**-made.rate < twice < above * once**2
    for factor in (0.7, 1.6):  # the scale matters, and is near the best
        made.scales[1] *= factor
        assert mse(made, x) > 1.02 * twice
        made.scales[1] /= factor


def test_fit_finds_the_scales_of_other_data():
    made = build("residual(stages=2, of=trellis(bits=2.5, memory=10))")
    x = data(60, 256, seed=3)
    unit = mse(made, x)
    made.fit(2 * data(80, 256, seed=4))
    assert mse(made, 2 * x) < 4 * 1.01 * unit
    assert float(made.scales[0]) == pytest.approx(2, rel=0.06)


def test_five_to_eight_bits_are_monotone():
    x = data(40, 256, seed=6)
    rates = (2.5, 3, 3.5, 4)
    books = [build(f"residual(stages=2, of=trellis(bits={r}, memory=12, code=lut))") for r in rates]
    found = [mse(book, x) for book in books]
    assert [book.rate for book in books] == [5, 6, 7, 8]
    assert all(low < 0.5 * high for high, low in itertools.pairwise(found))


def test_shipped_tables_and_their_figures():
    made = build("residual(stages=2, of=kmeans(dim=8, entries=256))")
    assert made.fitted and made.rate == 2
    assert made.distortion == pytest.approx(0.0970, abs=6e-4)
    greedy = build("residual(stages=2, of=kmeans(dim=8, entries=256), beam=1)")
    assert torch.equal(table_of(greedy.parts[1]), table_of(made.parts[1]))
    assert greedy.distortion > made.distortion
    made.parts[0].table[0, 0] += 1
    assert made.distortion is None
    made.beam = 3
    assert made.distortion is None


def test_spec_and_bad_arguments():
    assert str(Residual(beam=8).spec) == "residual(stages=2, of=kmeans(dim=8, entries=256))"
    assert Residual(beam=5).spec.get("beam") == 5
    for text, message in (
        ("residual(stages=0)", "stages must be"),
        ("residual(beam=1000)", "beam must be"),
    ):
        with pytest.raises(ValueError, match=message):
            build(text)
    made = book()
    with pytest.raises(ValueError, match="expected codes of shape"):
        made.decode(torch.zeros(5, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="stages to decode"):
        made.decode(torch.zeros(5, 3, dtype=torch.long), stages=4)


def test_stacks_of_fixed_parts_have_figures_until_they_are_fitted():
    stack = build("residual(stages=2, of=trellis(bits=3, memory=12, code=lut))")
    assert stack.distortion == pytest.approx(3.22e-4, rel=0.01)
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(5))
    assert float((stack(x) - x).square().mean()) == pytest.approx(stack.distortion, rel=0.05)
    stack.scales.mul_(1.1)
    assert stack.distortion is None
    assert build("residual(stages=3, of=scalar(bits=1))").distortion is None  # not measured
