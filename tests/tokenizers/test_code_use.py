import math
from collections import Counter

import pytest
import torch

from vq.tokenizers.code_use import CodeCounts, CodeUse


def test_even_and_single_use():
    counts = CodeCounts([8, 4])
    counts.add(torch.stack([torch.arange(8).repeat(5), torch.full((40,), 2)]))
    even, single = counts.use()
    assert (even.used, even.tokens, even.utilization) == (8, 40, 1.0)
    assert even.entropy == pytest.approx(3.0) and even.perplexity == pytest.approx(8.0)
    assert (single.used, single.utilization, single.perplexity) == (1, 0.25, 1.0)
    assert single.tokens_per_entry == 10 and single.nominal == 2.0


def test_counting_in_parts_against_a_counter():
    generator = torch.Generator().manual_seed(0)
    parts = [(torch.randn(1, n, 3, generator=generator).abs() * 9).long() for n in (5, 70, 1)]
    counts = CodeCounts([64])
    for part in parts:
        counts.add(part)
    counted = Counter(int(v) for part in parts for v in part.flatten())
    (use,) = counts.use()
    total = sum(counted.values())
    entropy = -sum(n / total * math.log2(n / total) for n in counted.values())
    assert (use.tokens, use.used) == (total, len(counted))
    assert use.entropy == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("ratio", [0.5, 2, 4])
def test_ceiling_is_what_even_use_shows(ratio):
    entries = 2000
    codes = torch.randint(
        entries, (1, int(ratio * entries)), generator=torch.Generator().manual_seed(1)
    )
    counts = CodeCounts([entries])
    counts.add(codes)
    (use,) = counts.use()
    assert use.ceiling == pytest.approx(1 - math.exp(-ratio))
    assert use.utilization == pytest.approx(use.ceiling, abs=0.025)


def test_large_tables_are_counted_the_same():
    generator = torch.Generator().manual_seed(2)
    small, large = CodeCounts([50]), CodeCounts([2**40])
    for n in (30, 1, 200):
        codes = torch.randint(-1, 50, (1, n), generator=generator)
        small.add(codes)
        large.add(codes)
    (a,), (b,) = small.use(), large.use()
    assert (b.entries, b.tokens, b.used) == (2**40, a.tokens, a.used)
    assert b.entropy == pytest.approx(a.entropy, abs=1e-12)


def test_nothing_is_not_counted():
    counts = CodeCounts([4])
    counts.add(torch.tensor([[-1, -1, 3]]))
    assert counts.use() == [CodeUse(4, 1, 1, 0.0)]
    assert CodeCounts([4]).use() == [CodeUse(4, 0, 0, 0.0)]


def test_wrong_codes_are_refused():
    with pytest.raises(ValueError, match="expected 2 codes a position, got 1"):
        CodeCounts([4, 4]).add(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="code 4 is not below 4 entries"):
        CodeCounts([4]).add(torch.tensor([[4]]))
