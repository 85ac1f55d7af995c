"""Trainable layers over the codebooks of this library."""

from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.finite import (
    BinarySphericalQuantizer,
    FiniteScalarQuantizer,
    LatentScalarQuantizer,
    LookupFreeQuantizer,
)
from vq.quantizers.fixed import FixedQuantizer
from vq.quantizers.ibq import IndexBackpropQuantizer
from vq.quantizers.registry import KINDS, make, register
from vq.quantizers.simvq import SimVectorQuantizer
from vq.quantizers.vector import VectorQuantizer

__all__ = [
    "KINDS",
    "BinarySphericalQuantizer",
    "FiniteScalarQuantizer",
    "FixedQuantizer",
    "IndexBackpropQuantizer",
    "LatentScalarQuantizer",
    "LookupFreeQuantizer",
    "Quantized",
    "Quantizer",
    "SimVectorQuantizer",
    "VectorQuantizer",
    "finite",
    "fixed",
    "make",
    "register",
]
