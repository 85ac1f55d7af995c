import pytest
import torch

from vq.kernels import formats, layouts
from vq.kernels.formats import PANELS, ROWS, PackedHeader
from vq.kernels.hadamard import reference as rotate
from vq.kernels.rows import packed_rows, reference


def packed(bits, out, width):
    g = torch.Generator().manual_seed(bits)
    header = PackedHeader(PANELS, out, width, bits, 1)
    codes = torch.randint(0, 1 << bits, (out, width), generator=g)
    table = torch.randn(1, 1 << bits, 1, generator=g)
    weight = formats.assemble(header, layouts.pack_payload(codes, header))
    scales = (torch.rand(out, generator=g) + 0.5).half()
    signs = layouts.pack_signs(torch.rand(width, generator=g) < 0.5)
    plain = table[0, :, 0].double()[codes] * scales.double()[:, None]
    return (weight, scales, signs, table, width), plain, rotate(plain, None, signs)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8, 12])
def test_rows_are_those_of_the_matrix(isa, bits):
    args, plain, turned = packed(bits, 201, 45)
    index = torch.tensor([[0, 200, 64], [63, 64, 199]])
    for kind in (torch.int64, torch.int32):
        found = packed_rows(index.to(kind), *args)
        assert found.shape == (2, 3, 45) and found.dtype == torch.float32
        torch.testing.assert_close(found, turned[index].float(), rtol=1e-5, atol=1e-5)
    flat = packed_rows(index, args[0], args[1], None, *args[3:])
    torch.testing.assert_close(flat, plain[index].float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed_rows(index, *args), reference(index, *args))
    assert packed_rows(index[:0], *args).shape == (0, 3, 45)
    assert packed_rows(torch.tensor(7), *args).shape == (45,)


def test_operation_keeps_torchs_rules():
    args, _, _ = packed(4, 40, 12)
    index = torch.tensor([3, 39])
    torch.library.opcheck(torch.ops.vq.packed_rows.default, (index, *args))
    compiled = torch.compile(
        lambda i: packed_rows(i, *args) + 1, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(index), packed_rows(index, *args) + 1)
    torch.compiler.reset()


def test_what_does_not_fit_is_refused():
    args, _, _ = packed(4, 40, 12)
    for wrong in (torch.tensor([40]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"index: expected numbers in \[0, 40\)"):
            packed_rows(wrong, *args)
    with pytest.raises(ValueError, match="int64 or int32"):
        packed_rows(torch.zeros(1), *args)
    with pytest.raises(ValueError, match="scales"):
        packed_rows(torch.tensor([0]), args[0], args[1][:-1], *args[2:])
    old = PackedHeader(ROWS, 40, 12, 4, 1)
    weight = formats.assemble(old, torch.zeros(old.payload_bytes, dtype=torch.uint8))
    with pytest.raises(ValueError, match="layout 4"):
        packed_rows(torch.tensor([0]), weight, *args[1:])
