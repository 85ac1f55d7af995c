"""The contract every codebook keeps."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn

from vq.codebooks.packing import PackedCodes
from vq.codebooks.spec import Spec
from vq.kernels.layouts import pack_rows, unpack_rows


class Codebook(nn.Module, abc.ABC):
    """A finite set of vectors with a way to find the best one and a way to look it up.

    Shapes: vectors are ``(*batch, dim)``, codes are ``(*batch, *codes_shape)`` integers. A codebook lives in units of
    N(0, 1): whoever uses it brings scales. ``decode(encode(x))`` is the quantized x, bit for bit, everywhere.

    Attributes:
        family: registered name of the class.
        version: of the family's format; a checkpoint with a newer one is refused.
    """

    family: ClassVar[str] = ""
    version: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def spec(self) -> Spec:
        """Frozen description; ``build(codebook.spec)`` makes an equal codebook (tables aside)."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length of one vector."""

    @property
    @abc.abstractmethod
    def entries(self) -> int | None:
        """How many vectors there are; None where the number is no use (a trellis)."""

    @property
    @abc.abstractmethod
    def code_bits(self) -> int:
        """Bits of one stored code."""

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the codes of one vector; empty for one index a vector."""
        return ()

    @property
    def codes_per_vector(self) -> int:
        """Number of codes of one vector."""
        return int(torch.Size(self.codes_shape).numel())

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a weight matrix that one vector covers, in row-major order."""
        return 1, self.dim

    @property
    def rate(self) -> float:
        """Stored bits per dimension."""
        return self.code_bits * self.codes_per_vector / self.dim

    @property
    def entropy_coded(self) -> bool:
        """Whether the size of packed codes depends on the codes; ``rate`` is then that of long blocks of N(0, 1)."""
        return False

    @property
    def distortion(self) -> float | None:
        """Mean squared error per dimension on N(0, 1), where it is known in closed form or shipped."""
        return None

    @property
    def leftover(self) -> float | None:
        """Scale that best brings what this codebook leaves of N(0, 1) back to the codebook's own units, where known."""
        return None if self.distortion is None else self.distortion**0.5

    @property
    def table_entries(self) -> int:
        """Rows of the largest table that ``fit`` learns: what the number of training vectors is measured by."""
        return self.entries or 0

    @property
    def exact_search(self) -> bool:
        """Whether ``encode`` always finds the nearest vector; a beam or a path may miss it."""
        return True

    @property
    def fitted(self) -> bool:
        """Whether the codebook can encode now."""
        return True

    @abc.abstractmethod
    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes of the nearest vectors.

        Args:
            x: ``(*batch, dim)`` float.
            weight: importance of each coordinate, broadcastable to x; families that cannot use it raise.

        Returns:
            ``(*batch, *codes_shape)`` integers.

        Raises:
            ValueError: for a wrong last dimension, NaN or infinity (with its index), or an unfitted codebook.
        """

    @abc.abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Vectors ``(*batch, dim)`` float32 of codes ``(*batch, *codes_shape)``."""

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Codebook:
        """Learn the table from vectors ``(n, dim)``; returns self.

        Raises:
            TypeError: if the family has nothing to learn.
        """
        raise TypeError(f"{self.spec} has nothing to fit: its values are fixed")

    def forward(self, x: Tensor) -> Tensor:
        """Quantized values: ``decode(encode(x))``."""
        return self.decode(self.encode(x))

    def pack(self, codes: Tensor) -> PackedCodes:
        """Codes in exactly ``code_bits`` bits each, with the header that is needed to read them again."""
        batch = self._batch_shape(codes)
        return PackedCodes(
            payload=pack_rows(codes, self.code_bits),
            spec=str(self.spec),
            version=self.version,
            shape=batch,
        )

    def unpack(self, packed: PackedCodes) -> Tensor:
        """Inverse of ``pack``: int64 codes.

        Raises:
            ValueError: if the codes were packed by another codebook or a newer version.
        """
        self._check_packed(packed)
        count = int(torch.Size(packed.shape).numel()) * self.codes_per_vector
        codes = unpack_rows(packed.payload, self.code_bits, count)
        return codes.reshape(*packed.shape, *self.codes_shape)

    def extra_repr(self) -> str:
        """Spec and rate, for ``print(codebook)``."""
        return f"{self.spec}, rate={self.rate:g}"

    def _batch_shape(self, codes: Tensor) -> tuple[int, ...]:
        depth = len(self.codes_shape)
        batch, own = codes.shape[: codes.ndim - depth], codes.shape[codes.ndim - depth :]
        if tuple(own) != self.codes_shape:
            raise ValueError(
                f"{self.spec}: expected codes of shape (*batch, {self.codes_shape}), "
                f"got {tuple(codes.shape)}"
            )
        return tuple(batch)

    def _check_packed(self, packed: PackedCodes) -> None:
        """Raise for codes of another codebook."""
        if packed.spec != str(self.spec) or packed.version != self.version:
            raise ValueError(
                f"codes packed by {packed.spec!r} (version {packed.version}) cannot be read by "
                f"{str(self.spec)!r} (version {self.version}); build the codebook from packed.spec"
            )

    def _check_vectors(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Raise for input that cannot be encoded."""
        if not self.fitted:
            raise ValueError(f"{self.spec} has no table yet; call fit(x) first or load one")
        check_vectors(x, self.dim, str(self.spec))
        self._check_weight(x, weight)

    def _check_weight(self, x: Tensor, weight: Tensor | None) -> None:
        """Raise for a weight that does not fit x."""
        if weight is not None:
            pairs = zip(reversed(weight.shape), reversed(x.shape), strict=False)
            if weight.ndim > x.ndim or any(own not in (1, want) for own, want in pairs):
                raise ValueError(
                    f"{self.spec}: expected weight broadcastable to {tuple(x.shape)}, "
                    f"got {tuple(weight.shape)}"
                )
            if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
                raise ValueError(f"{self.spec}: weight must be finite and not negative")


def check_vectors(x: Tensor, dim: int, name: str) -> None:
    """Raise ValueError unless x is finite floating point of shape ``(*batch, dim)``."""
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != dim:
        raise ValueError(f"{name}: expected x of shape (*batch, {dim}), got {tuple(x.shape)}")
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        index = tuple(int(i) for i in (~finite).nonzero()[0])
        raise ValueError(f"{name}: x[{index}] is {float(x[index])}; expected finite numbers")
