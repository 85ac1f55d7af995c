"""Every quantizer that has to keep the contract, ``(kind, config)``; test_contract.py runs over this list."""

from __future__ import annotations

from typing import Any

CASES: list[tuple[str, dict[str, Any]]] = []

# Quantizers over one table.
KMEANS = "kmeans(dim=6, entries=32, iterations=3)"
CASES += [
    ("vq", {"codebook": KMEANS}),
    ("vq", {"codebook": KMEANS, "learn": "gradient", "estimator": "rotation", "every": 1}),
    ("vq", {"codebook": KMEANS, "dim": 10, "every": 2, "decay": 0.5, "revival": 0.5}),
    ("vq", {"codebook": KMEANS, "dim": 10, "lookup": "cosine"}),
    ("vq", {"codebook": KMEANS, "dim": 3, "lookup": "angle", "learn": "gradient", "revival": 0}),
]
