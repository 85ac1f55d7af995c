import pytest
import torch

from vq.codebooks import PackedCodes, build


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
