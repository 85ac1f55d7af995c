"""Every codebook keeps the contract of vq.codebooks.base."""

import io
import itertools

import pytest
import torch

from vq.codebooks import FAMILIES, Spec, build
from vq.codebooks.catalogue import CATALOGUE

SMALL = [spec for spec in CATALOGUE if "memory=14" not in spec and "memory=16" not in spec]


@pytest.fixture(scope="module", params=SMALL)
def codebook(request):
    made = build(request.param)
    if not made.fitted:
        generator = torch.Generator().manual_seed(1)
        made.iterations = 2
        made.fit(torch.randn(4 * made.table_entries, made.dim, generator=generator))
        made.iterations = 25
    return made


def vectors(codebook, *batch, seed=0):
    return torch.randn(*batch, codebook.dim, generator=torch.Generator().manual_seed(seed))


def test_every_family_is_listed():
    assert {Spec.parse(spec).name for spec in CATALOGUE} == set(FAMILIES)


def test_spec_builds_an_equal_codebook(codebook):
    again = build(str(codebook.spec))
    assert again.spec == codebook.spec
    assert (again.dim, again.rate, again.entries) == (codebook.dim, codebook.rate, codebook.entries)


def test_shapes_types_and_values(codebook):
    x = vectors(codebook, 2, 3)
    codes = codebook.encode(x)
    assert codes.shape == (2, 3, *codebook.codes_shape)
    assert not codes.is_floating_point()
    assert int(codes.min()) >= 0 and int(codes.max()) < 2**codebook.code_bits
    if codebook.entries is not None and not codebook.codes_shape:
        assert int(codes.max()) < codebook.entries
    values = codebook.decode(codes)
    assert values.shape == x.shape and values.dtype == torch.float32
    assert torch.equal(codebook(x), values)
    assert torch.equal(codebook.encode(x.double()), codes)


def test_batch_layout_does_not_matter(codebook):
    x = vectors(codebook, 4, 5)
    one_by_one = torch.stack([codebook.encode(v) for v in x.reshape(20, -1)])
    assert torch.equal(codebook.encode(x).reshape(one_by_one.shape), one_by_one)
    turned = x.transpose(0, 1)
    assert torch.equal(codebook.encode(turned), codebook.encode(turned.contiguous()))


def test_quantizing_twice_changes_little(codebook):
    values = codebook(vectors(codebook, 16))
    again = codebook(values)
    if codebook.family == "trellis":  # a sequential search may find another path to equal values
        assert float((again - values).square().mean()) <= 1e-4
    elif not codebook.exact_search:
        x = vectors(codebook, 16)
        assert float((again - values).square().mean()) <= float((values - x).square().mean())
    else:
        assert torch.equal(again, values)


def test_empty_batch(codebook):
    codes = codebook.encode(torch.zeros(0, codebook.dim))
    assert codes.shape == (0, *codebook.codes_shape)
    assert codebook.decode(codes).shape == (0, codebook.dim)
    assert codebook.pack(codes).payload.numel() == 0


def test_not_a_number_is_refused_with_its_index(codebook):
    x = vectors(codebook, 3)
    x[2, codebook.dim - 1] = float("nan")
    with pytest.raises(ValueError, match=rf"x\[\(2, {codebook.dim - 1}\)\] is nan"):
        codebook.encode(x)
    with pytest.raises(ValueError, match=rf"\(\*batch, {codebook.dim}\)"):
        codebook.encode(torch.zeros(2, codebook.dim + 1))
    with pytest.raises(ValueError, match="floating-point"):
        codebook.encode(torch.zeros(2, codebook.dim, dtype=torch.long))


def test_pack_takes_the_promised_bits(codebook):
    x = vectors(codebook, 3, 8)
    codes = codebook.encode(x)
    packed = codebook.pack(codes)
    if codebook.entropy_coded:  # a short block: its codes and the end state, within a third
        expected = 24 * codebook.dim * codebook.rate + 40
        assert packed.payload.numel() * 8 == pytest.approx(expected, rel=0.33)
    else:
        assert packed.payload.numel() * 8 == int(24 * codebook.dim * codebook.rate)
    assert torch.equal(codebook.unpack(packed).reshape(codes.shape), codes.long())
    assert torch.equal(codebook.decode(codebook.unpack(packed)), codebook.decode(codes))


