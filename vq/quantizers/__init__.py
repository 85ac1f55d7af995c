"""Trainable layers over the codebooks of this library."""

from vq.quantizers import finite, fixed
from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.ibq import IndexBackpropQuantizer
from vq.quantizers.registry import KINDS, make, register
from vq.quantizers.simvq import SimVectorQuantizer
from vq.quantizers.vector import VectorQuantizer

__all__ = [
    "KINDS",
    "IndexBackpropQuantizer",
    "Quantized",
    "Quantizer",
    "SimVectorQuantizer",
    "VectorQuantizer",
    "finite",
    "fixed",
    "make",
    "register",
]
