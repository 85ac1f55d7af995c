from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.backbones.vocos import MAX_LOG, InverseSpectrum


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("overlap", [2, 3, 4, 6])
@pytest.mark.parametrize("causal", [False, True])
def test_the_head_inverts_a_transform(overlap, causal):
    """Spectra of unwindowed frames of a signal give the signal back where all frames are there."""
    hop, count = 6, 12
    head = InverseSpectrum(1, hop, overlap, causal)
    x = noise((count + overlap - 1) * hop)  # frame p is samples p hop .. p hop + size
    spectrum = torch.fft.rfft(x.unfold(0, head.size, hop), norm="ortho")
    given = torch.cat([spectrum.abs().log(), spectrum.angle()], -1).T[None]
    found = head(given)[0, 0]
    assert found.shape == (count * hop,)
    whole = slice((overlap - 1) * hop, count * hop)  # samples under ``overlap`` frames
    shifted = slice(whole.start - head.skip, whole.stop - head.skip)
    assert_close(found[shifted], x[whole], rtol=1e-9, atol=1e-9)


def test_frames_are_centred_unless_causal():
    """One frame of a pulse in its middle: the energy lies in its own position, or behind."""
    for causal, expected in ((False, 5), (True, 6)):
        head = InverseSpectrum(1, 8, 4, causal)
        log = torch.full((1, 17, 11), -30.0)
        log[..., 5] = 0
        phase = torch.zeros(1, 17, 11)
        phase[:, :, 5] = math.pi * torch.arange(17) % (2 * math.pi) - 1e-3  # delay by half a frame
        energy = head(torch.cat([log, phase], 1)).square().unflatten(-1, (11, 8)).sum((0, 1, 3))
        assert int(energy.argmax()) in (expected, expected + 1)


def test_magnitudes_are_bounded():
    head = InverseSpectrum(1, 4, 2, False)
    x = torch.full((1, head.inputs, 3), 1e4)
    assert float(head(x).abs().max()) <= math.exp(MAX_LOG) * 8
    x.requires_grad_()
    head(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_half_precision_is_computed_in_single():
    head = InverseSpectrum(1, 4, 2, False)
    x = noise(1, head.inputs, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, head(x.float()))


def test_context_by_hand():
    """Encoder: kernel 2 hop and 2 blocks of 7; decoder: 7, 4 blocks of 7, frames of 4 hops."""
    backbone = make_backbone("vocos", hop=4, width=4, dim=2)
    assert backbone.context == ((7, 7),)  # 1 + 2 * 3
    assert backbone.decoder_context == ((17, 17),)  # 3 + 4 * 3 + 2
    causal = make_backbone("vocos", hop=4, width=4, dim=2, causal=True)
    assert causal.context == ((13, 0),)  # 1 + 2 * 6
    assert causal.decoder_context == ((33, 0),)  # 6 + 4 * 6 + 3


def test_it_learns_a_tone():
    generator = torch.Generator().manual_seed(0)
    phase = 6.2832 * torch.rand(48, 1, 1, generator=generator)
    x = torch.sin(0.3 * torch.arange(200.0) + phase)
    backbone = make_backbone("vocos", hop=20, width=32, dim=8, blocks=1, decoder_blocks=1, seed=0)
    optimizer = torch.optim.Adam(backbone.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        (backbone(x[:32]) - x[:32]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (backbone(x[32:]) - x[32:]).square().mean()
    assert error < 0.1 * x.square().mean()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_linear_part_starts_as_principal_axes_of_blocks(channels):
    x = noise(3, channels, 600, seed=1).float().cumsum(-1)
    backbone = make_backbone(
        "vocos", hop=6, dim=4, width=8, blocks=1, channels=channels, linear=True, seed=0
    )
    backbone.start(x)
    into, back = backbone.encoder.branches[0], backbone.decoder.branches[0]
    rows = x.unfold(2, 6, 6).movedim(1, 2).reshape(-1, 6 * channels).double()
    mean = rows.mean(0)
    axes = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:4]
    kept = ((rows - mean) @ axes.T @ axes + mean).float()
    with torch.no_grad():
        found = back(into(x)).unfold(2, 6, 6).movedim(1, 2).reshape(-1, 6 * channels)
        assert_close(found, kept, rtol=1e-3, atol=1e-3 * float(kept.abs().max()))
        whole = backbone(x) - back(backbone.encode(x))
    assert whole.square().mean() < 0.05, "the network is quiet at first"


@pytest.mark.parametrize(
    "config", [{"hop": 5}, {"kernel": 4}, {"overlap": 1}, {"overlap": 9}, {"hop": 0}, {"width": -1}]
)
def test_values_out_of_range(config):
    with pytest.raises(ValueError, match="expected an even hop|whole number from 1"):
        make_backbone("vocos", **config)
