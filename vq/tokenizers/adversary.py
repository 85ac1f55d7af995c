"""The adversarial part of a training loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.spec import nearest_names
from vq.errors import VqError
from vq.tokenizers.data import mix
from vq.tokenizers.discriminators import (
    AudioDiscriminator,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from vq.tokenizers.recipe import Recipe


@dataclass(frozen=True)
class AdversaryOptions:
    """The keys of a recipe's ``gan`` that are not the discriminator's.

    Attributes:
        start: fraction of the run from which it counts.
        weight: of the generator's loss.
        features: weight of the feature matching loss.
        adaptive: bring the generator's loss to the strength of the reconstruction loss at the decoder's last layer.
    """

    start: float = 0.5
    weight: float = 0.1
    features: float = 1.0
    adaptive: bool = True

    def __post_init__(self) -> None:
        for name in ("weight", "features"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise VqError(f"gan.{name}: expected a number from 0, got {value!r}")


class Adversary(nn.Module):
    """A discriminator, and the losses of both sides.

    Args:
        discriminator: signals to a ``Verdict``.
        options: weights.
    """

    def __init__(self, discriminator: nn.Module, options: AdversaryOptions) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.options = options

    def generator_part(
        self, batch: Tensor, output: Tensor, reconstruction: Tensor, last: nn.Parameter
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the decoder minimises beside the reconstruction, and its parts by name.

        Args:
            batch: the signals.
            output: of the decoder.
            reconstruction: scalar loss to measure against.
            last: weight of the decoder's last layer.
        """
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            real = self.discriminator(batch)
        fake = self.discriminator(output)
        self.discriminator.requires_grad_(True)
        loss = generator_loss(fake)
        values = {"generator": loss}
        weight = loss.new_tensor(self.options.weight)
        if self.options.adaptive:
            weight = weight * adaptive_weight(reconstruction, loss, last)
            values["generator_weight"] = weight
        total = weight * loss
        if self.options.features:
            values["features"] = feature_matching_loss(real, fake)
            total = total + self.options.features * values["features"]
        return total, values

    def critic_loss(self, batch: Tensor, output: Tensor) -> Tensor:
        """What the discriminator minimises."""
        return discriminator_loss(self.discriminator(batch), self.discriminator(output.detach()))


def build_adversary(recipe: Recipe, seed: int = 0) -> Adversary | None:
    """The adversary of a recipe with fresh weights; None where it has no ``gan``.

    Raises:
        VqError: for keys that do not exist or wrong values.
    """
    if not recipe.gan:
        return None
    cls = PatchDiscriminator if recipe.kind == "image" else AudioDiscriminator
    ours = [name for name in inspect.signature(AdversaryOptions).parameters]
    theirs = [name for name in inspect.signature(cls).parameters if name != "channels"]
    for key in recipe.gan:
        if key not in [*ours, *theirs]:
            raise VqError(f"gan: unknown key {key!r}; {nearest_names(key, [*ours, *theirs])}")
    options = AdversaryOptions(**_pick(recipe.gan, ours))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 8))
        try:
            discriminator = cls(recipe.channels, **_pick(recipe.gan, theirs))
        except (TypeError, ValueError) as error:
            raise VqError(f"gan: {error}") from error
    return Adversary(discriminator, options)


def _pick(values: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
