"""Codebook primitives: fit, encode, decode, pack; one file per family, registered by name."""

from vq.codebooks.additive import Additive
from vq.codebooks.base import Codebook
from vq.codebooks.ecsq import ECSQ
from vq.codebooks.factorized import Factorized
from vq.codebooks.floats import Dynamic8, MiniFloat
from vq.codebooks.frozen import Frozen
from vq.codebooks.grids import NormalFloat, Power, PowersOfTwo, Uniform
from vq.codebooks.implicit import BSQ, FSQ, LFQ
from vq.codebooks.kmeans import KMeans
from vq.codebooks.latent import Latent
from vq.codebooks.lattice_ball import E8, Dn, Zn
from vq.codebooks.lattice_e8p import E8P
from vq.codebooks.lattice_leech import Leech
from vq.codebooks.packing import PackedCodes
from vq.codebooks.product import Product
from vq.codebooks.pvq import PVQ
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.residual import Residual
from vq.codebooks.scalar import Scalar
from vq.codebooks.simvq import SimVQ
from vq.codebooks.spec import Spec
from vq.codebooks.split import Split
from vq.codebooks.ternary import Binary, Ternary
from vq.codebooks.trellis import Trellis
from vq.kernels.layouts import pack_rows, unpack_rows

__all__ = [
    "BSQ",
    "E8",
    "E8P",
    "ECSQ",
    "FAMILIES",
    "FSQ",
    "LFQ",
    "PVQ",
    "Additive",
    "Binary",
    "Codebook",
    "Dn",
    "Dynamic8",
    "Factorized",
    "Frozen",
    "KMeans",
    "Latent",
    "Leech",
    "MiniFloat",
    "NormalFloat",
    "PackedCodes",
    "Power",
    "PowersOfTwo",
    "Product",
    "Residual",
    "Scalar",
    "SimVQ",
    "Spec",
    "Split",
    "Ternary",
    "Trellis",
    "Uniform",
    "Zn",
    "build",
    "pack_rows",
    "register",
    "unpack_rows",
]
