"""Quantizers of single numbers side by side: finite scalars, signs, signs on a sphere, learned scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks import BSQ, FSQ, LFQ, Latent
from vq.codebooks.implicit import Cube, Grid
from vq.quantizers.bits import batch_entropy, log_odds, vector_entropy
from vq.quantizers.layer import CodebookQuantizer
from vq.quantizers.registry import register
from vq.quantizers.table import mean_square


class _Finite(CodebookQuantizer):
    """Base of the kinds over a ``Grid``: indices by arithmetic, one index a vector."""

    codebook: Grid

    def __init__(
        self,
        codebook: Grid,
        dim: int | None,
        normalise: bool = False,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        inner = codebook.dim
        own = inner if dim is None else dim
        if not isinstance(own, int) or own < 1:
            raise ValueError(f"{self.kind}: dim must be a whole number, 1 or more, got {dim!r}")
        super().__init__(codebook, own, inner, "running" if normalise else None, decay, seed=seed)
        self.normalise, self.decay = normalise, decay

    def _find(self, points: Tensor) -> Tensor:
        return self.codebook.indices(self.codebook.digits(points))

    def _units(self, codes: Tensor) -> Tensor:
        return self.codebook.decode(codes)


@register("fsq")
class FiniteScalarQuantizer(_Finite):
    """Finite scalar quantization: each number bounded by a tanh and rounded to one of a few levels; no loss at all.

    With the outermost level b of L levels and ``B = b L / (L - 1)``: ``y = B tanh(z / B)``, and each y goes to the
    nearest of ``b (2 k / (L - 1) - 1)``. The slope at 0 is 1, all cells are equally wide (in the paper the two at the
    ends are half as wide), levels are symmetric for odd and even L and for 2. The gradient passes straight to y.

    Args:
        levels: of each dimension.
        dim: of the input; learned linear maps stand around the levels where it is not their number.
        bound: outermost level b; by default 1, as in the paper, and with ``normalise`` the best one for N(0, 1).
        normalise: bring each channel to mean 0 and variance 1 by running statistics, and values back. Then values
            resemble the input, as a residual stage or a decoder trained without quantization wants them.
        decay: of the running statistics.
        seed: of the linear maps.

    Reference:
        F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, "Finite scalar quantization: VQ-VAE made simple", ICLR 2024,
        section 3.1; symmetric levels as in J. Parker et al., "Scaling transformers for low-bitrate high-quality
        speech coding" (2024), equation (2).
    """

    codebook: FSQ
    reach: Tensor

    def __init__(
        self,
        levels: Sequence[int] = (8, 8, 8, 5, 5, 5),
        dim: int | None = None,
        bound: float | None = None,
        normalise: bool = False,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        self.levels, self.bound = list(levels), bound
        used = 1.0 if bound is None and not normalise else bound
        super().__init__(FSQ(levels, used), dim, normalise, decay, seed)
        share = torch.tensor([n / (n - 1) for n in self.levels])
        self.register_buffer("reach", self.codebook.bound * share, persistent=False)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        own = {"levels": self.levels, "bound": self.bound, "normalise": self.normalise}
        return {**own, "decay": self.decay, **self._config()}

    def _points(self, z: Tensor) -> Tensor:
        return self.reach * torch.tanh(z / self.reach)


class _Signs(_Finite):
    """Base of the kinds with one bit a dimension: commitment, and the entropy of the codes.

    Attributes:
        entropy_weight: weight of the entropy loss; may be set at any time, for instance by a schedule.
    """

    codebook: Cube

    def _take(
        self,
        commitment: float,
        entropy_weight: float,
        diversity: float,
        temperature: float,
        group: int,
    ) -> None:
        for name, value in (
            ("commitment", commitment),
            ("entropy_weight", entropy_weight),
            ("diversity", diversity),
        ):
            if not value >= 0:
                raise ValueError(f"{self.kind}: {name} must not be negative, got {value!r}")
        if not temperature > 0:
            raise ValueError(f"{self.kind}: temperature must be positive, got {temperature!r}")
        if not isinstance(group, int) or not 1 <= group <= 16:
            raise ValueError(f"{self.kind}: group must be 1 to 16 bits, got {group!r}")
        self.commitment, self.entropy_weight, self.diversity = commitment, entropy_weight, diversity
        self.temperature, self.group = temperature, group

    def _loss_config(self) -> dict[str, Any]:
        names = ("commitment", "entropy_weight", "diversity", "temperature", "group")
        return {name: getattr(self, name) for name in names}

    def _losses(
        self, h: Tensor, points: Tensor, units: Tensor, valid: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
        odds = log_odds(points, self.codebook.bound, self.temperature)
        sure, even = vector_entropy(odds, valid), batch_entropy(odds, valid, self.group)
        losses = {
            "commitment": mean_square(points, units.detach(), valid),
            "entropy": sure - self.diversity * even,
        }
        stats = {"entropy_vector": sure.detach(), "entropy_batch": even.detach()}
        return losses, {"commitment": self.commitment, "entropy": self.entropy_weight}, stats


@register("lfq")
class LookupFreeQuantizer(_Signs):
    """Lookup-free quantization: the sign of each number; the index is the bits.

    The entropy loss ``E[H(p(c|z))] - diversity * H(E[p(c|z)])`` with ``p(c|z) = softmax(2 z·c / temperature)`` makes
    each vector sure of its code and the batch use all of them, in nats. The first term is exact for any number of
    bits, the second for up to ``group`` bits and beyond that a sum over groups.

    Args:
        bits: 1 to 62.
        dim: of the input; learned linear maps stand around the signs where it is not ``bits``.
        bound: magnitude of the values.
        commitment: weight of ``|z - q|²``, mean over numbers.
        entropy_weight: of the entropy loss.
        diversity: of its second term.
        temperature: of p.
        group: bits whose joint use is counted, 1 to 16.
        normalise: bring each channel to mean 0 and variance 1 by running statistics, and values back.
        decay: of the running statistics.
        seed: of the linear maps.

    Reference:
        L. Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", ICLR 2024, equations (2)
        to (5); the exact sum over bits as in Y. Zhao et al. (BSQ), ICLR 2025, equation (9).
    """

    def __init__(
        self,
        bits: int = 10,
        dim: int | None = None,
        bound: float = 1.0,
        commitment: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        group: int = 10,
        normalise: bool = False,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(LFQ(bits, bound), dim, normalise, decay, seed)
        self.bits, self.bound = bits, bound
        self._take(commitment, entropy_weight, diversity, temperature, group)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        own = {"bits": self.bits, "bound": self.bound, "normalise": self.normalise}
        return {**own, "decay": self.decay, **self._loss_config(), **self._config()}


@register("bsq")
class BinarySphericalQuantizer(_Signs):
    """Binary spherical quantization: the vector on the unit sphere, then signs over ``sqrt(bits)``.

    On the sphere the error is bounded by ``sqrt(2 - 2 / sqrt(bits))`` whatever the encoder does, so commitment is
    off by default. The entropy loss is that of ``lfq``, over smaller groups.

    Args:
        bits: 1 to 62.
        dim: of the input; learned linear maps stand around the signs where it is not ``bits``.
        commitment: weight of ``|u - q|²``, mean over numbers.
        entropy_weight: of the entropy loss.
        diversity: of its second term.
        temperature: of p.
        group: bits whose joint use is counted, 1 to 16.
        seed: of the linear maps.

    Reference:
        Y. Zhao, Y. Xiong, P. Krähenbühl, "Image and video tokenization with binary spherical quantization", ICLR 2025,
        equations (4) to (12).
    """

    def __init__(
        self,
        bits: int = 18,
        dim: int | None = None,
        commitment: float = 0.0,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        group: int = 9,
        seed: int = 0,
    ) -> None:
        super().__init__(BSQ(bits, 1.0), dim, seed=seed)
        self.bits = bits
        self._take(commitment, entropy_weight, diversity, temperature, group)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        return {"bits": self.bits, **self._loss_config(), **self._config()}

    def _points(self, z: Tensor) -> Tensor:
        return nn.functional.normalize(z, dim=-1)


@register("latent")
class LatentScalarQuantizer(_Finite):
    """Learned latent scalars (QLAE): each number goes to the nearest of its dimension's own values, which are trained.

    Values learn by ``|sg(z) - v|²``, the encoder by ``|z - sg(v)|²``; digits follow the order of the values, so a code
    decodes right wherever they move. The paper wants strong weight decay on encoder and decoder beside it.

    Args:
        dim: of the input.
        latents: numbers that are quantized; learned linear maps stand around them where it is not ``dim``.
        levels: values of each.
        quantization: weight of the first loss, mean over numbers.
        commitment: weight of the second.
        seed: of the linear maps.

    Reference:
        K. Hsu, W. Dorrell, J. Whittington, J. Wu, C. Finn, "Disentanglement via latent quantization", NeurIPS 2023,
        equations (1) and (2).
    """

    codebook: Latent

    def __init__(
        self,
        dim: int = 8,
        latents: int | None = None,
        levels: int = 10,
        quantization: float = 0.01,
        commitment: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(Latent(dim if latents is None else latents, levels), dim, seed=seed)
        self.levels, self.quantization, self.commitment = levels, quantization, commitment
        table = self.codebook.table
        del self.codebook.table
        self.codebook.table = nn.Parameter(table)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        own = {"latents": self.inner, "levels": self.levels, "quantization": self.quantization}
        return {**own, "commitment": self.commitment, **self._config()}

    def _losses(
        self, h: Tensor, points: Tensor, units: Tensor, valid: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
        losses = {
            "quantization": mean_square(points.detach(), units, valid),
            "commitment": mean_square(points, units.detach(), valid),
        }
        return losses, {"quantization": self.quantization, "commitment": self.commitment}, {}

    def _start_codebook(self, points: Tensor, generator: torch.Generator | None) -> None:
        self.codebook.fit(points)
