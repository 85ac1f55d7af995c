"""Trainable layers over the codebooks of this library."""

from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.registry import KINDS, make, register
from vq.quantizers.vector import VectorQuantizer

__all__ = ["KINDS", "Quantized", "Quantizer", "VectorQuantizer", "make", "register"]
