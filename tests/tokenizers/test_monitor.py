from __future__ import annotations

import csv
import math

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

import lightning

from vq.quantizers import make
from vq.tokenizers.metrics_file import MetricsFile
from vq.tokenizers.monitor import CodebookMonitor, Usage, code_use, outermost_quantizers


def test_use_by_hand():
    """Counts 2, 1, 1, 0: three of four used, entropy 1.5 ln 2."""
    use = code_use(torch.tensor([2, 1, 1, 0]))
    assert use["utilization"] == 0.75 and use["n_over_k"] == 1.0
    assert use["ceiling"] == pytest.approx(1 - math.exp(-1))
    assert use["perplexity"] == pytest.approx(2**1.5)
    assert code_use(torch.zeros(3, dtype=torch.int64))["perplexity"] == 0


def test_even_use_reaches_the_ceiling():
    codes = torch.randint(1000, (4000,), generator=torch.Generator().manual_seed(0))
    usage = Usage((1000,), 2)
    usage.add(torch.zeros(4000, 2), codes)
    found = usage.summary()
    assert found["utilization"] == pytest.approx(found["ceiling"], abs=0.01)


def test_batches_add_up_and_masked_codes_do_not_count():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    codes = torch.randint(-1, 5, (60, 2), generator=generator)
    once, twice = Usage((5, 5), 3), Usage((5, 5), 3)
    once.add(x, codes)
    twice.add(x[:20].reshape(4, 5, 3), codes[:20].reshape(4, 5, 2))
    twice.add(x[20:], codes[20:])
    assert once.summary() == pytest.approx(twice.summary())
    for column in range(2):
        counted = once.counts[column].tolist()
        assert counted == [int((codes[:, column] == k).sum()) for k in range(5)]
    assert {"utilization_0", "perplexity_1"} <= once.summary().keys()


def test_effective_rank():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 4, generator=generator) + 7.0
    usage = Usage((2,), 4)
    usage.add(x, torch.zeros(20000, dtype=torch.int64))
    assert usage.effective_rank() == pytest.approx(4, abs=0.01)
    flat = Usage((2,), 4)
    flat.add(x * torch.tensor([1.0, 0, 0, 0]), torch.zeros(20000, dtype=torch.int64))
    assert flat.effective_rank() == pytest.approx(1, abs=1e-3)
    scales = torch.tensor([3.0, 1.0, 1.0, 1.0])
    skewed = Usage((2,), 4)
    skewed.add(x * scales, torch.zeros(20000, dtype=torch.int64))
    values = torch.linalg.svdvals((x * scales - (x * scales).mean(0)).double())
    share = values / values.sum()
    expected = float(torch.exp(-(share * share.log()).sum()))
    assert skewed.effective_rank() == pytest.approx(expected, rel=1e-6)
    assert Usage((2,), 4).effective_rank() == 0


def test_too_many_entries_are_not_counted():
    usage = Usage((2**40,), 2)
    usage.add(torch.randn(5, 2), torch.arange(5))
    assert usage.summary().keys() == {"effective_rank"} and usage.counts[0].numel() == 0


class Project(lightning.LightningModule):
    """Somebody's module, with two quantizers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = make("vq", codebook="kmeans(dim=4, entries=8)", revival=0.5, every=1)
        self.inside = nn.ModuleDict({"b": make("fsq", levels=[3, 3, 3, 3])})
        self.scale = nn.Parameter(torch.ones(4))
        self.codes: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        out = self.a(batch * self.scale)
        self.codes.append(out.codes)
        return out.loss + self.inside["b"](batch * self.scale).values.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


class Remember(lightning.pytorch.loggers.logger.DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, dict(metrics)))


def test_in_any_project():
    torch.manual_seed(0)
    module, logger, monitor = Project(), Remember(), CodebookMonitor(every=3)
    data = [torch.randn(16, 4) for _ in range(7)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        callbacks=[monitor],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    rows = [(step, row) for step, row in logger.seen if any("codebook/" in k for k in row)]
    assert [step for step, _ in rows] == [3, 6]
    for (_, row), codes in zip(rows, (module.codes[:3], module.codes[3:6]), strict=True):
        used = torch.cat(codes)
        assert row["codebook/a/utilization"] == len(used.unique()) / 8
        assert row["codebook/a/n_over_k"] == 48 / 8
        assert "codebook/a/revived" in row and row["codebook/inside.b/n_over_k"] == 48 / 81
    assert not module.a._forward_hooks


def test_eval_forwards_do_not_count():
    module, monitor = Project(), CodebookMonitor()
    monitor.on_train_start(None, module)
    module.eval()
    module.a(torch.randn(5, 4))
    assert monitor.report() == {}
    module.train()
    module.a(torch.randn(5, 4))
    assert monitor.report()["codebook/a/n_over_k"] == 5 / 8
    assert monitor.report() == {}
    monitor.on_train_end(None, module)


def test_only_the_outermost_quantizers_are_watched():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = make("vq", codebook="kmeans(dim=4, entries=8)")
            self.q.inner = make("fsq", levels=[3])

    assert list(outermost_quantizers(Both())) == ["q"]
    assert list(outermost_quantizers(make("fsq", levels=[3]))) == ["quantizer"]


def test_wrong_interval():
    with pytest.raises(ValueError, match="every: expected at least 1"):
        CodebookMonitor(0)


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_metrics_file_merges_what_belongs_to_a_step(tmp_path):
    logger = MetricsFile(tmp_path / "m.csv")
    logger.log_metrics({"b": 1.0}, 10)
    logger.log_metrics({"a": 0.25}, 10)
    logger.log_metrics({"c": 3.0}, 20)
    assert read(tmp_path / "m.csv") == [
        {"step": "10", "a": "0.25", "b": "1", "c": ""},
        {"step": "20", "a": "", "b": "", "c": "3"},
    ]


def test_a_metrics_file_goes_on_where_the_checkpoint_is(tmp_path):
    first = MetricsFile(tmp_path / "m.csv")
    for step in (10, 20, 30):
        first.log_metrics({"a": step}, step)
    second = MetricsFile(tmp_path / "m.csv", start=20)
    second.log_metrics({"a": 300}, 30)
    assert [(r["step"], r["a"]) for r in read(tmp_path / "m.csv")] == [
        ("10", "10"), ("20", "20"), ("30", "300"),
    ]  # fmt: skip
    MetricsFile(tmp_path / "m.csv").log_metrics({"a": 1}, 5)
    assert [r["step"] for r in read(tmp_path / "m.csv")] == ["5"]
