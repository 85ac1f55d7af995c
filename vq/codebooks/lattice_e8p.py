"""E8P: 65,536 points near E8 in 16 bits, decoded with a table of 256 magnitudes."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.lattice import figures_for, in_units
from vq.codebooks.lattice_ball import check_codes
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec
from vq.kernels.lattice import e8p_encode
from vq.kernels.search import nearest

_CHUNK = 1 << 16


@functools.cache
def small_triples() -> tuple[tuple[int, ...], ...]:
    """For each of the 29 patterns of norm 12, the three coordinates that are 1/2; the other five are 3/2.

    The rule: the 28 triples of 0..7 with an odd sum, then the first with an even sum, (0, 1, 3); each group in
    lexicographic order.
    """
    triples = list(itertools.combinations(range(8), 3))
    return tuple([t for t in triples if sum(t) % 2] + [t for t in triples if sum(t) % 2 == 0][:1])


@functools.cache
def patterns() -> Tensor:
    """Magnitudes of the 256 patterns as 0, 1, 2 for 1/2, 3/2, 5/2: uint8 ``(256, 8)``.

    First the 227 of norm up to 10 by norm, then lexicographically; then those of ``small_triples``.
    """
    digits = [p for p in itertools.product(range(3), repeat=8) if _norm(p) <= 10]
    digits.sort(key=lambda p: (_norm(p), p))
    digits += [tuple(int(d not in t) for d in range(8)) for t in small_triples()]
    assert len(digits) == 256
    return torch.tensor(digits, dtype=torch.uint8)


def _norm(digits: tuple[int, ...]) -> float:
    return sum((d + 0.5) ** 2 for d in digits)


@functools.cache
def search_tables() -> Tensor:
    """Tables of ``vq.kernels.lattice.e8p_encode``: triples, then pattern numbers by base-three digits."""
    numbers = np.zeros(6561, dtype=np.uint8)
    index = patterns().numpy().astype(np.int64) @ (3 ** np.arange(7, -1, -1))
    numbers[index] = np.arange(256)
    triples = np.array(small_triples(), dtype=np.uint8).reshape(-1)
    return torch.from_numpy(np.concatenate([triples, numbers]))


@register("e8p")
class E8P(Codebook):
    """The padded E8 codebook: signed patterns of half-integers with an even sum, moved by -1/4 or 1/4, times a step.

    Both moves of ``D8^ = {c in (Z + 1/2)^8, sum even}`` are cosets of E8. The 256 magnitudes are the 227 of norm up
    to 10 and 29 of the 56 of norm 12 (see ``small_triples``). A code's bits: 0..7 the pattern; 8..14 whether
    coordinates 0..6 are negative, before the move, and the last coordinate's sign makes the sum even; 15 whether the
    move is 1/4 instead of -1/4.

    The search is exact: for each move, magnitudes are sorted to score the patterns that come in whole orbits of
    permutations, the other 29 are scored one by one, and where signs do not fit, the cheapest one is flipped.

    Args:
        step: unit of the coordinates; None takes the one that was measured best for N(0, 1).

    Attributes:
        patterns: uint8 ``(256, 8)``: 0, 1, 2 for magnitudes 1/2, 3/2, 5/2.
        step: unit of the coordinates.

    Reference:
        A. Tseng et al., "QuIP#: even better LLM quantization with Hadamard incoherence and lattice codebooks", ICML
        2024, section 4.2. The choice of the 29 patterns and the layout of the bits are our own.
    """

    patterns: Tensor

    def __init__(self, step: float | None = None) -> None:
        super().__init__()
        self._own_step = step
        self.step, self._distortion = figures_for("e8p()", step)
        self.register_buffer("patterns", patterns().clone())

    @property
    def spec(self) -> Spec:
        """``e8p()``, with the step where it is not the measured one."""
        return Spec.make("e8p") if self._own_step is None else Spec.make("e8p", step=self._own_step)

    @property
    def dim(self) -> int:
        """8."""
        return 8

    @property
    def entries(self) -> int:
        """65,536."""
        return 1 << 16

    @property
    def code_bits(self) -> int:
        """16."""
        return 16

    @property
    def distortion(self) -> float | None:
        """Measured on N(0, 1) (codebooks/lattice.json), None for a step of one's own."""
        return self._distortion

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Code of the nearest point under ``sum_d weight_d (x_d - c_d)^2``, exact to float32 arithmetic.

        With ``weight`` the 128 patterns of either parity are searched for the magnitudes and for each of the eight
        ways to flip one of them, which takes about fifty times as long.

        Returns:
            ``(*batch,)`` int32.

        Raises:
            ValueError: for wrong shapes or numbers that are not finite.
        """
        self._check_vectors(x, weight)
        flat = in_units(x.reshape(-1, 8), self.step)
        if weight is None:
            codes = e8p_encode(flat, search_tables().to(x.device))
            return codes.reshape(x.shape[:-1])
        full = weight.expand(x.shape).reshape(-1, 8).float()
        parts = [
            self._encode_weighted(*pair)
            for pair in zip(flat.split(_CHUNK), full.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts).reshape(x.shape[:-1])

    def _encode_weighted(self, x: Tensor, weight: Tensor) -> Tensor:
        least = torch.full_like(x[:, 0], float("inf"))
        codes = torch.zeros(len(x), dtype=torch.int32, device=x.device)
        odd = self.patterns.sum(1) % 2
        groups = [(odd == p).nonzero()[:, 0] for p in (0, 1)]
        for shift, move in enumerate((0.25, -0.25)):
            y = x + move
            for flip in range(-1, 8):
                negative = y < 0
                if flip >= 0:
                    negative[:, flip] ^= True
                folded = torch.where(negative, -y, y)
                for parity, group in enumerate(groups):
                    rows = (negative.sum(1) % 2 == parity).nonzero()[:, 0]
                    table = self.patterns[group].float() + 0.5
                    found = nearest(folded[rows], table, weight[rows]).long()
                    error = (weight[rows] * (folded[rows] - table[found]).square()).sum(1)
                    closer = error < least[rows]
                    own = _signs(negative[rows]) | shift << 15 | group[found]
                    least[rows] = torch.where(closer, error, least[rows])
                    codes[rows] = torch.where(closer, own.int(), codes[rows])
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Points ``(*batch, 8)`` float32.

        Raises:
            ValueError: for a code outside of 16 bits.
        """
        check_codes(codes, self.entries, str(self.spec))
        code = codes.long()
        digits = self.patterns[code & 255]
        bits = torch.arange(7, device=codes.device)
        negative = (code.unsqueeze(-1) >> (8 + bits)) & 1
        last = (negative.sum(-1) + digits.sum(-1)) & 1
        signs = 1 - 2 * torch.cat([negative, last.unsqueeze(-1)], -1)
        move = torch.where(code >> 15 == 1, 0.25, -0.25).unsqueeze(-1)
        return (signs * (digits + 0.5) + move) * self.step


def _signs(negative: Tensor) -> Tensor:
    """Sign bits of coordinates 0..6 in their place."""
    places = 8 + torch.arange(7, device=negative.device)
    return (negative[:, :7].long() << places).sum(1)
