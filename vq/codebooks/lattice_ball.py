"""Zn, Dn and E8 cut to a ball: tables of the shortest points."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.lattice import figures_for, in_units
from vq.codebooks.lattice_points import Ints, e8_ball, shortest
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec, Value
from vq.kernels.search import nearest

_MAX_BITS = 16
_CHUNK = 1 << 14


class _Ball(Codebook):
    """Points of a lattice's coset in a table.

    Attributes:
        points: int8 ``(entries, dim)``, doubled coordinates in units of ``step``.
        step: size of the lattice's unit.
    """

    points: Tensor

    def __init__(self, bits: float, dim: int, step: float | None) -> None:
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, (int, float)) or bits * dim % 1:
            raise ValueError(
                f"{self.family}: bits * dim must be a whole number, got bits={bits!r}, dim={dim!r}"
            )
        if not 1 <= bits * dim <= _MAX_BITS:
            raise ValueError(
                f"{self.family}: bits * dim must be from 1 to {_MAX_BITS}, got bits={bits}, dim={dim}"
            )
        self.bits = int(bits) if bits == int(bits) else float(bits)
        self._dim, self._code_bits, self._own_step = dim, int(bits * dim), step
        self.step, self._distortion = figures_for(self._name(), step)

    def _name(self) -> str:
        return str(Spec.make(self.family, dim=self._dim, bits=self.bits))

    @property
    def spec(self) -> Spec:
        """Family, dim, bits, and the step where it is not the measured one."""
        extra: dict[str, Value] = {} if self._own_step is None else {"step": self._own_step}
        named = Spec.parse(self._name())
        return Spec(named.name, (*named.args, *Spec.make("x", **extra).args))

    @property
    def dim(self) -> int:
        """Length of one vector."""
        return self._dim

    @property
    def entries(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def code_bits(self) -> int:
        """``bits * dim``."""
        return self._code_bits

    @property
    def distortion(self) -> float | None:
        """Measured on N(0, 1) (codebooks/lattice.json), None for a step of one's own."""
        return self._distortion

    @property
    def table(self) -> Tensor:
        """Points ``(entries, dim)`` float32."""
        return self.points.float() * (0.5 * self.step)

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Number of the nearest point under ``sum_d weight_d (x_d - c_d)^2``; the lowest among equals.

        Returns:
            ``(*batch,)`` int32.

        Raises:
            ValueError: for wrong shapes or numbers that are not finite.
        """
        self._check_vectors(x, weight)
        flat = in_units(x.reshape(-1, self._dim), self.step)
        if weight is not None:
            weight = weight.expand(x.shape).reshape(-1, self._dim)
        return nearest(flat, 0.5 * self.points.float(), weight).reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Points ``(*batch, dim)`` float32.

        Raises:
            ValueError: for a code without a point.
        """
        check_codes(codes, self.entries, str(self.spec))
        return self.points[codes.long()].float() * (0.5 * self.step)


def check_codes(codes: Tensor, entries: int, name: str) -> None:
    """Raise ValueError unless codes are integers in ``[0, entries)``."""
    if codes.is_floating_point():
        raise ValueError(f"{name}: expected integer codes, got {codes.dtype}")
    if not torch.compiler.is_compiling() and codes.numel():
        low, high = (int(v) for v in torch.aminmax(codes))
        if low < 0 or high >= entries:
            raise ValueError(f"{name}: expected codes in [0, {entries}), got {low} to {high}")


@register("zn")
class Zn(_Ball):
    """The ``2^(dim * bits)`` shortest points of ``Z^dim + 1/2``, times a step.

    Args:
        dim: length of a vector.
        bits: bits per dimension, ``dim * bits`` a whole number up to 16.
        step: distance of neighbours; None takes the one that was measured best for N(0, 1).
    """

    def __init__(self, dim: int = 1, bits: float = 2, step: float | None = None) -> None:
        _check_dim("zn", dim, 1)
        super().__init__(bits, dim, step)
        self.register_buffer("points", _int8(shortest(dim, False, 2**self._code_bits)))