def test_state_survives_saving_and_forward(codebook):
    x = vectors(codebook, 7)
    before = {key: value.clone() for key, value in codebook.state_dict().items()}
    values = codebook(x)
    after = codebook.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    buffer = io.BytesIO()
    torch.save(codebook.state_dict(), buffer)
    buffer.seek(0)
    again = build(codebook.spec)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(again(x), values)


def test_threads_do_not_change_codes(codebook):
    x = vectors(codebook, 600 if codebook.dim < 64 else 9)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codebook.encode(x)
        torch.set_num_threads(2)
        two = codebook.encode(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_distortion_on_fresh_numbers(codebook):
    if codebook.distortion is None:
        pytest.skip("no figure is shipped for this codebook")
    x = vectors(codebook, -(-60000 // codebook.dim), seed=7)
    mse = float((codebook(x) - x).square().sum() / x.square().sum())
    tails = (
        0.15 if codebook.rate > 7 and codebook.family == "residual" else 0.04
    )  # few, and all of it
    assert mse == pytest.approx(codebook.distortion, rel=tails)
    assert mse >= 4**-codebook.rate


@pytest.mark.parametrize(
    "specs",
    [
        [f"scalar(bits={bits})" for bits in range(1, 9)],
        [f"uniform(bits={bits})" for bits in range(1, 9)],
        [f"nf(bits={bits})" for bits in (2, 3, 4, 6)],
        [f"ecsq(rate={rate})" for rate in (1, 1.5, 2, 3)],
        [f"kmeans(dim=8, entries={entries})" for entries in (256, 4096)],
        [f"fsq(levels=[{n}, {n}])" for n in (2, 3, 4, 5, 8, 16)],
        [f"pvq(dim=8, pulses={pulses}, gain_bits=2)" for pulses in (2, 4, 7, 12)],
        [f"dn(dim=4, bits={bits})" for bits in (2, 3, 4)],
        [f"e8(bits={bits})" for bits in (1, 1.5, 2)],
        [f"leech(bits={bits})" for bits in (0.75, 1.25, 1.5, 2)],
        [f"trellis(bits={bits}, memory=12, code=lut)" for bits in (1, 2, 3, 4)],
        [f"trellis(bits=2, memory={memory}, code=lut)" for memory in (6, 8, 10, 12)],
    ],
    ids=lambda specs: specs[0],
)
def test_distortion_falls_with_rate_and_memory(specs):
    books = [build(spec) for spec in specs]
    rates = [book.rate for book in books]
    x = torch.randn(6144, generator=torch.Generator().manual_seed(8))
    figures = [
        float((b(x.reshape(-1, b.dim)) - x.reshape(-1, b.dim)).square().mean()) for b in books
    ]
    assert all(low <= high for low, high in itertools.pairwise(rates))
    assert all(low < high for high, low in itertools.pairwise(figures))


def test_half_precision_numbers_are_those_numbers(codebook):
    x = vectors(codebook, 6, seed=4)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = x.to(dtype)
        assert torch.equal(codebook.encode(rounded), codebook.encode(rounded.float()))
        assert codebook(rounded).dtype == torch.float32


def test_order_of_vectors_does_not_matter(codebook):
    x = vectors(codebook, 20, seed=5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(codebook.encode(x[order]), codebook.encode(x)[order])


def test_errors_grow_outside_and_never_within(codebook):
    """Scale behaviour: what is twice as wide as it should be costs more a unit of power than what fits."""
    x = vectors(codebook, 4096 // codebook.dim + 1, seed=6)
    fit, wide = codebook(x) - x, codebook(4 * x) - 4 * x
    assert torch.isfinite(wide).all()
    if codebook.family not in ("minifloat", "dynamic8"):  # floating point: relative by design
        assert float(wide.square().mean()) > 4 * float(fit.square().mean())


@pytest.mark.parametrize(
    "spec",
    [
        "kmeans(dim=3, entries=16)",
        "product(groups=2, of=kmeans(dim=2, entries=16))",
        "residual(stages=2, of=kmeans(dim=3, entries=16))",
        "additive(stages=2, dim=3, entries=16)",
        "latent(dim=3, levels=5)",
    ],
)
def test_tables_scale_with_what_they_are_fitted_on(spec):
    """Powers of two are exact in floating point: the same codes, values times four."""
    one, four = build(spec), build(spec)
    x = torch.randn(600, one.dim, generator=torch.Generator().manual_seed(2))
    one.fit(x, generator=torch.Generator().manual_seed(3))
    four.fit(4 * x, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one.encode(x), four.encode(4 * x))
    assert torch.equal(4 * one(x), four(4 * x))
