"""Panels of packed layers: codes read by the written format against the packer of the kernels."""

from __future__ import annotations

import pytest
import torch

from vq.analysis.files.panels import panel_codes
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
