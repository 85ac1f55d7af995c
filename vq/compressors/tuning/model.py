"""Tuning a whole compressed model towards the original's predictions; codes stay, all else may move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.tuning.gains import Gains, free_parameters
from vq.compressors.tuning.loss import Teacher, distance
from vq.compressors.tuning.options import TuneOptions
from vq.errors import VqError

_HELD_OUT_TOKENS = 8192


@dataclass(frozen=True, eq=False)
class Lessons:
    """Windows of text with the original's predictions.

    Attributes:
        tokens: int64 ``(windows, context)``.
        teacher: of ``(windows, context, k)``.
    """

    tokens: Tensor
    teacher: Teacher

    def loss(self, model: Any, rows: Tensor, mix: float) -> tuple[Tensor, Tensor]:
        """Loss and divergence of some windows."""
        tokens = self.tokens[rows]
        logits = model(input_ids=tokens, use_cache=False).logits
        labels = torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], -1)], 1)
        taught = self.teacher[rows]
        flat = Teacher(taught.ids.flatten(0, 1), taught.probabilities.flatten(0, 1))
        return distance(logits.flatten(0, 1), flat, labels.flatten(), mix)


@torch.no_grad()
def teach(model: Any, tokens: Tensor, k: int, done: Callable[[int], None] | None = None) -> Lessons:
    """The original's predictions of windows ``(windows, context)``."""
    found = []
    for index, row in enumerate(tokens):
        found.append(Teacher.of(model(input_ids=row[None], use_cache=False).logits, k))
        if done is not None:
            done(index + 1)
    ids = torch.cat([t.ids for t in found])
    return Lessons(tokens, Teacher(ids, torch.cat([t.probabilities for t in found])))


@dataclass(eq=False)
class ModelTuner:
    """Tunes a model in memory whose rounded layers hold dequantized weights.

    Attributes:
        model: called as ``model(input_ids=...).logits``.
        rounded: its rounded layers by name.
        train: what it learns from.
        held_out: what decides which state is kept.
        options: how.
        seed: of the order of windows.
        fixed: parameters that stay as they are.
    """

    model: Any
    rounded: Mapping[str, nn.Linear]
    train: Lessons
    held_out: Lessons
    options: TuneOptions
    seed: int
    fixed: Sequence[Tensor] = ()
    step: int = 0
    best: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gains = Gains()
        self.gains.attach(self.rounded)
        matrices, others = free_parameters(self.model, self.rounded.values(), self.fixed)
        names = {id(p): n for n, p in self.model.named_parameters()}
        self.parameters: dict[str, nn.Parameter] = {names[id(p)]: p for p in (*matrices, *others)}
        self.parameters |= {f"gain:{name}": gain for name, gain in self.gains.items()}
        fast = {names[id(p)] for p in matrices}
        self._moments = {
            n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in self.parameters.items()
        }
        self._rates = {
            n: (self.options.rate if n in fast else self.options.gain_rate)
            * max(float(p.detach().square().mean().sqrt()), 1e-4)
            for n, p in self.parameters.items()
        }
        self._kept: dict[str, Tensor] = {}

    def run(
        self,
        checkpoint: Callable[[ModelTuner], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Tune to the end, from wherever the state stands, and leave the best state in the model.

        Args:
            checkpoint: stores ``state_dict()``; called at even distances.
            progress: hears of steps done and in all.
        """
        total = self.options.steps
        if self.step == 0:
            self._check()
        every = max(1, total // self.options.checks)
        store = max(1, total // self.options.checkpoints)
        while self.step < total:
            self._one_step(total)
            self.step += 1
            if self.step % every == 0 or self.step == total:
                self._check()
            if checkpoint is not None and self.step % store == 0 and self.step < total:
                checkpoint(self)
            if progress is not None:
                progress(self.step, total)
        self._restore()

    def _one_step(self, total: int) -> None:
        rows = self._rows()
        loss, _ = self.train.loss(self.model, rows, self.options.mix)
        grads = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        if not bool(torch.isfinite(loss)):
            raise VqError("tuning: the loss is not finite; lower tuning.rate")
        warm = min(1.0, (self.step + 1) / max(1, total // 20))
        factor = warm * 0.5 * (1 + math.cos(math.pi * self.step / total))
        with torch.no_grad():
            for (name, p), grad in zip(self.parameters.items(), grads, strict=True):
                if grad is not None:
                    _adam(p, grad, *self._moments[name], self._rates[name] * factor, self.step)

    def _rows(self) -> Tensor:
        """Windows of this step: the text in random order, anew each time it was seen."""
        count, batch = len(self.train.tokens), self.options.batch
        places = torch.arange(self.step * batch, (self.step + 1) * batch)
        rows = []
        for place in places.tolist():
            generator = torch.Generator().manual_seed((self.seed + place // count) % 2**60)
            rows.append(torch.randperm(count, generator=generator)[place % count])
        return torch.stack(rows)

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """Loss and divergence on the held-out windows."""
        pairs = [
            self.held_out.loss(self.model, torch.tensor([i]), self.options.mix)
            for i in range(len(self.held_out.tokens))
        ]
        count = len(pairs)
        return sum(float(a) for a, _ in pairs) / count, sum(float(b) for _, b in pairs) / count

    def _check(self) -> None:
        """Measure, and keep the state if it is the best so far."""
        loss, kl = self.measure()
        self.history.append({"step": self.step, "loss": loss, "kl": kl})
        if loss < self.best:
            self.best = loss
            self._kept = {n: p.detach().clone() for n, p in self.parameters.items()}

    def _restore(self) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self._kept[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a later process needs to go on; the step and history are numbers beside it."""
        state = {f"now.{n}": p.detach() for n, p in self.parameters.items()}
        state |= {f"best.{n}": p for n, p in self._kept.items()}
        for n, (first, second) in self._moments.items():
            state |= {f"first.{n}": first, f"second.{n}": second}
        return state

    def load_state_dict(
        self, state: Mapping[str, Tensor], step: int, best: float, history: list[dict[str, float]]
    ) -> None:
        """Go on from a stored state."""
        self.step, self.best, self.history = step, best, list(history)
        with torch.no_grad():
            for n, p in self.parameters.items():
                p.copy_(state[f"now.{n}"])
                self._kept[n] = state[f"best.{n}"].clone()
                for moment, kind in zip(self._moments[n], ("first", "second"), strict=True):
                    moment.copy_(state[f"{kind}.{n}"])


def _adam(p: Tensor, grad: Tensor, first: Tensor, second: Tensor, rate: float, step: int) -> None:
    """One step of Adam without weight decay."""
    low, high = 0.9, 0.95
    first.mul_(low).add_(grad, alpha=1 - low)
    second.mul_(high).addcmul_(grad, grad, value=1 - high)
    size = rate / (1 - low ** (step + 1))
    p.addcdiv_(first, second.div(1 - high ** (step + 1)).sqrt_().add_(1e-12), value=-size)
