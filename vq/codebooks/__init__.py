"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.base import Codebook
from vq.codebooks.floats import Dynamic8, MiniFloat
from vq.codebooks.grids import NormalFloat, Power, PowersOfTwo, Uniform
from vq.codebooks.kmeans import KMeans
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.scalar import Scalar
from vq.codebooks.spec import Spec
from vq.codebooks.ternary import Binary, Ternary
from vq.codebooks.trellis import Trellis

__all__ = [
    "FAMILIES",
    "Binary",
    "Codebook",
    "Dynamic8",
    "KMeans",
    "MiniFloat",
    "NormalFloat",
    "PackedCodes",
    "Power",
    "PowersOfTwo",
    "Scalar",
    "Spec",
    "Ternary",
    "Trellis",
    "Uniform",
    "build",
    "register",
]
