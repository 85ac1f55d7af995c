"""What is tuned, how long and how fast; the ``tuning`` key of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vq.codebooks.spec import nearest_names
from vq.errors import VqError


@dataclass(frozen=True)
class TuneOptions:
    """Tuning of a block while it is rounded, and of the whole model after.

    Attributes:
        compensate: before a layer is rounded, move its weights in closed form so that the block follows the original
            model although its inputs do not.
        ridge: part of the Hessian's mean diagonal that holds them back, lest they learn the calibration text by heart.
        token_weights: where the output of a layer is the block's, count a token by one over its energy.
        block_epochs: passes over the calibration windows for each block, all stages together; 0 for none.
        block_rate: Adam's step for weights that are not rounded yet, relative to a matrix' root mean square.
        block_gain_rate: the same for row scales, norms and biases.
        tokens: of the calibration text that the whole model is tuned on; 0 for none.
        context: tokens of a training window.
        batch: windows a step.
        passes: times each window is used.
        rate: Adam's step for embeddings and other matrices that are stored as they are.
        gain_rate: for row scales, norms and biases.
        mix: weight of the text's own next tokens in the loss; the divergence from the original has the rest.
        top: most likely tokens of the original that are told apart in the divergence.
        checks: times the held-out loss is measured; the best state is kept.
        checkpoints: times the state is stored.
    """

    compensate: bool = False
    ridge: float = 0.5
    token_weights: bool = True
    block_epochs: float = 0.0
    block_rate: float = 5e-4
    block_gain_rate: float = 1e-3
    tokens: int = 0
    context: int = 256
    batch: int = 4
    passes: int = 1
    rate: float = 3e-4
    gain_rate: float = 1e-3
    mix: float = 0.2
    top: int = 64
    checks: int = 8
    checkpoints: int = 8

    def __post_init__(self) -> None:
        for name in ("ridge", "block_epochs", "tokens", "mix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)!r}")
        for name in ("block_rate", "block_gain_rate", "rate", "gain_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)!r}")
        for name, low in (
            ("context", 2),
            ("batch", 1),
            ("passes", 1),
            ("top", 1),
            ("checks", 1),
            ("checkpoints", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ValueError(
                    f"{name}: expected a whole number of at least {low}, got {value!r}"
                )
        if self.mix > 1:
            raise ValueError(f"mix: expected 0 to 1, got {self.mix!r}")

    @property
    def used(self) -> bool:
        """Whether anything is tuned."""
        return bool(self.compensate or self.block_epochs or self.tokens)

    @property
    def steps(self) -> int:
        """Steps of the whole model's tuning."""
        return -(-self.tokens // (self.context * self.batch))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TuneOptions:
        """Options from a recipe's ``tuning``.

        Raises:
            VqError: for an unknown key or a wrong value.
        """
        known = {f.name: f.type for f in fields(cls)}
        for key in values:
            if key not in known:
                raise VqError(f"tuning: unknown key {key!r}; {nearest_names(str(key), known)}")
        try:
            numbers: dict[str, Any] = {
                key: float(value) if known[key] == "float" else value
                for key, value in values.items()
            }
            return cls(**numbers)
        except (TypeError, ValueError) as error:
            raise VqError(f"tuning: {error}") from error
