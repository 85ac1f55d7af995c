"""Panels of packed layers: codes read by the written format against the packer of the kernels."""

from __future__ import annotations

import pytest
import torch

from vq.analysis.files.packed import Header, spread_scales
from vq.analysis.files.panels import panel_codes
from vq.errors import VqError
from vq.kernels.formats import PANELS, PackedHeader
from vq.kernels.layouts import pack_payload


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (63, 5), (64, 8), (150, 13)])
def test_codes_are_those_that_were_packed(bits, rows, columns):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (rows, columns, 1), generator=generator)
    payload = pack_payload(codes, PackedHeader(PANELS, rows, columns, bits, 1))
    assert torch.equal(panel_codes(payload, rows, columns, bits), codes[..., 0])


def test_a_payload_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected 8 bytes of panels, got 7"):
        panel_codes(torch.zeros(7, dtype=torch.uint8), 5, 1, 8)


def test_scales_of_groups_are_spread_over_their_columns():
    head = header_of(group=32)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).half()
    found = spread_scales(scales, head, "layer")
    assert found.shape == (2, 40) and found.dtype == torch.float32
    assert torch.equal(found[:, 31:33], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    plain = spread_scales(scales[:, 0], header_of(group=0), "layer")
    assert torch.equal(plain, torch.tensor([[1.0], [3.0]]))
    for wrong, group in ((scales, 0), (scales[:, 0], 32), (scales[:, :1], 32)):
        with pytest.raises(VqError, match="layer: expected scales of shape"):
            spread_scales(wrong, header_of(group=group), "layer")


def header_of(group):
    """Fields of a matrix of 2 x 40 scalars of 4 bits, read from bytes written by hand."""
    data = bytearray(64)
    data[:4], data[4], data[6], data[8], data[12] = b"VQPK", 1, 4, 2, 40
    data[16], data[18], data[26], data[50] = 4, 1, 1, group
    return Header.of(bytes(data), "layer")
