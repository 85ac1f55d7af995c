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
SIMVQ = "simvq(dim=6, entries=32)"
CASES += [
    ("simvq", {"codebook": SIMVQ}),
    ("simvq", {"codebook": SIMVQ, "dim": 10, "estimator": "rotation"}),
    ("simvq", {"codebook": f"frozen(of={KMEANS}, dim=6)"}),
    ("ibq", {"codebook": KMEANS}),
    ("ibq", {"codebook": KMEANS, "dim": 10, "entropy": 0.05, "entropy_temperature": 0.5}),
]
