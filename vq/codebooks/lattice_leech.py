"""The Leech lattice cut to a ball: 24 dimensions, up to 48 bits a vector."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.lattice import figures_for, in_units
from vq.codebooks.leech_classes import shells_for
from vq.codebooks.leech_index import LeechIndex, leech_index
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec, Value
from vq.kernels.lattice import leech_in_ball, nearest_leech

FIELDS = 3  # codes of one vector, of 8 * bits bits each
_RADII = (
    0.97,
    0.93,
    0.88,
    0.75,
    0.0,
)  # of the ball, where lists of candidates are made, one after the other
_CHUNK = 1 << 13


@register("leech")
class Leech(Codebook):
    """All points of the Leech lattice in a ball, numbered, times a step.

    At 2 bits the ball holds all norms up to 26: 280,974,212,784,721 points, 47.997 of the 48 bits. A vector whose
    nearest lattice point lies in the ball gets that point, which is exact. For any other, the nearest points of the
    16 nearest of 256 kinds are listed around the vector moved into the ball, and the one in the ball that is nearest
    to the vector is taken (see ``vq.kernels.lattice.leech_in_ball``). Lists of 64 at nine radii lower the mean
    squared error by 0.04 % at 2 bits.

    Args:
        bits: bits per dimension, a multiple of 1/8 from 0.75 to 2.
        step: unit of the integer coordinates (the lattice times sqrt(8)); None takes the one that was measured best for
            N(0, 1).

    Attributes:
        shells: whole shells in the ball; the largest norm is ``2 * shells``.
        step: unit of the integer coordinates.

    Reference:
        J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapters 4 (section 11) and 10; shells
        as a codebook for weights: "LLVQ" (arXiv 2603.11021).
    """

    def __init__(self, bits: float = 2, step: float | None = None) -> None:
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, (int, float)) or 8 * bits % 1:
            raise ValueError(f"leech: bits must be a multiple of 1/8, got {bits!r}")
        if not 0.75 <= bits <= 2:
            raise ValueError(f"leech: bits must be from 0.75 to 2, got {bits!r}")
        self.bits = int(bits) if bits == int(bits) else float(bits)
        self.shells = shells_for(int(24 * bits))
        self._own_step = step
        self.step, self._distortion = figures_for(str(Spec.make("leech", bits=self.bits)), step)

    @property
    def spec(self) -> Spec:
        """``leech(bits=...)``, with the step where it is not the measured one."""
        args: dict[str, Value] = {"bits": self.bits}
        if self._own_step is not None:
            args["step"] = self._own_step
        return Spec.make("leech", **args)

    @property
    def dim(self) -> int:
        """24."""
        return 24

    @property
    def entries(self) -> int:
        """Points of the ball."""
        return self._index.size

    @property
    def code_bits(self) -> int:
        """``8 * bits``: a third of a vector's number."""
        return int(8 * self.bits)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Three fields of the number, the lowest bits first."""
        return (FIELDS,)

    @property
    def distortion(self) -> float | None:
        """Measured on N(0, 1) (codebooks/lattice.json), None for a step of one's own."""
        return self._distortion

    @property
    def _index(self) -> LeechIndex:
        return leech_index(self.shells)

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Fields ``(*batch, 3)`` int32 of the numbers of the points found.

        Raises:
            ValueError: for a wrong shape, NaN or infinity, or any ``weight``.
        """
        if weight is not None:
            raise ValueError(
                f"{self.spec}: weight is not supported, the search counts all coordinates alike; "
                "scale the values instead or use e8p"
            )
        self._check_vectors(x)
        flat = in_units(x.reshape(-1, 24), self.step)
        numbers = [self._index.rank(self.points(v).cpu().long()) for v in flat.split(_CHUNK)]
        shifts = self.code_bits * torch.arange(FIELDS)
        fields = torch.cat(numbers)[:, None] >> shifts & ((1 << self.code_bits) - 1)
        return fields.to(x.device, torch.int32).reshape(*x.shape[:-1], FIELDS)

    def points(self, x: Tensor) -> Tensor:
        """Points found for vectors ``(n, 24)`` in units of the step: float32 integers in the ball."""
        limit = 16.0 * self.shells
        norm = x.square().sum(1, keepdim=True).sqrt()
        inner = x * (4 * limit**0.5 / norm).clamp_max(
            1.0
        )  # where float32 distances are still sharp
        found = nearest_leech(inner)
        left = (found.square().sum(1) > limit).nonzero()[:, 0]
        for radius in _RADII:
            if not len(left):
                break
            wanted = inner[left]
            length = wanted.square().sum(1, keepdim=True).sqrt()
            inside = wanted * (radius * limit**0.5 / length).clamp_max(1.0)
            found[left] = leech_in_ball(inside, wanted, limit)
            left = left[torch.isinf(found[left, 0])]
        return found

    def decode(self, codes: Tensor) -> Tensor:
        """Points ``(*batch, 24)`` float32.

        Raises:
            ValueError: for codes of another shape, or a number without a point.
        """
        batch = self._batch_shape(codes)
        if codes.is_floating_point():
            raise ValueError(f"{self.spec}: expected integer codes, got {codes.dtype}")
        shifts = self.code_bits * torch.arange(FIELDS, device=codes.device)
        flat = codes.reshape(-1, FIELDS).long()
        number = (flat << shifts).sum(1)
        if len(flat) and (int(flat.min()) < 0 or int(number.max()) >= self.entries):
            raise ValueError(
                f"{self.spec}: expected fields of numbers in [0, {self.entries}), got "
                f"{int(number.min())} to {int(number.max())}"
            )
        parts = [self._index.unrank(v.cpu()) for v in number.split(_CHUNK)]
        points = torch.cat(parts) if parts else torch.zeros(0, 24)
        return (points.to(codes.device).float() * self.step).reshape(*batch, 24)
