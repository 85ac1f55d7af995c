import pytest
import torch

from vq.tokenizers.interval import Interval, student_t


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 11, 15, 30, 200])
def test_quantiles_against_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-4)


def test_interval_holds_the_true_mean_19_times_in_20():
    generator = torch.Generator().manual_seed(0)
    samples = 3 + 2 * torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    found = [Interval.of(row.tolist()) for row in samples]
    inside = sum(i.low <= 3 <= i.high for i in found) / len(found)
    assert inside == pytest.approx(0.95, abs=0.012)
    assert found[0].mean == pytest.approx(float(samples[0].mean())) and found[0].files == 6


def test_one_file_says_nothing_about_others():
    assert Interval.of([2.5]) == Interval(2.5, 2.5, 2.5, 1)
    with pytest.raises(ValueError, match="at least one file"):
        Interval.of([])
