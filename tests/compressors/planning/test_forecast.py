"""Forecasts against what compressing really costs, on a tiny model that was trained."""

import pytest
import torch

import vq
from vq.compressors.files.source import open_folder
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.planning.plan import Planner
from vq.compressors.planning.stage import find_sensitivities

pytestmark = [pytest.mark.hf, pytest.mark.slow]
SPECS = [f"trellis(bits={bits:g}, memory=8, code=hash)" for bits in (1, 1.5, 2, 3)]
WORDS = 40


def chain(count, seed):
    """A random Markov chain over the tokens 1 to 40."""
    table = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(9)).mul(3).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    found = [0]
    for _ in range(count - 1):
        found.append(int(torch.multinomial(table[found[-1]], 1, generator=generator)))
    return torch.tensor(found) + 1


@pytest.fixture(scope="module")
def world(tmp_path_factory, build_model):
    """A trained model, a calibration text, and held-out tokens."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("world")
    path = build_model(
        folder / "model", layers=4, hidden_size=64, intermediate_size=128, tie_word_embeddings=True
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(250):
        rows = chain(512, 100 + step).reshape(16, 32)
        loss = model(input_ids=rows, labels=rows).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.half().save_pretrained(path)
    names = {
        i: word for word, i in transformers.AutoTokenizer.from_pretrained(path).get_vocab().items()
    }
    text = folder / "text.txt"
    text.write_text(" ".join(names[int(i)] for i in chain(4000, 1)), encoding="utf-8")
    return path, text, chain(1024, 2).reshape(32, 32)


@torch.no_grad()
def measured(folder, original, rows):
    p, q = (vq.load(f)(rows).logits.float().log_softmax(-1) for f in (original, folder))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_forecasts_rank_random_plans_as_measurements_do(world, tmp_path):
    from scipy.stats import spearmanr

    path, text, rows = world
    findings = find_sensitivities(
        open_folder(path, "m"), text, windows=32, probes=16, context=32, every=1
    )
    planner = Planner(findings, SPECS)
    generator = torch.Generator().manual_seed(0)
    forecasts, real = [], []
    for number in range(10):
        weights = torch.rand(len(SPECS), generator=generator)
        picks = torch.multinomial(weights, len(findings.layers), True, generator=generator)
        plan = {
            layer.layer: SPECS[i] for layer, i in zip(findings.layers, picks.tolist(), strict=True)
        }
        options = CompressOptions(codebook=SPECS[0], layers=plan, windows=32, context=32)
        target = tmp_path / str(number)
        compress(path, target, options=options, calibration=text)
        forecasts.append(planner.forecast(plan).kl)
        real.append(measured(target, path, rows))
    assert spearmanr(forecasts, real).statistic >= 0.9
