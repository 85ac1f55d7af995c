"""Tuning a block while it is rounded: what is not rounded yet makes up for what is.

After each group of layers is rounded, the weights of the block that are still free, its norms and biases, and the row
scales of the rounded layers are moved by Adam so that the block's output comes back to the original model's, whose
hidden states are carried along. The first block that is not exact any more is thereby followed by blocks that mend it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.calibrate import Activations
from vq.compressors.structure.skeleton import first
from vq.compressors.tuning.gains import Gains, free_parameters
from vq.compressors.tuning.options import TuneOptions

_HOLD_OUT = 8  # every eighth window decides whether a tuning is kept


@dataclass(eq=False)
class BlockTuner:
    """Tunes one block; made for each block anew.

    Attributes:
        block: filled; its rounded layers hold dequantized weights.
        index: of the block.
        inputs: what the compressed model feeds it.
        wanted: the original block's outputs on the original model's hidden states, a tensor a window.
        options: how.
        fixed: parameters of the block that stay as they are.
        gains: row factors of the rounded layers.
    """

    block: nn.Module
    index: int
    inputs: Activations
    wanted: Sequence[Tensor]
    options: TuneOptions
    fixed: Sequence[Tensor] = ()
    gains: Gains = field(default_factory=Gains)

    def __post_init__(self) -> None:
        count = len(self.inputs.hidden)
        self.held_out = [i for i in range(count) if i % _HOLD_OUT == _HOLD_OUT - 1]
        self.train = [i for i in range(count) if i not in self.held_out] if self.held_out else []
        self.scales = [1 / y.float().square().mean(-1).clamp_min(1e-12) for y in self.wanted]

    def loss(self, window: int) -> Tensor:
        """Error of the block's output, a token's relative to its energy: the next norm divides by just that."""
        args, kwargs = self.inputs.calls[self.index - self.inputs.start][window]
        output = first(self.block(self.inputs.hidden[window], *args, **kwargs))
        error = (output.float() - self.wanted[window].float()).square().mean(-1)
        return (error * self.scales[window]).mean()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the windows that are not trained on."""
        return sum(float(self.loss(i)) for i in self.held_out) / len(self.held_out)

    def tune(self, rounded: Mapping[str, nn.Linear], share: float, seed: int) -> dict[str, float]:
        """Run one stage; everything stays as it was if the held-out loss does not fall.

        Args:
            rounded: layers that are rounded by now.
            share: of the epochs.
            seed: of the order of windows.

        Returns:
            Held-out losses ``before`` and ``after``.
        """
        steps = round(self.options.block_epochs * share * len(self.train))
        if steps < 1 or not self.held_out:
            return {}
        self.gains.attach(rounded)
        weights, others = free_parameters(self.block, rounded.values(), self.fixed)
        before = self.held_out_loss()
        kept = [p.detach().clone() for p in (*weights, *others, *self.gains.values())]
        self._descend(weights, [*others, *self.gains.values()], steps, seed)
        after = self.held_out_loss()
        if not after < before:
            with torch.no_grad():
                for p, old in zip((*weights, *others, *self.gains.values()), kept, strict=True):
                    p.copy_(old)
        for p in (*weights, *others):
            p.requires_grad_(False)
        return {"before": before, "after": min(after, before)}

    def _descend(
        self, weights: Sequence[nn.Parameter], others: Sequence[nn.Parameter], steps: int, seed: int
    ) -> None:
        groups = [
            *_groups(weights, self.options.block_rate),
            *_groups(others, self.options.block_gain_rate),
        ]
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-10)
        rates = [group["lr"] for group in groups]
        for step, window in enumerate(_order(self.train, steps, seed)):
            factor = 0.5 * (1 + math.cos(math.pi * step / steps))
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimiser.zero_grad(set_to_none=True)
            self.loss(window).backward()
            optimiser.step()


def _groups(parameters: Sequence[nn.Parameter], rate: float) -> list[dict[str, Any]]:
    """A group a tensor: steps are relative to its root mean square."""
    return [
        {"params": [p], "lr": rate * max(float(p.detach().square().mean().sqrt()), 1e-4)}
        for p in parameters
    ]


def _order(windows: Sequence[int], steps: int, seed: int) -> Iterator[int]:
    """Windows in random order, each once before any twice."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while True:
        for i in torch.randperm(len(windows), generator=generator).tolist():
            if done == steps:
                return
            done += 1
            yield windows[i]
