"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.base import Codebook
from vq.codebooks.kmeans import KMeans
from vq.codebooks.lattice_ball import E8, Dn, Zn
from vq.codebooks.lattice_e8p import E8P
from vq.codebooks.lattice_leech import Leech
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.scalar import Scalar
from vq.codebooks.spec import Spec
from vq.codebooks.trellis import Trellis

__all__ = [
    "E8",
    "E8P",
    "FAMILIES",
    "Codebook",
    "Dn",
    "KMeans",
    "Leech",
    "PackedCodes",
    "Scalar",
    "Spec",
    "Trellis",
    "Zn",
    "build",
    "register",
]
