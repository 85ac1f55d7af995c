"""On a tiny model that was trained, so that its predictions mean something."""

import pytest
import torch

from vq.compressors.tuning.model import ModelTuner, teach
from vq.compressors.tuning.options import TuneOptions
from vq.errors import VqError

pytestmark = pytest.mark.hf
OPTIONS = TuneOptions(
    tokens=30 * 8 * 24, context=24, batch=8, rate=0.01, gain_rate=0.01, mix=0.0, checks=5
)


def sentences(count, length, seed):
    """Text of a random Markov chain of 40 words."""
    table = torch.randn(40, 40, generator=torch.Generator().manual_seed(9)).mul(3).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(40, (count, 1), generator=generator)
    for _ in range(length - 1):
        following = torch.multinomial(table[rows[:, -1]], 1, generator=generator)
        rows = torch.cat([rows, following], 1)
    return rows


@pytest.fixture(scope="module")
def trained():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        rows = sentences(16, 24, seed=100 + step)
        loss = model(input_ids=rows, labels=rows).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval().requires_grad_(False)


def damaged(model):
    """A copy with rounding-like noise in the layers of the blocks, and these layers."""
    import copy

    bad = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(2)
    layers = {n: m for n, m in bad.named_modules() if type(m) is torch.nn.Linear and "layers" in n}
    for layer in layers.values():
        noise = torch.randn(layer.weight.shape, generator=generator)
        layer.weight += 0.3 * layer.weight.square().mean().sqrt() * noise
    return bad, layers


def tuner_of(trained, options=OPTIONS):
    bad, layers = damaged(trained)
    train, held_out = (
        teach(trained, sentences(120, 24, 1), 8),
        teach(trained, sentences(8, 24, 2), 8),
    )
    return ModelTuner(bad, layers, train, held_out, options, seed=3)


def divergence(model, original, rows):
    with torch.no_grad():
        p, q = (m(input_ids=rows).logits.log_softmax(-1) for m in (original, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_tuning_brings_unseen_text_closer_to_the_original(trained):
    tuner = tuner_of(trained)
    rows = sentences(16, 24, 77)
    codes = {n: layer.weight.clone() for n, layer in tuner.rounded.items()}
    before = divergence(tuner.model, trained, rows)
    tuner.run()
    assert divergence(tuner.model, trained, rows) < 0.7 * before
    assert [h["step"] for h in tuner.history] == [0, 6, 12, 18, 24, 30]
    assert tuner.best == min(h["loss"] for h in tuner.history)
    assert all(torch.equal(layer.weight, codes[n]) for n, layer in tuner.rounded.items())


def test_the_best_state_is_what_stays(trained):
    wild = tuner_of(trained, TuneOptions(tokens=960, context=24, batch=8, rate=0.9, gain_rate=0.9))
    before = {n: p.detach().clone() for n, p in wild.parameters.items()}
    wild.run()
    assert wild.history[-1]["loss"] > wild.history[0]["loss"]
    assert all(torch.equal(p, before[n]) for n, p in wild.parameters.items())


@pytest.mark.parametrize("stop", [1, 12, 29])
def test_a_stored_state_goes_on_to_the_same_numbers(trained, stop):
    whole = tuner_of(trained)
    whole.run()

    first = tuner_of(trained)
    stored = {}

    class Stop(Exception):
        pass

    def keep(done, _):
        if done == stop:
            stored.update({n: t.clone() for n, t in first.state_dict().items()})
            raise Stop

    with pytest.raises(Stop):
        first.run(progress=keep)
    second = tuner_of(trained)
    second.load_state_dict(stored, first.step, first.best, first.history)
    second.run()
    assert second.history == whole.history
    assert all(torch.equal(p, whole.parameters[n]) for n, p in second.parameters.items())


def test_every_window_is_seen_once_a_pass(trained):
    tuner = tuner_of(trained)
    seen = []
    for tuner.step in range(15):
        seen += tuner._rows().tolist()
    assert sorted(seen) == list(range(120))


def test_numbers_that_are_not_finite_end_it(trained):
    tuner = tuner_of(trained)
    next(iter(tuner.rounded.values())).weight[0, 0] = float("nan")
    with pytest.raises(VqError, match="not finite"):
        tuner.run()
