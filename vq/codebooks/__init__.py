"""Codebook primitives: fit, encode, decode, pack. One file per family, all of them registered by name."""

from vq.codebooks.base import Codebook
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import FAMILIES, build, register
from vq.codebooks.spec import Spec

__all__ = ["FAMILIES", "Codebook", "PackedCodes", "Spec", "build", "register"]
