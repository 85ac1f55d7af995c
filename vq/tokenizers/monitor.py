"""How a codebook is used while it trains: a Lightning callback for any module with a quantizer inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vq.quantizers import Quantized, Quantizer

MOST_ENTRIES = 1 << 22


class Usage:
    """Counts of codes and moments of features; memory is the entries plus dim squared, whatever the data.

    Args:
        entries: values each code can take. Codes with more than ``MOST_ENTRIES`` are not counted.
        dim: length of a feature vector.
        device: of the counts.
    """

    def __init__(
        self, entries: Sequence[int], dim: int, device: torch.device | str = "cpu"
    ) -> None:
        self.entries = tuple(entries)
        self.counts = [
            torch.zeros(n if n <= MOST_ENTRIES else 0, dtype=torch.int64, device=device)
            for n in entries
        ]
        self.vectors = torch.zeros((), dtype=torch.float64, device=device)
        self.total = torch.zeros(dim, dtype=torch.float64, device=device)
        self.products = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def add(self, features: Tensor, codes: Tensor) -> None:
        """Count one batch: features ``(*batch, dim)`` and codes ``(*batch, *codes_shape)``; code -1 is passed over."""
        rows = features.detach().reshape(-1, features.shape[-1]).double()
        self.vectors += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows
        columns = codes.detach().reshape(len(rows), -1)
        for count, column in zip(self.counts, columns.T, strict=True):
            if len(count):
                count.add_(torch.bincount(column[column >= 0], minlength=len(count)))

    def reduce(self) -> None:
        """Sum over all processes."""
        if dist.is_available() and dist.is_initialized():
            for tensor in (*self.counts, self.vectors, self.total, self.products):
                dist.all_reduce(tensor)

    def summary(self) -> dict[str, float]:
        """Utilization with N/K and its ceiling, perplexity, effective rank; numbered by code where there are several.

        ``utilization`` is the share of entries used at least once by N codes; N draws of K equally likely entries
        would reach ``ceiling = 1 - exp(-N/K)``. ``perplexity`` is the exponential of the entropy of use.
        """
        each = [code_use(count) for count in self.counts if len(count)]
        found: dict[str, float] = {}
        for name in each[0] if each else ():
            found[name] = sum(use[name] for use in each) / len(each)
        if len(each) > 1:
            for number, use in enumerate(each):
                for name in ("utilization", "perplexity"):
                    found[f"{name}_{number}"] = use[name]
        found["effective_rank"] = self.effective_rank()
        return found

    def effective_rank(self) -> float:
        """Exponential of the entropy of the features' singular values, mean removed: 1 to dim.

        Reference:
            O. Roy, M. Vetterli, "The effective rank" (2007), definition 1.
        """
        n = max(float(self.vectors), 1.0)
        mean = self.total / n
        values = torch.linalg.eigvalsh(self.products / n - torch.outer(mean, mean))
        singular = values.clamp_min(0).sqrt()
        if not bool(singular.sum() > 0):
            return 0.0
        return float(torch.special.entr(singular / singular.sum()).sum().exp())


def code_use(counts: Tensor) -> dict[str, float]:
    """Use of one codebook from its counts ``(entries,)``; see ``Usage.summary``."""
    drawn = int(counts.sum())
    share = counts.double() / max(drawn, 1)
    ratio = drawn / len(counts)
    return {
        "utilization": float((counts > 0).double().mean()),
        "ceiling": 1 - 2.718281828459045 ** (-ratio),
        "n_over_k": ratio,
        "perplexity": float(torch.special.entr(share).sum().exp()) if drawn else 0.0,
    }


class CodebookMonitor(lightning.Callback):
    """Logs how every quantizer of a LightningModule is used, as ``codebook/...``, each ``every`` batches.

    Works in any Lightning project whose module holds a ``vq.quantizers.Quantizer``; the outermost ones count. Only
    training forwards are counted, over the batches since the last report and over all processes.

    Args:
        every: batches between reports.

    Attributes:
        latest: values of the last report.
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every: expected at least 1 batch, got {every}")
        self.every = every
        self.latest: dict[str, float] = {}
        self._watched: dict[str, Quantizer] = {}
        self._usage: dict[str, Usage] = {}
        self._revived: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._batches = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Watch the quantizers."""
        self._watched = outermost_quantizers(pl_module)
        for name, quantizer in self._watched.items():
            self._hooks.append(quantizer.register_forward_hook(self._hook(name)))

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Let go of them."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self, name: str) -> Any:
        """What a quantizer runs after each forward."""

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Quantized) -> None:
            """Add what one call in training used, and how many entries it revived."""
            if not module.training:
                return
            quantizer, x = self._watched[name], inputs[0]
            if name not in self._usage:
                self._usage[name] = Usage(quantizer.code_entries, quantizer.dim, x.device)
            self._usage[name].add(x, output.codes)
            for key, value in output.stats.items():
                if key.rpartition("/")[2].rpartition(".")[2] == "revived":
                    revived = value.detach().double().sum()
                    self._revived[name] = self._revived.get(name, 0) + revived

        return count

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report when it is time."""
        step = int(getattr(pl_module, "step", batch_idx + 1))
        if step % self.every == 0:
            self.report()
            for logger in trainer.loggers:
                logger.log_metrics(self.latest, step=step)

    def report(self) -> Mapping[str, float]:
        """Values since the last report; starts counting afresh. Every process must call it."""
        self.latest = {}
        for name, usage in self._usage.items():
            usage.reduce()
            prefix = "codebook/" if len(self._watched) == 1 else f"codebook/{name}/"
            self.latest.update({prefix + key: value for key, value in usage.summary().items()})
            if name in self._revived:
                self.latest[prefix + "revived"] = float(self._revived[name])
        self._usage, self._revived = {}, {}
        return self.latest


def outermost_quantizers(module: nn.Module, name: str = "") -> dict[str, Quantizer]:
    """Quantizers in a module by name, without those inside others."""
    if isinstance(module, Quantizer):
        return {name or "quantizer": module}
    found: dict[str, Quantizer] = {}
    for child_name, child in module.named_children():
        found.update(outermost_quantizers(child, f"{name}.{child_name}" if name else child_name))
    return found
