"""The codebooks that ``vq codebooks`` lists and ``vq bench gaussian`` measures."""

from __future__ import annotations

CATALOGUE = (
    "scalar(bits=1)",
    "scalar(bits=2)",
    "scalar(bits=3)",
    "scalar(bits=4)",
    "kmeans(dim=2, entries=16)",
    "kmeans(dim=4, entries=256)",
    "kmeans(dim=8, entries=256)",
    "kmeans(dim=8, entries=4096)",
    "trellis(bits=2, memory=6, code=lut)",
    "trellis(bits=2, memory=8, code=lut)",
    "trellis(bits=2, memory=10, code=lut)",
    "trellis(bits=2, memory=10, code=hash)",
    "trellis(bits=2, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=lut)",
    "trellis(bits=2, memory=14, code=hash)",
    "trellis(bits=2, memory=16, code=hash)",
    "trellis(bits=2, memory=16, code=lut)",
    "trellis(bits=1, memory=12, code=lut)",
    "trellis(bits=1.5, memory=12, code=hash)",
    "trellis(bits=3, memory=12, code=lut)",
    "trellis(bits=4, memory=12, code=lut)",
)
