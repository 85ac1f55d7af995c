"""Several views of a vector, each with a quantizer of its own, kept apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq.quantizers.base import Quantized, check_input
from vq.quantizers.compose import Composable, clean
from vq.quantizers.compound import Part
from vq.quantizers.grouped import GroupedQuantizer
from vq.quantizers.perceptron import Perceptron
from vq.quantizers.registry import register
from vq.quantizers.table import check_features

DISTANCES = ("cosine", "mse")


@register("factorized")
class FactorizedQuantizer(Composable):
    """Factorized quantization: each head maps the vector to a quantizer of its own; a linear map joins their values.

    Losses beside those of the heads: ``disentanglement``, the sum over pairs of heads of the mean of
    ``cos²(q_i, q_j)`` at a position, which wants heads to hold different things; ``distillation``, the distance of a
    small predictor on a head's values from features of a teacher, so that a head holds those.

    Codes are those of ``grouped``: an axis of heads in front, ``(*batch, heads, ...)``.

    Args:
        of: a part ``{"kind": ..., **arguments}``, or a list with one for each head.
        dim: of the input.
        heads: how many, where ``of`` is one part.
        hidden: width of the maps to the heads; 0 makes them linear.
        disentanglement: weight of that loss; 0 leaves it out. Wants heads of one dimension.
        teachers: dimension of the teacher's features for each head, None for heads without; None for none at all.
        distance: ``cosine``, 1 - cos, or ``mse``, of predictor and teacher.
        distillation: weight of that loss.
        seed: of maps and of heads without one of their own.

    Reference:
        Z. Bai et al., "Factorized visual tokenization and generation" (2024), section 3.2, equations (3) to (5).
    """

    def __init__(
        self,
        of: Part | Sequence[Part],
        dim: int,
        heads: int | None = None,
        hidden: int = 0,
        disentanglement: float = 0.1,
        teachers: Sequence[int | None] | None = None,
        distance: str = "cosine",
        distillation: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.groups = GroupedQuantizer(of, heads, seed)
        sizes = self.groups.sizes
        self._dim, self.hidden, self.seed = dim, hidden, seed
        self.disentanglement, self.distillation = disentanglement, distillation
        self.teachers = [None] * len(sizes) if teachers is None else list(teachers)
        self.distance = distance
        self._check(sizes)
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.ModuleList(Perceptron(dim, n, hidden, generator) for n in sizes)
        self.outward = Perceptron(sum(sizes), dim, 0, generator)
        self.predictors = nn.ModuleList(
            nn.Identity() if wide is None else Perceptron(own, wide, 2 * max(own, wide), generator)
            for own, wide in zip(sizes, self.teachers, strict=True)
        )

    def _check(self, sizes: list[int]) -> None:
        if self.disentanglement and len(set(sizes)) > 1:
            raise ValueError(
                f"factorized: disentanglement compares heads, which need one dimension, got {sizes}; "
                "make them equal or set disentanglement=0"
            )
        if len(self.teachers) != len(sizes):
            raise ValueError(
                f"factorized: teachers must list a dimension or None for each of {len(sizes)} heads, "
                f"got {self.teachers!r}"
            )
        if self.distance not in DISTANCES:
            raise ValueError(f"factorized: distance must be cosine or mse, got {self.distance!r}")
        if min(self.disentanglement, self.distillation, self.hidden) < 0 or self._dim < 1:
            raise ValueError("factorized: weights, hidden and dim must not be negative")

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        names = ("dim", "hidden", "disentanglement", "teachers", "distance", "distillation", "seed")
        return {"of": self.groups.config()["of"], **{name: getattr(self, name) for name in names}}

    @property
    def dim(self) -> int:
        """Length of an input vector."""
        return self._dim

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """``(heads, *codes of a head)``, see ``CodeLayout``."""
        return self.groups.codes_shape

    @property
    def code_entries(self) -> tuple[int, ...]:
        """Those of the heads one after another."""
        return self.groups.code_entries

    @property
    def stages(self) -> int:
        """Those of the heads where they agree, else 1."""
        return self.groups.stages

    @property
    def ready(self) -> bool:
        """Whether all heads are."""
        return self.groups.ready

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        teacher: Sequence[Tensor | None] | None = None,
    ) -> Quantized:
        """Quantize ``(*batch, dim)``; see ``Quantizer``.

        Args:
            x: vectors.
            mask: what counts.
            teacher: features ``(*batch, teachers[i])`` for head i, None for a head without; None leaves the loss out.

        Raises:
            ValueError: for a wrong last dimension, a mask or features of another shape, or a quantizer not ready.
        """
        return self.run(x, x, mask, teacher)

    def run(
        self,
        x: Tensor,
        through: Tensor,
        mask: Tensor | None = None,
        teacher: Sequence[Tensor | None] | None = None,
    ) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        with torch.autocast(x.device.type, enabled=False):
            full, valid, nonfinite = clean(x, mask)
            views = lanes = self._views(full)
            if through is not x:
                lanes = self._views(clean(through, mask)[0])
            found = self.groups.run(views, lanes, valid)
            values = torch.where(valid[..., None], self._join(found.values), 0.0)
            losses, weights = dict(found.losses), dict(found.weights)
            pieces = found.values.split(self.groups.sizes, -1)
            if self.disentanglement:
                losses["disentanglement"] = overlap(pieces, valid)
                weights["disentanglement"] = self.disentanglement
            if teacher is not None:
                losses["distillation"] = self._distil(pieces, teacher, valid)
                weights["distillation"] = self.distillation
        stats = {**found.stats, "nonfinite": nonfinite}
        return Quantized(values.to(x.dtype), found.codes, losses, weights, stats)

    def _views(self, x: Tensor) -> Tensor:
        """What the heads see, side by side, ``(*batch, sum of their dimensions)``."""
        flat = x.reshape(-1, self.dim)
        return torch.cat([head(flat) for head in self.heads], dim=1).reshape(
            *x.shape[:-1], self.groups.dim
        )

    def _join(self, values: Tensor) -> Tensor:
        """Values of the heads mapped to those of the layer."""
        flat = values.reshape(-1, self.groups.dim)
        return self.outward(flat).reshape(*values.shape[:-1], self.dim)

    def _distil(
        self, pieces: Sequence[Tensor], teacher: Sequence[Tensor | None], valid: Tensor
    ) -> Tensor:
        """Mean distance of predictions from the teacher's features, summed over heads."""
        shapes = [None if t is None else tuple(t.shape) for t in teacher]
        known = [None if n is None else (*valid.shape, n) for n in self.teachers]
        if len(shapes) != len(known) or any(
            s not in (None, k) for s, k in zip(shapes, known, strict=True)
        ):
            raise ValueError(f"factorized: expected teacher features {known}, got {shapes}")
        total = pieces[0].new_zeros(())
        for piece, wanted, predictor in zip(pieces, teacher, self.predictors, strict=True):
            if wanted is None:
                continue
            guess = predictor(piece.reshape(-1, piece.shape[-1]))
            goal = wanted.reshape(guess.shape).float()
            if self.distance == "mse":
                each = (guess - goal).square().mean(1)
            else:
                each = 1 - functional.cosine_similarity(guess, goal, dim=1)
            total = total + _mean(each.reshape(valid.shape), valid)
        return total

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            full, valid, _ = clean(x, mask)
            return self.groups.encode(self._views(full), valid)

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values ``(*batch, dim)`` float32 of codes; zero where all codes of the vector are -1.

        Raises:
            ValueError: for codes out of range, a number of stages there is not, or a quantizer that is not ready.
        """
        self._check_ready()
        values = self.groups.decode(codes, stages)
        there = (codes >= 0).flatten(codes.ndim - len(self.codes_shape)).any(-1)
        with torch.autocast(codes.device.type, enabled=False):
            return torch.where(there[..., None], self._join(values), 0.0)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start the heads on what they see of features ``(n, dim)``; the joining map by least squares.

        Linear heads begin with principal axes of x, dealt out in turn.

        Raises:
            ValueError: as the heads raise it.
        """
        x = check_features(self.kind, x, self.dim, 2)
        if not self.hidden:
            self._deal_axes(x)
        views = self._views(x)
        self.groups.start(views, generator)
        values = self.groups.decode(self.groups.encode(views)).double()
        center, target = values.mean(0), x.double().mean(0)
        square = (values - center).t() @ (values - center)
        ridge = 1e-6 * square.diagonal().mean().clamp_min(1e-12) * torch.eye(len(square)).to(square)
        matrix = torch.linalg.solve(square + ridge, (values - center).t() @ (x.double() - target))
        self.outward.weights[0].copy_(matrix.t())
        self.outward.biases[0].copy_(target - center @ matrix)

    def _deal_axes(self, x: Tensor) -> None:
        exact = x.double()
        center = exact.mean(0)
        axes = torch.linalg.eigh((exact - center).t() @ (exact - center)).eigenvectors.flip(1)
        count = len(self.heads)
        for i, head in enumerate(self.heads):
            assert isinstance(head, Perceptron)
            own = axes[:, i::count][:, : head.weights[0].shape[0]]
            head.weights[0][: own.shape[1]].copy_(own.t())
            head.biases[0].copy_(-(head.weights[0].double() @ center))


def overlap(pieces: Sequence[Tensor], valid: Tensor) -> Tensor:
    """Sum over pairs of the mean, over valid positions, of the squared cosine; pieces ``(*batch, dim)``."""
    units = [functional.normalize(piece, dim=-1) for piece in pieces]
    total = pieces[0].new_zeros(())
    for i, one in enumerate(units):
        for other in units[:i]:
            total = total + _mean((one * other).sum(-1).square(), valid)
    return total


def _mean(each: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, each, 0.0).sum() / valid.sum().clamp_min(1)
