"""Trainable layers over the codebooks of this library."""

from vq.quantizers import finite, fixed
from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.registry import KINDS, make, register

__all__ = ["KINDS", "Quantized", "Quantizer", "finite", "fixed", "make", "register"]
