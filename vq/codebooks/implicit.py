"""Codebooks that are grids: finite scalar quantization and its relatives, by arithmetic on the index alone.

No table of vectors exists; an index has one digit a dimension, the first dimension the fastest.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.grids import uniform_levels
from vq.codebooks.levels import check_positive, check_whole, gaussian_mse
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec

MAX_BITS = 62  # of an index, so that sums of indices stay int64


class Grid(Codebook):
    """Base of products of one-dimensional level sets.

    An index is ``sum_i digit_i prod_{j<i} levels_j``, int64. Digits ascend with the value. Subclasses turn vectors to
    digits and digits to values, each coordinate on its own, so importance weights never change a choice.
    """

    def _shape(self, levels: Sequence[int]) -> None:
        """Keep the number of levels of each dimension.

        Raises:
            ValueError: if there are more than ``2**62`` combinations.
        """
        self._levels = tuple(levels)
        self._entries = math.prod(self._levels)
        if self._entries > 2**MAX_BITS:
            raise ValueError(
                f"{self.family}: expected at most 2^{MAX_BITS} combinations of levels, got "
                f"2^{math.log2(self._entries):.1f}; use fewer dimensions, and several vectors"
            )

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self._levels)

    @property
    def entries(self) -> int:
        """Product of the levels."""
        return self._entries

    @property
    def code_bits(self) -> int:
        """``ceil(log2(entries))``."""
        return max(1, (self._entries - 1).bit_length())

    @abc.abstractmethod
    def digits(self, x: Tensor) -> Tensor:
        """Nearest level of each coordinate: float ``(*batch, dim)`` to int64 of the same shape."""

    @abc.abstractmethod
    def values(self, digits: Tensor) -> Tensor:
        """What digits stand for: int64 ``(*batch, dim)`` to float32 of the same shape."""

    def indices(self, digits: Tensor) -> Tensor:
        """Index of each row of digits: ``(*batch, dim)`` to int64 ``(*batch,)``."""
        return (digits * self._places(digits)).sum(-1)

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Index of the nearest grid point; what lies outside the outermost levels saturates.

        No bounding function is applied: tanh and the like belong to the layer that trains. Computed in float32,
        with autocast or without. ``weight`` is checked and changes nothing: coordinates are apart.

        Returns:
            ``(*batch,)`` int64.

        Raises:
            ValueError: for a wrong shape or a number that is not finite.
        """
        self._check_vectors(x, weight)
        return self.indices(self.digits(x.float()))

    def decode(self, codes: Tensor) -> Tensor:
        """Grid points ``(*batch, dim)`` float32."""
        rest = codes.long().unsqueeze(-1) // self._places(codes)
        return self.values(rest % torch.tensor(self._levels, device=codes.device))

    def _places(self, like: Tensor) -> Tensor:
        places = [math.prod(self._levels[:i]) for i in range(len(self._levels))]
        return torch.tensor(places, device=like.device)


class Cube(Grid):
    """Base of grids with evenly spaced levels from ``-bound`` to ``bound`` in each dimension.

    Attributes:
        bound: float32 ``(dim,)``, the outermost levels; a trainable layer bounds its input with them, for
            instance by ``bound * tanh(z)``.
    """

    bound: Tensor

    def _install(self, levels: Sequence[int], bound: float | None) -> None:
        self._shape(levels)
        self._given = None if bound is None else check_positive(self.family, "bound", bound)
        best = (
            [uniform_levels(n)[0][-1] for n in levels] if bound is None else [bound] * len(levels)
        )
        self.register_buffer("bound", torch.tensor(best, dtype=torch.float32))

    def digits(self, x: Tensor) -> Tensor:
        """Nearest level of each coordinate; half-way belongs to the lower level."""
        top = torch.tensor(self._levels, device=x.device) - 1
        position = (x / self.bound + 1) * (top / 2)
        return torch.minimum((position - 0.5).ceil().clamp_min(0).to(torch.int64), top)

    def values(self, digits: Tensor) -> Tensor:
        """``bound (2 digit / (levels - 1) - 1)``."""
        top = torch.tensor(self._levels, device=digits.device) - 1
        return (2 * digits - top).float() / top * self.bound

    @property
    def distortion(self) -> float:
        """Mean squared error per dimension on N(0, 1), in closed form."""
        kinds = set(zip(self._levels, self.bound.tolist(), strict=True))
        error = {
            (n, b): gaussian_mse(torch.linspace(-b, b, n, dtype=torch.float64)) for n, b in kinds
        }
        return sum(error[k] for k in zip(self._levels, self.bound.tolist(), strict=True)) / self.dim

    def _extra(self) -> dict[str, float]:
        return {} if self._given is None else {"bound": self._given}


