import pytest
import torch

from vq.compressors.files.source import open_folder
from vq.compressors.planning.sensitivity import Probe, predict, probe, shaped_noise
from vq.compressors.rounding.block import derived_seed
from vq.compressors.rounding.rotation import hadamard, random_signs
from vq.compressors.rounding.round import RoundingOptions, block_ldl, round_matrices
from vq.compressors.structure.skeleton import build_skeleton

SETTINGS = Probe(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))


def correlated(width, generator):
    mixed = torch.randn(width, width, generator=generator)
    return mixed @ mixed.t() / width + 0.02 * torch.eye(width)


def test_the_noise_has_the_energy_that_error_feedback_leaves():
    generator = torch.Generator().manual_seed(0)
    metric = correlated(64, generator)
    weight = torch.randn(512, 64, generator=generator)
    noise = shaped_noise(weight, metric, SETTINGS, seed=3)
    # E = N L^-1 gives tr(E (H + damping) E') = distortion * rms^2 * tr(D), the trace of the block LDL's diagonal
    signs = random_signs(64, torch.Generator().manual_seed(3))
    damped = metric + 0.01 * metric.diagonal().mean() * torch.eye(64)
    turned = hadamard(hadamard(damped * signs[:, None] * signs).t()).t()
    unit, _ = block_ldl(turned.contiguous(), 4, 1e-9)
    inverse = torch.linalg.inv(unit)
    trace = float((inverse @ turned @ inverse.t()).diagonal().sum())
    wanted = SETTINGS.distortion * float(weight.square().mean(1).sum()) * trace
    found = float(((noise @ damped) * noise).sum())
    assert found == pytest.approx(wanted, rel=0.03)


def test_the_noise_is_as_strong_as_real_rounding():
    from vq.codebooks import build

    generator = torch.Generator().manual_seed(1)
    metric = correlated(128, generator)
    weight = torch.randn(256, 128, generator=generator)
    book = build("trellis(bits=2, memory=10, code=hash)")
    settings = Probe(SETTINGS.calibration, SETTINGS.texts, distortion=float(book.distortion))
    rounded = round_matrices({"w": weight}, metric, book, RoundingOptions(damping=0.01), seed=4)[
        "w"
    ]
    noise = shaped_noise(weight, metric, settings, seed=4)
    energy = float(((weight @ metric) * weight).sum())
    assert float(((noise @ metric) * noise).sum()) / energy == pytest.approx(
        rounded.proxy_error, rel=0.15
    )


@pytest.fixture
def skeleton(llama):
    return build_skeleton(open_folder(llama, "llama"))


@pytest.mark.hf
def test_the_tail_of_the_model_predicts_as_the_whole(skeleton, llama):
    from transformers import AutoModelForCausalLM

    from vq.compressors.calibration.calibrate import capture
    from vq.compressors.tuning.stage import fill_whole

    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    row = torch.arange(12) % 60
    activations = capture(skeleton, row[None])
    for index, block in enumerate(skeleton.blocks):
        skeleton.fill(block, skeleton.block_name(index))
        activations.advance(block, index, "")
    fill_whole(skeleton, blocks=False)
    with torch.no_grad():
        wanted = model(row[None]).logits[0]
        assert torch.allclose(predict(skeleton, row, activations.hidden[0]), wanted, atol=1e-4)


@pytest.mark.hf
def test_a_slope_is_the_divergence_that_noise_causes(skeleton, llama):
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(0)
    calibration = torch.randint(60, (4, 32), generator=generator)
    texts = torch.randint(60, (2, 32), generator=generator)
    settings = Probe(calibration, texts, seed=7)
    found = probe(skeleton, settings)
    names = [n for i in range(3) for n in skeleton.linears(i)]
    assert [layer.layer for layer in found.layers] == names
    assert all(layer.measured and layer.slope > 0 for layer in found.layers)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())

    # the last block's down projection, by hand
    name = names[-1]
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    seen = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for row in calibration:
            model(row[None])
        handle.remove()
        x = torch.cat(seen)
        clean = [model(row[None]).logits[0].log_softmax(-1) for row in texts]
        metric = x.t() @ x / len(x)
        layer.weight += shaped_noise(
            layer.weight.detach().clone(), metric, settings, derived_seed(7, name)
        )
        noisy = [model(row[None]).logits[0].log_softmax(-1) for row in texts]
    kl = (
        sum(float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(clean, noisy, strict=True))
        / 2
    )
    assert found.layers[-1].slope * settings.distortion == pytest.approx(kl, rel=1e-3)


@pytest.mark.hf
def test_blocks_left_out_lie_between_their_neighbours(skeleton):
    calibration = torch.randint(60, (2, 32), generator=torch.Generator().manual_seed(0))
    found = {s.layer: s for s in probe(skeleton, Probe(calibration, calibration, every=2)).layers}
    for name in skeleton.linears(1):
        before, after = (found[name.replace(".1.", f".{i}.")].slope for i in (0, 2))
        assert not found[name].measured
        assert found[name].slope == pytest.approx((before * after) ** 0.5, rel=1e-6)
