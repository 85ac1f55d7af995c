import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vq.compressors.scores.evaluate import score, text_windows
from vq.errors import VqError

VOCABULARY = 11


class Bigram(nn.Module):
    """Logits that depend on the last token alone."""

    def __init__(self, seed, vocabulary=VOCABULARY):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = 3 * torch.randn(VOCABULARY, vocabulary, generator=generator)

    def forward(self, ids, use_cache=False):
        return SimpleNamespace(logits=self.table[ids])


@pytest.fixture
def windows():
    return torch.randint(0, VOCABULARY, (5, 300), generator=torch.Generator().manual_seed(0))


def test_perplexity_by_hand(windows):
    model = Bigram(1)
    probabilities = model.table.double().exp()
    probabilities /= probabilities.sum(1, keepdim=True)
    logs = [
        math.log(probabilities[a, b])
        for row in windows.tolist()
        for a, b in zip(row[:-1], row[1:], strict=True)
    ]
    scores = score(model, windows)
    assert scores.tokens == 5 * 299 == len(logs)
    assert scores.perplexity == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-5)
    assert (scores.kl, scores.top1, scores.reference_perplexity) == (None, None, None)


def test_divergence_and_agreement_by_hand(windows):
    model, reference = Bigram(1), Bigram(2)
    scores = score(model, windows, reference)
    p, q = (m.table.double().softmax(1) for m in (reference, model))
    kl = (p * (p / q).log()).sum(1)
    same = p.argmax(1) == q.argmax(1)
    seen = windows[:, :-1]
    assert scores.kl == pytest.approx(float(kl[seen].mean()), rel=1e-5)
    assert scores.top1 == pytest.approx(float(same[seen].double().mean()))
    assert scores.reference_perplexity == pytest.approx(score(reference, windows).perplexity)


def test_a_model_against_itself(windows):
    scores = score(Bigram(1), windows, Bigram(1))
    assert scores.kl == pytest.approx(0, abs=1e-9)
    assert scores.top1 == 1 and scores.perplexity == scores.reference_perplexity


def test_windows_are_whole_and_spread():
    ids = torch.arange(1005)
    assert torch.equal(text_windows(ids, 100), ids[:1000].reshape(10, 100))
    assert text_windows(ids, 100, 3)[:, 0].tolist() == [0, 400, 900]
    assert len(text_windows(ids, 100, 50)) == 10


def test_bad_input(windows):
    with pytest.raises(VqError, match="99 tokens, fewer than one context of 100"):
        text_windows(torch.arange(99), 100)
    with pytest.raises(VqError, match="at least 2"):
        text_windows(torch.arange(99), 1)
    with pytest.raises(VqError, match="vocabularies differ: 11 and 12"):
        score(Bigram(1), windows, Bigram(1, VOCABULARY + 1))
    broken = Bigram(1)
    broken.table[3] = float("nan")
    with pytest.raises(VqError, match="not finite"):
        score(broken, windows)
