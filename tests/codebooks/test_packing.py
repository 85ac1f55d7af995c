import pytest
import torch

from vq.codebooks import PackedCodes, build
from vq.codebooks.packing import pack_bits, unpack_bits


def slow_pack(codes, bits):
    """The definition, bit by bit."""
    stream = [(int(code) >> i) & 1 for code in codes for i in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return [sum(stream[j + i] << i for i in range(8)) for j in range(0, len(stream), 8)]


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 11, 16, 31])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_pack_bits_against_the_definition(bits, count):
    generator = torch.Generator().manual_seed(bits * 1000 + count)
    codes = torch.randint(0, 2**bits, (count,), generator=generator)
    payload = pack_bits(codes, bits)
    assert payload.tolist() == slow_pack(codes, bits)
    assert payload.numel() == -(-count * bits // 8)
    assert torch.equal(unpack_bits(payload, bits, count), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 4\) for 2 bits"):
        pack_bits(torch.tensor([0, 4]), 2)
    with pytest.raises(ValueError, match="got -1"):
        pack_bits(torch.tensor([-1]), 2)
    with pytest.raises(ValueError, match="expected 2 bytes"):
        unpack_bits(torch.zeros(3, dtype=torch.uint8), 4, 4)


def test_bytes_round_trip_and_damage():
    codebook = build("scalar(bits=3)")
    codes = codebook.encode(torch.randn(4, 5, 1, generator=torch.Generator().manual_seed(0)))
    packed = codebook.pack(codes)
    data = packed.to_bytes()
    back = PackedCodes.from_bytes(data)
    assert back.shape == (4, 5) and back.spec == "scalar(bits=3)"
    assert torch.equal(codebook.unpack(back), codes)
    with pytest.raises(ValueError, match="cut short"):
        PackedCodes.from_bytes(data[:-1])
    with pytest.raises(ValueError, match="magic"):
        PackedCodes.from_bytes(b"other" + data)
    with pytest.raises(ValueError, match="damaged header"):
        PackedCodes.from_bytes(data[:14] + b"?" + data[15:])


def test_another_codebook_refuses_the_codes():
    packed = build("scalar(bits=3)").pack(torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="cannot be read by"):
        build("scalar(bits=2)").unpack(packed)
