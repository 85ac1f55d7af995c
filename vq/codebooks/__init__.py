"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.base import Codebook
from vq.codebooks.kmeans import KMeans
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.scalar import Scalar
from vq.codebooks.spec import Spec
from vq.codebooks.trellis import Trellis

__all__ = [
    "FAMILIES",
    "Codebook",
    "KMeans",
    "PackedCodes",
    "Scalar",
    "Spec",
    "Trellis",
    "build",
    "register",
]
