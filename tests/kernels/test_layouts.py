import pytest
import torch

from vq.kernels.layouts import pack_rows, unpack_rows


@pytest.mark.parametrize("bits", [1, 5, 8, 17, 31, 32, 33, 36, 48, 55, 57, 61, 62])
def test_fields_of_any_width_are_one_long_number(bits):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (101,), generator=generator)
    codes[:2] = torch.tensor([2**bits - 1, 0])
    payload = pack_rows(codes, bits)
    whole = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    assert bytes(payload.tolist()) == whole.to_bytes((101 * bits + 7) // 8, "little")
    assert torch.equal(unpack_rows(payload, bits, 101), codes)
    assert torch.equal(unpack_rows(payload, bits, 40, first=61), codes[61:])
    assert torch.equal(unpack_rows(payload, bits, 1, first=3), codes[3:4])


def test_widths_beyond_int64_are_refused():
    with pytest.raises(ValueError, match="1 to 62"):
        pack_rows(torch.zeros(1, dtype=torch.long), 63)
    with pytest.raises(ValueError, match="expected values in"):
        pack_rows(torch.tensor([2**40]), 40)
