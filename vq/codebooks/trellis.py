"""Trellis-coded quantization: long vectors, one exact search, a handful of operations to decode."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks import trellis_codes as source
from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec, Value, nearest_names
from vq.codebooks.trellis_fit import fit_table, start_table
from vq.kernels.trellis import (
    trellis_decode,
    trellis_encode,
    trellis_encode_weighted,
    trellis_pack,
    trellis_unpack,
)

LENGTH = 256  # values of one sequence
CODES = ("hash", "lut", "random", "hybrid", *source.COMPUTED)


@register("trellis")
class Trellis(Codebook):
    """A tail-biting bitshift trellis over blocks of 256 values.

    The bits of a block form a circle; each step's state is a window of ``memory`` bits of it, and the
    table row of the state holds the step's ``symbols`` values. Encoding is a Viterbi search. At 2 bits
    and ``memory=12`` the distortion on N(0, 1) is 0.071, against 0.1175 for the best scalar quantizer
    and 0.0625 for Shannon's limit.

    Args:
        bits: rate in bits per value, a multiple of ``1 / symbols``.
        memory: bits of a state, at most 16 and more than ``bits * symbols``.
        symbols: values of a step, 1 or 2; None takes 2 for ``hash``, ``hybrid`` and fractional rates, else 1.
        code: ``hash`` (computed with one multiplication, two symbols), ``hybrid`` (512 trained pairs, one
            picked by a hash of the state), ``lut`` (a trained table; the shipped one if there is one, else
            call ``fit``), ``mad1``, ``inst3``, ``mcg``, ``mul1`` (computed, one symbol) or ``random`` (a
            seeded table).
        seed: of ``code=random``.
        levels: of ``code=hash``: 64 different values (best), or 32 or 16, which CPUs without AVX-512 decode faster.

    Attributes:
        table: ``(2**memory, symbols)`` float32, the values of each state.
        levels: int8 ``(64,)``, for the hash code the integer levels (16 or 32 of them repeated), else empty.
        level_count: 64, 32 or 16.
        step: for the hash code the size of one integer level, else 0.
        hash_constant: factor of the hash code, else 0.
        step_bits: bits of one step, ``bits * symbols``.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Tseng, Sun, Hou, De Sa, "QTIP: Quantization with Trellises and Incoherence Processing",
        NeurIPS 2024; Marcellin, Fischer, "Trellis coded quantization of memoryless and
        Gauss-Markov sources", IEEE Trans. Commun. 38 (1990).
    """

    table: Tensor
    levels: Tensor

    def __init__(
        self,
        bits: float = 2,
        memory: int = 12,
        symbols: int | None = None,
        code: str = "hash",
        seed: int = 0,
        levels: int = 64,
    ) -> None:
        super().__init__()
        self.bits = _check_rate(bits, memory, symbols, code)
        self.level_count = _check_levels(levels, code)
        self.memory, self.code, self.seed = memory, code, seed
        self.symbols = _default_symbols(bits, code) if symbols is None else symbols
        self.step_bits = int(bits * self.symbols)
        if seed and code != "random":
            raise ValueError(f"trellis: seed={seed} only means something with code=random")
        self.step, self.hash_constant = 0.0, 0
        if code == "hash":
            found = source.hash_code(self.bits, memory, levels)
            self.hash_constant = found.constant
            self.step = float(torch.tensor(found.step, dtype=torch.float32))
            integers = source.hash_levels(levels)
            table = source.hash_table(memory, self.hash_constant, self.step, integers)
        else:
            integers = torch.zeros(0, dtype=torch.int8)
            table = source.state_values(code, self.bits, memory, self.symbols, seed)
        self.register_buffer("levels", integers)
        self.register_buffer("table", table)

    @property
    def spec(self) -> Spec:
        """``trellis(bits=..., memory=..., code=...)``; symbols, seed and levels where they are not the default."""
        args: dict[str, Value] = {"bits": self.bits, "memory": self.memory}
        if self.symbols != _default_symbols(self.bits, self.code):
            args["symbols"] = self.symbols
        args["code"] = self.code
        if self.seed:
            args["seed"] = self.seed
        if self.level_count != 64:
            args["levels"] = self.level_count
        return Spec.make("trellis", **args)

    @property
    def dim(self) -> int:
        """256, the length of a block."""
        return LENGTH

    @property
    def entries(self) -> None:
        """None: there are ``2**(256 * bits)``."""
        return None

    @property
    def code_bits(self) -> int:
        """``step_bits``."""
        return self.step_bits

    @property
    def tile(self) -> tuple[int, int]:
        """64 rows of 4 columns: error feedback works on blocks of 4 columns, not 16 or 256."""
        return 64, 4

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """One code a step."""
        return (LENGTH // self.symbols,)

    @property
    def exact_search(self) -> bool:
        """False: the two passes that close the circle need not meet the best closed path."""
        return False

    @property
    def fitted(self) -> bool:
        """False for ``code=lut`` without a table."""
        return self.code != "lut" or bool(self.table.any())

    @property
    def distortion(self) -> float | None:
        """Measured on held-out N(0, 1) for computed codes and shipped tables, else None."""
        if self.code == "hash":
            return source.hash_code(self.bits, self.memory, self.level_count).distortion
        if self.code not in ("lut", "random"):
            found = source.figure(self.code, self.bits, self.memory)
            return None if found is None else found.distortion
        shipped = source.trained_table(self.bits, self.memory, self.symbols)
        if (
            self.code == "lut"
            and shipped is not None
            and torch.equal(self.table.cpu(), shipped.table)
        ):
            return shipped.distortion
        return None

    @property
    def leftover(self) -> float | None:
        """More than the root mean square of the error, most at high rates: its tails are longer than a Gaussian's."""
        plain = super().leftover
        return None if plain is None else (1 + 0.05 * max(1.0, self.bits - 1)) * plain

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, 256 / symbols)`` uint8 of the nearest path.

        With a weight, of the path with the smallest ``sum of weight * (x - value)^2``; that search is in floating
        point and takes longer. See ``vq.kernels.trellis``.

        Raises:
            ValueError: for a wrong shape, NaN or infinity, a negative weight, or an unfitted table.
        """
        self._check_vectors(x, weight)
        flat = x.reshape(-1, LENGTH)
        if weight is None:
            codes = trellis_encode(flat, self.table, self.step_bits, self.memory)
        else:
            own = weight.expand(x.shape).reshape(-1, LENGTH)
            codes = trellis_encode_weighted(flat, own, self.table, self.step_bits, self.memory)
        return codes.reshape(*x.shape[:-1], *self.codes_shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, 256)`` float32 of codes ``(*batch, 256 / symbols)``."""
        batch = self._batch_shape(codes)
        flat = self._flat(codes)
        values = trellis_decode(flat, self.table, self.step_bits, self.memory)
        return values.reshape(*batch, LENGTH)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        iterations: int = 20,
    ) -> Trellis:
        """Train the table of ``code=lut`` on blocks ``(n, 256)``, from what it is or from their quantiles.

        Lloyd's algorithm: encode all blocks, set each state to the (weighted) mean of what it was used
        for, repeat. States that no path visits keep their value; the best table seen is kept.

        Raises:
            TypeError: for a computed code.
            ValueError: for a wrong shape, NaN, or a weight that is negative or does not fit ``x``.
        """
        if self.code != "lut":
            raise TypeError(f"{self.spec} has nothing to fit: its values are fixed; use code=lut")
        check_vectors(x, LENGTH, str(self.spec))
        self._check_weight(x, weight)
        own = (
            None if weight is None else weight.detach().expand(x.shape).reshape(-1, LENGTH).float()
        )
        flat = x.detach().reshape(-1, LENGTH).float().to(self.table.device)
        if not len(flat):
            raise ValueError(
                f"{self.spec}: fit needs at least one block of {LENGTH} values, got none"
            )
        start = self.table
        if not self.fitted:
            start = self._start(flat, generator)
        table, _ = fit_table(flat, start, self.step_bits, self.memory, iterations, own)
        self.table.copy_(table)
        return self

    def _start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Quantiles of ``x`` ``(n, 256)`` in a good order."""
        size = 1 << self.memory
        ordered = x.reshape(-1).cpu().sort().values
        place = ((torch.arange(size) + 0.5) * len(ordered) / size).long()
        levels = ordered[place] * (1 - 0.25**self.bits) ** 0.5
        draws = max(20, 200 >> max(0, self.memory - 12))
        return start_table(
            levels, x, self.step_bits, self.symbols, draws=draws, generator=generator
        )

    def pack(self, codes: Tensor) -> PackedCodes:
        """Bit streams of 64-bit words, first bit most significant: ``256 * bits`` bits a block."""
        batch = self._batch_shape(codes)
        stream = trellis_pack(self._flat(codes), self.step_bits).reshape(-1).cpu()
        return PackedCodes(stream, str(self.spec), self.version, batch)

    def unpack(self, packed: PackedCodes) -> Tensor:
        """Inverse of ``pack``: uint8 codes.

        Raises:
            ValueError: if the codes were packed by another codebook or are cut short.
        """
        self._check_packed(packed)
        stream = packed.payload.reshape(-1, LENGTH // 8 * self.step_bits // self.symbols)
        codes = trellis_unpack(stream, self.step_bits)
        return codes.reshape(*packed.shape, *self.codes_shape)

    def _check_packed(self, packed: PackedCodes) -> None:
        super()._check_packed(packed)
        blocks = int(torch.Size(packed.shape).numel())
        expected = blocks * LENGTH * self.step_bits // (8 * self.symbols)
        if packed.payload.numel() != expected:
            raise ValueError(
                f"{self.spec}: expected {expected} bytes for {blocks} blocks, got "
                f"{packed.payload.numel()}"
            )

    def _flat(self, codes: Tensor) -> Tensor:
        """Codes ``(n, steps)`` uint8, checked before they are narrowed."""
        if codes.is_floating_point():
            raise ValueError(f"{self.spec}: expected integer codes, got {codes.dtype}")
        traced = torch.compiler.is_compiling()
        if codes.dtype != torch.uint8 and codes.numel() and not traced:
            low, high = (int(v) for v in torch.aminmax(codes))
            if low < 0 or high >> self.step_bits:
                raise ValueError(
                    f"{self.spec}: expected codes in [0, {1 << self.step_bits}), got {low} to {high}"
                )
        return codes.reshape(-1, *self.codes_shape).to(torch.uint8)


def _default_symbols(bits: float, code: str) -> int:
    return 2 if code in source.PAIRS or bits != int(bits) else 1


def _check_levels(levels: int, code: str) -> int:
    """The number of levels; raises where it is none that the hash code has, or the code is another."""
    if levels not in source.HASH_COUNTS:
        known = ", ".join(str(count) for count in source.HASH_COUNTS)
        raise ValueError(f"trellis: levels must be one of {known}, got {levels!r}")
    if levels != 64 and code != "hash":
        raise ValueError(f"trellis: levels={levels} only means something with code=hash")
    return levels


def _check_rate(bits: float, memory: int, symbols: int | None, code: str) -> float:
    """The rate, an int where it is whole; raises for arguments that do not fit each other."""
    if code not in CODES:
        raise ValueError(f"trellis: unknown code {code!r}; {nearest_names(str(code), CODES)}")
    count = _default_symbols(bits, code) if symbols is None else symbols
    if count not in (1, 2):
        raise ValueError(f"trellis: symbols must be 1 or 2, got {symbols!r}")
    if (count == 2) != (code in source.PAIRS) and code not in ("lut", "random"):
        raise ValueError(f"trellis: code={code} does not have symbols={count}")
    step_bits = bits * count
    if step_bits != int(step_bits) or not 1 <= step_bits <= 8:
        raise ValueError(
            f"trellis: bits * symbols must be a whole number from 1 to 8, got bits={bits}, "
            f"symbols={count}; split makes quarter bits of two codebooks, residual stacks them to 8"
        )
    if not isinstance(memory, int) or not step_bits < memory <= 16:
        raise ValueError(
            f"trellis: memory must be a whole number above bits * symbols = {int(step_bits)} and at "
            f"most 16, got {memory!r}"
        )
    return int(bits) if bits == int(bits) else float(bits)
