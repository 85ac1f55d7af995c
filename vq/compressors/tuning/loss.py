"""Distance between a model's predictions and the original's, whose largest probabilities were kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Teacher:
    """The original model's predictions of some tokens.

    Attributes:
        ids: int32 ``(..., tokens, k)``: the k most likely next tokens.
        probabilities: float16 of the same shape.
    """

    ids: Tensor
    probabilities: Tensor

    def __getitem__(self, index: Any) -> Teacher:
        return Teacher(self.ids[index], self.probabilities[index])

    @classmethod
    def of(cls, logits: Tensor, k: int) -> Teacher:
        """Largest probabilities of logits ``(..., vocabulary)``."""
        value, ids = logits.float().topk(min(k, logits.shape[-1]), -1)
        norm = torch.logsumexp(logits.float(), -1, keepdim=True)
        return cls(ids.to(torch.int32), (value - norm).exp().to(torch.float16))


def distance(logits: Tensor, teacher: Teacher, labels: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """Mean loss over tokens, and the mean KL divergence in it.

    The divergence is between distributions over the teacher's k tokens and *all others together*, which bounds that
    over the whole vocabulary from below.

    Args:
        logits: ``(tokens, vocabulary)``; **its memory is used for the gradient**, do not read it after.
        teacher: of ``(tokens, k)``.
        labels: int64 ``(tokens,)``: the text's next tokens; -1 where there is none.
        mix: weight of the labels' negative log-likelihood, 0 to 1; the divergence has the rest.
    """
    return cast("tuple[Tensor, Tensor]", _Distance.apply(logits, teacher, labels, mix))


class _Distance(torch.autograd.Function):
    """The gradient in closed form: softmax minus target, the teacher's rest spread as the student's rest is."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher: Teacher, labels: Tensor, mix: float
    ) -> tuple[Tensor, Tensor]:
        count = logits.shape[0]
        ids, target = teacher.ids.long(), teacher.probabilities.float()
        known = labels >= 0
        where = labels.clamp_min(0)[:, None]
        logp = logits.detach().float()
        logp -= torch.logsumexp(logp, -1, keepdim=True)
        picked, named = logp.gather(1, ids), logp.gather(1, where)[:, 0]
        p = logp.exp_()
        inside = picked.exp()
        p_rest = (1 - inside.sum(1)).clamp_min(_TINY)
        t_rest = (1 - target.sum(1)).clamp_min(_TINY)
        kl = (target * (target.clamp_min(_TINY).log() - picked)).sum(1)
        kl = (kl + t_rest * (t_rest / p_rest).log()).mean()
        nll = -(named * known).sum() / known.sum().clamp_min(1)
        label_part = mix * known / known.sum().clamp_min(1) * count
        slope = p.mul_(((1 - mix) * (1 - t_rest / p_rest) + label_part)[:, None])
        slope.scatter_(1, ids, (1 - mix) * (inside - target) + label_part[:, None] * inside)
        slope.scatter_add_(1, where, -label_part[:, None])
        ctx.save_for_backward(slope.div_(count))
        ctx.mark_non_differentiable(kl)
        return (1 - mix) * kl + mix * nll, kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grads[0], None, None, None
