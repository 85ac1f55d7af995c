"""Trainable layers over the codebooks of this library."""

from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.factorized import FactorizedQuantizer
from vq.quantizers.finite import (
    BinarySphericalQuantizer,
    FiniteScalarQuantizer,
    LatentScalarQuantizer,
    LookupFreeQuantizer,
)
from vq.quantizers.fixed import FixedQuantizer
from vq.quantizers.grouped import GroupedQuantizer
from vq.quantizers.ibq import IndexBackpropQuantizer
from vq.quantizers.multiscale import MultiscaleQuantizer
from vq.quantizers.registry import KINDS, make, register
from vq.quantizers.residual import ResidualQuantizer
from vq.quantizers.simvq import SimVectorQuantizer
from vq.quantizers.vector import VectorQuantizer

__all__ = [
    "KINDS",
    "BinarySphericalQuantizer",
    "FactorizedQuantizer",
    "FiniteScalarQuantizer",
    "FixedQuantizer",
    "GroupedQuantizer",
    "IndexBackpropQuantizer",
    "LatentScalarQuantizer",
    "LookupFreeQuantizer",
    "MultiscaleQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "SimVectorQuantizer",
    "VectorQuantizer",
    "make",
    "register",
]
