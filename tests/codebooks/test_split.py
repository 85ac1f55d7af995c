import itertools

import pytest
import torch

from vq.codebooks import PackedCodes, build
from vq.codebooks.split import Split

QUARTERS = [
    (1.25, "split(of=[trellis(bits=1, memory=8), trellis(bits=1.5, memory=8)])"),
    (1.75, "split(of=[trellis(bits=1.5, memory=8), trellis(bits=2, memory=8)])"),
    (2.25, "split(of=[trellis(bits=2, memory=8, code=lut), trellis(bits=2.5, memory=8)])"),
    (2.75, "split(of=[trellis(bits=2.5, memory=8), trellis(bits=3, memory=8, code=mul1)])"),
    (3.25, "split(of=[trellis(bits=3, memory=9), trellis(bits=3.5, memory=9, code=hybrid)])"),
    (3.75, "split(of=[trellis(bits=3.5, memory=9), trellis(bits=4, memory=9)])"),
]


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def error(book, x):
    return float((book(x) - x).double().square().mean() / x.double().square().mean())


@pytest.mark.parametrize("rate, spec", QUARTERS)
def test_quarter_bits_are_stored_exactly(rate, spec):
    book = build(spec)
    assert book.rate == rate and book.dim == 512 and book.tile == (64, 8)
    x = data(6, 512)
    codes = book.encode(x)
    packed = PackedCodes.from_bytes(book.pack(codes).to_bytes())
    assert packed.payload.numel() * 8 == 6 * 512 * rate
    assert torch.equal(book.unpack(packed), codes.long())
    assert torch.equal(book.decode(book.unpack(packed)), book(x))
    assert error(book, data(60, 512, seed=3)) == pytest.approx(book.distortion, rel=0.03)


def test_distortion_falls_with_every_quarter_bit():
    specs = [
        "trellis(bits=1, memory=8)",
        *(spec for _, spec in QUARTERS[:3]),
        "trellis(bits=2.5, memory=8)",
    ]
    books = [build(spec) for spec in specs]
    found = [(book.rate, error(book, data(40, 512).reshape(-1, book.dim))) for book in books]
    for (low, before), (high, after) in itertools.pairwise(found):
        assert low < high and 4**-high < after < 0.85 * before


def test_each_part_codes_its_own_columns():
    book = build(QUARTERS[2][1])
    left, right = book.parts
    tile = data(5, 512).reshape(5, 64, 8)
    values = book(tile.reshape(5, 512)).reshape(5, 64, 8)
    assert torch.equal(values[:, :, :4], left(tile[:, :, :4].reshape(5, 256)).reshape(5, 64, 4))
    assert torch.equal(values[:, :, 4:], right(tile[:, :, 4:].reshape(5, 256)).reshape(5, 64, 4))
    weight = torch.rand(5, 512, generator=torch.Generator().manual_seed(1)) ** 3
    codes = book.encode(tile.reshape(5, 512), weight)
    found = book.decode(codes).reshape(5, 64, 8)[:, :, 4:]
    own = right.encode(
        tile[:, :, 4:].reshape(5, 256), weight.reshape(5, 64, 8)[:, :, 4:].reshape(5, 256)
    )
    assert torch.equal(found.reshape(5, 256), right.decode(own))


def test_parts_of_one_row_follow_each_other():
    book = build("split(of=[scalar(bits=1), kmeans(dim=2, entries=5), scalar(bits=4)])")
    assert book.tile == (1, 4) and book.code_bits == 1 and book.codes_shape == (8,)
    book.fit(data(300, 4))
    x = data(50, 4, seed=1)
    parts = [part(piece) for part, piece in zip(book.parts, x.split([1, 2, 1], dim=1), strict=True)]
    assert torch.equal(book(x), torch.cat(parts, dim=1))
    bits = book.encode(x)
    assert int(bits.max()) == 1 and book.entries == 2 * 5 * 16
    assert torch.equal(bits[:, 0].long(), book.parts[0].encode(x[:, :1]).long())
    second = (bits[:, 1:4].long() * torch.tensor([1, 2, 4])).sum(1)  # lowest bit first
    assert torch.equal(second, book.parts[1].encode(x[:, 1:3]).long())


def test_codes_of_one_width_stay_as_they_are():
    book = build("split(of=[trellis(bits=2, memory=8), trellis(bits=2, memory=9)])")
    assert book.code_bits == 4 and book.codes_shape == (256,)
    x = data(3, 512)
    left = x.reshape(3, 64, 8)[:, :, :4].reshape(3, 256)
    assert torch.equal(book.encode(x)[:, :128], book.parts[0].encode(left))


def test_wide_codes():
    book = build("split(of=[pvq(dim=8, pulses=7, gain_bits=2), pvq(dim=8, pulses=7, gain_bits=2)])")
    x = data(20, 16)
    assert book.code_bits == book.parts[0].code_bits > 8
    expected = [book.parts[0](x[:, :8]), book.parts[1](x[:, 8:])]
    assert torch.equal(book(x), torch.cat(expected, dim=1))


def test_fit_reaches_the_parts_that_learn():
    book = build("split(of=[kmeans(dim=2, entries=4), scalar(bits=2)])")
    assert not book.fitted or book.parts[0].fitted
    x = data(400, 3) * 3
    weight = torch.rand(400, 3, generator=torch.Generator().manual_seed(4))
    again = build("kmeans(dim=2, entries=4)").fit(
        x[:, :2].contiguous(), weight[:, :2], torch.Generator().manual_seed(0)
    )
    book.fit(x, weight, torch.Generator().manual_seed(0))
    assert torch.equal(book.parts[0].table, again.table)
    with pytest.raises(TypeError, match="nothing to fit"):
        build("split(of=[scalar(bits=1), scalar(bits=2)])").fit(data(9, 2))


def test_spec_with_a_list_parses_back():
    for _, spec in QUARTERS:
        book = build(spec)
        assert str(build(str(book.spec)).spec) == str(book.spec)
        assert str(book.spec).startswith("split(of=[trellis(")


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least two"):
        Split(of=["scalar(bits=1)"])
    with pytest.raises(ValueError, match="at least two"):
        Split(of="scalar(bits=1)")
    with pytest.raises(ValueError, match="as many rows each"):
        build("split(of=[trellis(bits=2), scalar(bits=2)])")
    with pytest.raises(ValueError, match="variable length"):
        build("split(of=[scalar(bits=2), ecsq(rate=2)])")
    with pytest.raises(ValueError, match="weight must be finite"):
        build("split(of=[scalar(bits=2), scalar(bits=1)])").encode(data(2, 2), -torch.ones(2))
    with pytest.raises(ValueError, match="expected codes of shape"):
        build("split(of=[scalar(bits=2), scalar(bits=1)])").decode(torch.zeros(2, 4).long())
