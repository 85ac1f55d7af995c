"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.base import Codebook
from vq.codebooks.ecsq import ECSQ
from vq.codebooks.floats import Dynamic8, MiniFloat
from vq.codebooks.grids import NormalFloat, Power, PowersOfTwo, Uniform
from vq.codebooks.implicit import BSQ, FSQ, LFQ
from vq.codebooks.kmeans import KMeans
from vq.codebooks.latent import Latent
from vq.codebooks.packing import PackedCodes
from vq.codebooks.pvq import PVQ
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.scalar import Scalar
from vq.codebooks.spec import Spec
from vq.codebooks.ternary import Binary, Ternary
from vq.codebooks.trellis import Trellis

__all__ = [
    "BSQ",
    "ECSQ",
    "FAMILIES",
    "FSQ",
    "LFQ",
    "PVQ",
    "Binary",
    "Codebook",
    "Dynamic8",
    "KMeans",
    "Latent",
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
