from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.losses import ReconstructionLoss, mel_loss, mel_scales, stft_loss

RATE = 16000
AUDIO = {"l1": 1.0, "l2": 2.0, "stft": 0.5, "mel": 3.0}
IMAGE = {"l1": 1.0, "l2": 0.5, "rmse": 0.2, "ssim": 0.1}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(weights: dict[str, float], **options) -> ReconstructionLoss:
    return ReconstructionLoss(weights, sample_rate=RATE, options=options)


@pytest.mark.parametrize(
    ("weights", "shape"), [(AUDIO, (2, 1, 3000)), (IMAGE, (2, 3, 16, 17)), ({"l1": 1.0}, (2, 4))]
)
def test_zero_at_identity_and_gradients_flow(weights, shape):
    x = noise(*shape)
    loss = make(weights)
    assert_close(loss(x, x).total, torch.tensor(0.0), rtol=0, atol=1e-6)
    for name in weights:
        y = (x + 0.1 * noise(*shape, seed=1)).requires_grad_()
        result = make({name: 1.0})(y, x)
        assert result.total > 0 and list(result.parts) == [name]
        result.total.backward()
        assert torch.isfinite(y.grad).all() and (y.grad != 0).float().mean() > 0.9, name


@pytest.mark.parametrize("weights", [AUDIO, IMAGE])
def test_gradient_steps_lower_every_part(weights):
    shape = (1, 1, 1024) if "mel" in weights else (1, 3, 16, 16)
    x = 0.3 * noise(*shape)
    for name in weights:
        loss = make({name: 1.0})
        y = torch.nn.Parameter(0.3 * noise(*shape, seed=2))
        optimizer = torch.optim.Adam([y], 0.02)
        first = float(loss(y, x).total.detach())
        for _ in range(30):
            optimizer.zero_grad()
            loss(y, x).total.backward()
            optimizer.step()
        assert float(loss(y, x).total.detach()) < 0.8 * first, name


def test_the_total_is_the_weighted_sum_of_parts():
    x, y = noise(2, 1, 2000), noise(2, 1, 2000, seed=1)
    result = make(AUDIO)(y, x)
    expected = sum(AUDIO[name] * part for name, part in result.parts.items())
    assert_close(result.total, expected)
    assert not any(part.requires_grad for part in result.parts.values())
    assert_close(result.parts["l1"], (x - y).abs().mean())
    assert_close(result.parts["l2"], (x - y).square().mean())


def test_a_louder_copy_has_a_closed_form():
    """y = g x: the logarithmic terms are |ln g| and |log10 g| wherever the floor does not bind."""
    x, gain = noise(1, 1, 4096), 1.5
    mel = mel_loss(gain * x, x, RATE, [(128, 16), (512, 40)], floor=1e-9)
    assert float(mel) == pytest.approx(math.log10(gain), rel=1e-4)
    window = torch.hann_window(128)
    spectrum = torch.stft(x[0], 128, 32, window=window, return_complex=True).abs()
    linear = (gain - 1) * spectrum.mean() / window.square().sum().sqrt()
    found = stft_loss(gain * x, x, sizes=(128,), floor=1e-9)
    assert float(found) == pytest.approx(float(linear) + math.log(gain), rel=1e-4)


def test_the_root_is_taken_of_each_item():
    """Items off by .1 and .3: .2, where the root of the mean over both would be .224."""
    x = noise(2, 3, 4, 4)
    off = torch.tensor([0.1, -0.3]).reshape(2, 1, 1, 1)
    assert_close(make({"rmse": 1.0})(x + off, x).total, torch.tensor(0.2), atol=1.1e-3, rtol=0)
    exact = make({"rmse": 1.0}, rmse={"floor": 0.0})(x + off, x).total
    assert_close(exact, torch.tensor(0.2))


def test_silence_is_no_trouble():
    quiet = torch.zeros(1, 1, 2000)
    y = torch.zeros(1, 1, 2000, requires_grad=True)
    result = make(AUDIO)(y, quiet)
    result.total.backward()
    assert result.total == 0 and torch.isfinite(y.grad).all()
    assert torch.isfinite(make(AUDIO)(noise(1, 1, 2000), quiet).total)


def test_ssim_of_shifted_constants_by_hand():
    """Without variance, SSIM = (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b, c1 = 0.5, 0.25, (0.01 * 2) ** 2
    x, y = torch.full((1, 1, 12, 12), a), torch.full((1, 1, 12, 12), b)
    expected = 1 - (2 * a * b + c1) / (a * a + b * b + c1)
    assert float(make({"ssim": 1.0})(x, y).total) == pytest.approx(expected, rel=1e-4)


def test_half_precision_is_computed_in_single():
    x, y = noise(1, 1, 2000), noise(1, 1, 2000, seed=1)
    expected = make(AUDIO)(x.bfloat16().float(), y.bfloat16().float()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(make(AUDIO)(x.bfloat16(), y.bfloat16()).total, expected, rtol=0, atol=0)


def test_options_reach_their_part():
    x, y = noise(1, 1, 2000), noise(1, 1, 2000, seed=1)
    found = make({"stft": 1.0}, stft={"sizes": [64]})(x, y).total
    assert_close(found, stft_loss(x, y, sizes=(64,)))
    found = make({"mel": 1.0}, mel={"sizes": [512], "floor": 1e-2})(x, y).total
    assert_close(found, mel_loss(x, y, RATE, [(512, 80)], floor=1e-2))


def test_mel_scales_shrink_where_filters_would_be_empty():
    assert mel_scales(16000, [128, 512]) == [(128, 20), (512, 80)]
    assert mel_scales(192000, [2048])[0][1] < 320
    with pytest.raises(ValueError, match="too short for a mel"):
        mel_scales(16000, [4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {}}, "at least one of l1"),
        ({"weights": {"stf": 1.0}}, "did you mean stft"),
        ({"weights": {"l1": -1.0}}, "a weight from 0"),
        ({"weights": {"l1": math.nan}}, "a weight from 0"),
        ({"weights": {"mel": 1.0}}, "needs sample_rate"),
        ({"weights": {"l1": 1.0}, "options": {"stft": {}}}, "not among the weights"),
        ({"weights": {"stft": 1.0}, "options": {"stft": {"size": 3}}}, "did you mean sizes"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionLoss(**arguments)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="of one shape"):
        make({"l1": 1.0})(noise(1, 3, 8), noise(1, 3, 9))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        make({"ssim": 1.0})(noise(1, 1, 200), noise(1, 1, 200))
