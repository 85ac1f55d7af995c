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
)