@register("fsq")
class FSQ(Cube):
    """Finite scalar quantization: a few even levels in each of a few dimensions.

    Levels are ``bound (2 k / (L - 1) - 1)`` for k = 0 .. L - 1: symmetric about zero for odd and even L and for 2.
    The default bound of a dimension makes its levels the best for N(0, 1); ``bound=1`` is the cube of the paper, for
    layers that end in a tanh.

    Args:
        levels: number of levels of each dimension, 2 to 4096 each.
        bound: outermost level of all dimensions.

    Reference:
        F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, "Finite scalar quantization: VQ-VAE made simple", ICLR 2024,
        section 3.1; the symmetric form as in J. Parker et al., "Scaling transformers for low-bitrate high-quality
        speech coding" (2024), equation (2).
    """

    def __init__(
        self, levels: Sequence[int] = (8, 8, 8, 5, 5, 5), bound: float | None = None
    ) -> None:
        super().__init__()
        if not isinstance(levels, (list, tuple)) or not levels:
            raise ValueError(f"fsq: levels must be a list of whole numbers, got {levels!r}")
        self._install([check_whole("fsq", "a level count", n, 2, 4096) for n in levels], bound)

    @property
    def spec(self) -> Spec:
        """``fsq(levels=[...])``, and the bound where it was given."""
        return Spec.make("fsq", levels=self._levels, **self._extra())


@register("lfq")
class LFQ(Cube):
    """Lookup-free quantization: one sign a dimension, the index is the bits.

    Args:
        dim: 1 to 62.
        bound: magnitude of the values; default ``sqrt(2/pi)``, the best for N(0, 1). The paper has 1.

    Reference:
        L. Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", ICLR 2024, equations (2)
        and (3).
    """

    def __init__(self, dim: int = 10, bound: float | None = None) -> None:
        super().__init__()
        self._install([2] * check_whole("lfq", "dim", dim, 1, MAX_BITS), bound)

    @property
    def spec(self) -> Spec:
        """``lfq(dim=...)``, and the bound where it was given."""
        return Spec.make("lfq", dim=self.dim, **self._extra())


@register("bsq")
class BSQ(Cube):
    """Binary spherical quantization: signs, as a point on the sphere.

    The vector is projected on the sphere and each coordinate replaced by its sign times ``radius / sqrt(dim)``. As
    a codebook this differs from ``lfq`` in scale alone: the length of a vector does not change its signs. What
    differs is training: inputs on a sphere bound the quantization error and make the entropy of groups of bits cheap.

    Args:
        dim: 1 to 62.
        radius: of the sphere; default ``sqrt(2 dim/pi)``, the best for N(0, I). The paper has 1.

    Reference:
        Y. Zhao, Y. Xiong, P. Krähenbühl, "Image and video tokenization with binary spherical quantization", ICLR 2025,
        equations (4) and (5).
    """

    def __init__(self, dim: int = 10, radius: float | None = None) -> None:
        super().__init__()
        count = check_whole("bsq", "dim", dim, 1, MAX_BITS)
        self.radius = None if radius is None else check_positive("bsq", "radius", radius)
        self._install([2] * count, None if self.radius is None else self.radius / math.sqrt(count))

    @property
    def spec(self) -> Spec:
        """``bsq(dim=...)``, and the radius where it was given."""
        extra = {} if self.radius is None else {"radius": self.radius}
        return Spec.make("bsq", dim=self.dim, **extra)
