import builtins

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.entropy import _HEAD, compress_codes, decompress_codes, empirical_entropy


def skewed(n, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=generator).abs() * entries / 6).long().clamp_max(entries - 1)


@pytest.fixture(autouse=True)
def _needs_constriction(request):
    if "without" not in request.node.name:
        pytest.importorskip("constriction", exc_type=ImportError)


@pytest.mark.parametrize(
    "entries, n", [(2, 50_000), (17, 40_000), (256, 100_000), (65536, 400_000)]
)
def test_size_is_near_the_empirical_entropy(entries, n):
    codes = skewed(n, entries)
    data = compress_codes(codes, entries)
    assert torch.equal(decompress_codes(data), codes)
    model = int.from_bytes(data[_HEAD.size + 8 : _HEAD.size + 12], "little")
    overhead = _HEAD.size + 12 + model + 4  # the payload is whole words
    assert len(data) <= 1.01 * empirical_entropy(codes) / 8 + overhead
    assert len(data) >= empirical_entropy(codes) / 8


def test_entropy_of_a_known_histogram():
    codes = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3] * 2)
    assert empirical_entropy(codes) == pytest.approx(16 * 1.75)
    assert empirical_entropy(torch.tensor([[0, 1], [0, 1]]), contexts=2) == 0


def test_each_stage_has_its_own_histogram():
    codes = torch.stack([skewed(30_000, 64), 63 - skewed(30_000, 64, seed=1)], dim=1)
    one, two = compress_codes(codes, 64), compress_codes(codes, 64, contexts=2)
    assert torch.equal(decompress_codes(one), codes) and torch.equal(decompress_codes(two), codes)
    assert len(two) < 0.95 * len(one)


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(0, 3, dtype=torch.int32),
        torch.zeros(5000, dtype=torch.uint8),
        torch.tensor(7),
        torch.arange(256).repeat(2, 3, 1),
        torch.tensor([0] * 100_000 + [255]),
    ],
    ids=["empty", "constant", "scalar", "uniform", "rare"],
)
def test_corner_cases(codes):
    data = compress_codes(codes, 256)
    again = decompress_codes(data)
    assert again.shape == codes.shape and again.dtype == torch.int64
    assert torch.equal(again, codes.long())
    assert len(data) <= _HEAD.size + 8 * codes.ndim + 4 + codes.numel()  # never above fixed width


def test_wide_joint_codes():
    codes = torch.tensor([2**32 - 1, 5, 2**31] * 4000)
    data = compress_codes(codes, 2**32)
    assert torch.equal(decompress_codes(data), codes)
    assert len(data) < 12_000 * 1.6 / 8 + 100


@pytest.mark.parametrize(
    "spec",
    [
        "residual(stages=2, of=kmeans(dim=8, entries=256))",
        "factorized(of=kmeans(dim=4, entries=256))",
    ],
)
def test_codes_of_codebooks(spec):
    book = build(spec)
    x = torch.randn(3000, book.dim, generator=torch.Generator().manual_seed(3)) * 0.3
    codes = book.encode(x)
    data = compress_codes(codes, 2**book.code_bits, contexts=book.codes_per_vector)
    assert torch.equal(book.decode(decompress_codes(data)), book(x))
    assert len(data) < book.pack(codes).payload.numel()


def test_the_bytes_are_stable():
    data = compress_codes(torch.arange(10).repeat(20), 1000)
    assert compress_codes(torch.arange(10).repeat(20), 1000) == data
    assert data[:10] == b"VQENTROP\x01\x00"


def test_damage_is_noticed():
    data = compress_codes(skewed(2000, 16), 16)
    for broken in (data[:-1], data[:60] + b"\x00\x00" + data[62:], data[:12] + b"\x09" + data[13:]):
        with pytest.raises(ValueError, match="damaged"):
            decompress_codes(broken)
    with pytest.raises(ValueError, match="magic"):
        decompress_codes(b"something else" * 9)
    with pytest.raises(ValueError, match="version 9"):
        decompress_codes(data[:8] + b"\x09\x00" + data[10:])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        compress_codes(torch.tensor([4]), 4)
    with pytest.raises(ValueError, match="integer codes"):
        compress_codes(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="contexts do not divide"):
        compress_codes(torch.zeros(3, dtype=torch.long), 4, contexts=2)


def test_without_the_library_the_error_names_the_command(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "constriction":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'vq-toolkit\[coding\]'"):
        compress_codes(torch.zeros(3, dtype=torch.long), 4)
