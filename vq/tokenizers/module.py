"""The training step of a tokenizer as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vq.errors import VqError
from vq.tokenizers.adversary import Adversary
from vq.tokenizers.backbones import Backbone
from vq.tokenizers.data import mix
from vq.tokenizers.losses import LossParts, ReconstructionLoss
from vq.tokenizers.recipe import Recipe
from vq.tokenizers.tokenizer import Tokenizer

_LEAST_BACKOFF = 2.0**-10
_START_POSITIONS = 16384  # that a backbone starts from


class TokenizerModule(lightning.LightningModule):
    """Phases by fractions of the run: autoencoder warm-up, the quantizer on the warmed-up features, optionally a GAN.

    ``step`` counts batches; in callbacks' ``on_train_batch_end`` those that are done. Lightning's ``global_step``
    counts calls of optimizers, two a batch with a GAN; nothing here reads it. Random draws of a step depend on the seed
    and the step alone, so that a resumed run repeats them.

    A step whose features or gradients are not finite changes no weight, halves the learning rate for a while, and
    counts; ``recipe.patience`` of them in a row end the run.

    Args:
        tokenizer: what is trained.
        recipe: phases, optimizer, limits.
        reconstruction: ``(output, input)`` to ``LossParts``.
        pool: gives the n-th batch that the quantizer's start may look at.
        adversary: the discriminator's side; None where the recipe has no GAN.
        seed: of the step's random draws.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        recipe: Recipe,
        reconstruction: ReconstructionLoss,
        pool: Callable[[int], Tensor],
        adversary: Adversary | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.reconstruction = reconstruction
        self.adversary = adversary
        self.pool = pool
        self.seed = seed
        self.step = 0
        self.started = False
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.backoff = 1.0
        self.bad = False
        self.automatic_optimization = adversary is None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        if tokenizer.quantizer is not None and self.warmup_steps > 0:
            tokenizer.set_mode("bypass")

    @property
    def warmup_steps(self) -> int:
        """Batches of the autoencoder alone."""
        return round(self.recipe.warmup * self.recipe.steps)

    @property
    def gan_step(self) -> int:
        """Batch from which the discriminator counts."""
        assert self.adversary is not None
        return round(self.adversary.options.start * self.recipe.steps)

    @property
    def phase(self) -> str:
        """``warmup``, ``autoencoder`` (no quantizer), ``quantized`` or ``adversarial``."""
        if self.adversary is not None and self.step > self.gan_step:
            return "adversarial"
        if self.tokenizer.quantizer is None:
            return "autoencoder"
        return "quantized" if self.started else "warmup"

    def learning_rate(self, step: int) -> float:
        """Of a step: a linear ramp, then half a cosine down to ``final``; times the back-off."""
        recipe = self.recipe
        ramp = max(round(recipe.ramp * recipe.steps), 1)
        along = min(max((step - ramp) / max(recipe.steps - ramp, 1), 0.0), 1.0)
        cosine = recipe.final + (1 - recipe.final) * 0.5 * (1 + math.cos(math.pi * along))
        return recipe.learning_rate * min((step + 1) / ramp, 1.0) * cosine * self.backoff

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay spares the quantizer, whose rows have no reason to shrink."""
        recipe = self.recipe
        options: dict[str, Any] = {"lr": recipe.learning_rate, "betas": recipe.betas}
        book = [] if self.tokenizer.quantizer is None else [*self.tokenizer.quantizer.parameters()]
        groups = [
            {"params": [*self.tokenizer.backbone.parameters()], "weight_decay": recipe.weight_decay}
        ]
        if book:
            groups.append({"params": book, "weight_decay": 0.0})
        generator = torch.optim.AdamW(groups, **options)
        if self.adversary is None:
            return generator
        critic = torch.optim.AdamW(self.adversary.parameters(), **options, weight_decay=0.0)
        return [generator, critic]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step, set its learning rate, and start the quantizer when its time has come."""
        if not self.bad:
            self.skipped_in_a_row = 0
            self.backoff = min(self.backoff * 1.02, 1.0)
        self.bad = False
        torch.manual_seed(mix(self.seed, 2, self.step, self.global_rank))
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step)
        if self.step == 0:
            self.start_backbone()
        if not self.started and self.step >= self.warmup_steps:
            self.start_quantizer()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        """One batch ``(B, channels, *size)``."""
        self.step += 1
        if not self._agree(bool(torch.isfinite(batch).all())):
            self._skip("the data")
            return None
        features = self.tokenizer.features(batch)
        if not self._agree(bool(torch.isfinite(features).all())):
            self._skip("the encoder's output")
            return None
        output, reconstruction, added = self._reconstruct(batch, features)
        self.note({"loss": reconstruction + added})
        if self.automatic_optimization:
            return reconstruction + added
        self._adversarial_step(batch, output, reconstruction, added)
        return None

    def _reconstruct(self, batch: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output, reconstruction loss and quantizer's loss, each part noted under its name."""
        quantizer = self.tokenizer.quantizer
        added = features.new_zeros((), dtype=torch.float32)
        if quantizer is not None and self.started:
            quantized = quantizer(features)
            features, added = quantized.values, quantized.loss
            self.note(quantized.losses)
        output = self.tokenizer.synthesize(features)
        found: LossParts = self.reconstruction(output, batch)
        self.note(found.parts)
        return output, found.total, added

    def _adversarial_step(
        self, batch: Tensor, output: Tensor, reconstruction: Tensor, added: Tensor
    ) -> None:
        """Both optimizers by hand; before ``gan_step`` the tokenizer's alone."""
        assert self.adversary is not None
        optimizers: Any = self.optimizers()
        generator, critic = optimizers
        total = reconstruction + added
        active = self.step > self.gan_step
        if active:
            last = self.tokenizer.backbone.last_weight
            part, values = self.adversary.generator_part(batch, output, reconstruction, last)
            total = total + part
            self.note(values)
        self._optimize(generator, total, "the gradient")
        if active:
            loss = self.adversary.critic_loss(batch, output)
            self.note({"critic": loss})
            self._optimize(critic, loss, "the discriminator's gradient")

    def _optimize(self, optimizer: Any, loss: Tensor, what: str) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self._clip(optimizer, what):
            optimizer.step()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Between backward and step: the recipe's clip, and no step where a gradient is not finite."""
        self._clip(optimizer, "the gradient")

    def _clip(self, optimizer: Any, what: str) -> bool:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.recipe.clip or math.inf
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        if not self._agree(bool(torch.isfinite(norm))):
            for parameter in parameters:
                parameter.grad = None  # the optimizer passes over these, moments included
            self._skip(what)
            return False
        self.note({"gradient_norm": norm})
        return True

    def _skip(self, what: str) -> None:
        """Count an unusable step and back off.

        Raises:
            VqError: after ``patience`` of them in a row.
        """
        self.bad = True
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.backoff = max(self.backoff / 2, _LEAST_BACKOFF)
        if self.skipped_in_a_row >= self.recipe.patience:
            raise VqError(
                f"step {self.step}: {what} is not finite, {self.skipped_in_a_row} steps in a row. The last "
                f"good checkpoint is kept. Try learning_rate={self.recipe.learning_rate / 3:.0e}, clip=0.5, "
                "precision=32-true, or look for broken files in the data"
            )

    def _agree(self, fine: bool) -> bool:
        """Whether it is fine on every process: they skip together or not at all."""
        if not (dist.is_available() and dist.is_initialized()):
            return fine
        flag = torch.tensor(float(fine), device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag > 0)

    @torch.no_grad()
    def start_backbone(self) -> None:
        """Let the backbone look at signals from the pool before the first step."""
        backbone = self.tokenizer.backbone
        if type(backbone).start is Backbone.start:
            return
        positions = 0
        signals: list[Tensor] = []
        while positions < _START_POSITIONS:
            signals.append(self.pool(len(signals)).to(self.device))
            positions += len(signals[-1]) * math.prod(backbone.positions(signals[-1].shape[2:]))
        x = torch.cat(signals)
        if bool(torch.isfinite(x).all()):
            backbone.start(x)
        if dist.is_available() and dist.is_initialized():
            for parameter in backbone.parameters():
                dist.broadcast(parameter.data, 0)

    @torch.no_grad()
    def start_quantizer(self) -> None:
        """End the warm-up: give the quantizer features of batches from the pool and let it count from now on."""
        self.started = True
        quantizer = self.tokenizer.quantizer
        if quantizer is None:
            return
        wanted = self.recipe.start_vectors or min(max(8 * max(quantizer.code_entries), 4096), 65536)
        rows = torch.cat([*self._pooled(wanted)])[:wanted]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(rows, 0)
        before = [id(p) for p in quantizer.parameters()]
        quantizer.start(rows, torch.Generator().manual_seed(mix(self.seed, 3)))
        assert before == [id(p) for p in quantizer.parameters()], "start replaced a parameter"
        self.tokenizer.set_mode("quantized")

    def _pooled(self, wanted: int) -> Iterator[Tensor]:
        have = n = 0
        while have < wanted:
            features = self.tokenizer.features(self.pool(n).to(self.device))
            rows = features.reshape(-1, features.shape[-1]).float()
            rows = rows[torch.isfinite(rows).all(-1)]
            have, n = have + len(rows), n + 1
            yield rows
            if n > 1000 + wanted:
                raise VqError(
                    f"step {self.step}: the encoder's output is not finite; lower learning_rate"
                )

    def note(self, values: Mapping[str, Tensor]) -> None:
        """Add to the means that ``take_means`` gives."""
        for name, value in values.items():
            mean = value.detach().float().mean()
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean
            self._counts[name] = self._counts.get(name, 0) + 1

    def take_means(self) -> dict[str, float]:
        """Means of what was noted since the last call."""
        means = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Own counters."""
        checkpoint["vq"] = {name: getattr(self, name) for name in _STATE}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Own counters, and the mode that belongs to them."""
        for name in _STATE:
            setattr(self, name, checkpoint["vq"][name])
        if self.tokenizer.quantizer is not None:
            self.tokenizer.set_mode("quantized" if self.started else "bypass")


_STATE = ("step", "started", "skipped", "skipped_in_a_row", "backoff", "bad")
