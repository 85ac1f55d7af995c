"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.additive import Additive
from vq.codebooks.base import Codebook
from vq.codebooks.factorized import Factorized
from vq.codebooks.frozen import Frozen
from vq.codebooks.kmeans import KMeans
from vq.codebooks.lattice_ball import E8, Dn, Zn
from vq.codebooks.lattice_e8p import E8P
from vq.codebooks.lattice_leech import Leech
from vq.codebooks.packing import PackedCodes
from vq.codebooks.product import Product
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.residual import Residual
from vq.codebooks.scalar import Scalar
from vq.codebooks.simvq import SimVQ
from vq.codebooks.spec import Spec
from vq.codebooks.trellis import Trellis

__all__ = [
    "E8",
    "E8P",
    "FAMILIES",
    "Additive",
    "Codebook",
    "Dn",
    "Factorized",
    "Frozen",
    "KMeans",
    "Leech",
    "PackedCodes",
    "Product",
    "Residual",
    "Scalar",
    "SimVQ",
    "Spec",
    "Trellis",
    "Zn",
    "build",
    "register",
]