@register("dn")
class Dn(_Ball):
    """The ``2^(dim * bits)`` shortest points of a coset of Dn around a hole, times a step.

    The coset is ``Dn + (1/2, ..., 1/2)``. At dim 4 and 2 bits these are exactly its five shells of norm up to 9.

    Args:
        dim: length of a vector, at least 2.
        bits: bits per dimension, ``dim * bits`` a whole number up to 16.
        step: unit of the coordinates; None takes the one that was measured best for N(0, 1).

    Reference:
        J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapter 4, section 7.
    """

    def __init__(self, dim: int = 4, bits: float = 2, step: float | None = None) -> None:
        _check_dim("dn", dim, 2)
        super().__init__(bits, dim, step)
        self.register_buffer("points", _int8(shortest(dim, True, 2**self._code_bits)))


@register("e8")
class E8(_Ball):
    """The shortest points of E8 that ``8 * bits`` bits can number, times a step.

    Whole orbits under permutations and even changes of signs are taken by norm, so a few codes stay unused: at 2 bits
    there are 64,497 points, all of norm up to 10 and 7,616 of norm 12. An orbit is searched through its leader:
    magnitudes are sorted, the smallest takes the sign that is left over, and the best leader is found by inner
    products, which is exact.

    Args:
        bits: bits per dimension, ``8 * bits`` a whole number up to 16.
        step: unit of the coordinates; None takes the one that was measured best for N(0, 1).

    Reference:
        J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapter 4, section 8; leaders as in S.
        Ragot, B. Bessette, R. Lefebvre, "Low-complexity multi-rate lattice vector quantization", ICASSP 2004.
    """

    leaders: Tensor

    def __init__(self, bits: float = 2, step: float | None = None) -> None:
        super().__init__(bits, 8, step)
        points, leaders = e8_ball(2**self._code_bits)
        self.register_buffer("points", _int8(points))
        self.register_buffer("leaders", _int8(leaders))

    def _name(self) -> str:
        return str(Spec.make("e8", bits=self.bits))

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Number of the nearest point, exact to float32; with ``weight`` by a search of the whole table.

        Returns:
            ``(*batch,)`` int32.

        Raises:
            ValueError: for wrong shapes or numbers that are not finite.
        """
        if weight is not None:
            return super().encode(x, weight)
        self._check_vectors(x)
        flat = 2.0 * in_units(x.reshape(-1, 8), self.step)
        parts = [self._encode_chunk(v) for v in flat.split(_CHUNK)]
        return torch.cat(parts).reshape(x.shape[:-1])

    def _encode_chunk(self, x: Tensor) -> Tensor:
        negative = x < 0
        size, place = x.abs().sort(dim=1, descending=True, stable=True)
        flipped = negative.sum(1).remainder(2).bool()
        last = torch.where(flipped, -size[:, 7], size[:, 7])
        leaders = self.leaders.float()
        score = -0.5 * leaders.square().sum(1) + leaders[:, 0] * size[:, :1]
        for d in range(1, 8):
            score = score + leaders[:, d] * (size[:, d] if d < 7 else last).unsqueeze(1)
        best = self.leaders.long()[score.argmax(1)]
        best[:, 7] = torch.where(flipped, -best[:, 7], best[:, 7])
        point = torch.empty_like(best).scatter_(1, place, best)
        point = torch.where(negative, -point, point)
        keys, order = (t.to(x.device) for t in _sorted_keys(self._code_bits))
        return order[torch.searchsorted(keys, _keys(point))]


@functools.cache
def _sorted_keys(code_bits: int) -> tuple[Tensor, Tensor]:
    """Keys of the points of E8's ball in order, and the points' numbers."""
    keys, order = _keys(torch.from_numpy(e8_ball(2**code_bits)[0])).sort()
    return keys, order.to(torch.int32)


def _keys(points: Tensor) -> Tensor:
    """One integer for a doubled point of small coordinates."""
    powers = 16 ** torch.arange(8, device=points.device)
    return ((points.long() + 8) * powers).sum(1)


def _int8(points: Ints) -> Tensor:
    return torch.from_numpy(points).to(torch.int8)


def _check_dim(name: str, dim: int, low: int) -> None:
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < low:
        raise ValueError(f"{name}: dim must be a whole number of at least {low}, got {dim!r}")
