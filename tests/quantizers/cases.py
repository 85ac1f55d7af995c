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

# Quantizers of numbers side by side, and any codebook as it is.
CASES += [
    ("fsq", {"levels": [8, 5, 2, 4]}),
    ("fsq", {"levels": [7, 4, 3], "dim": 5, "normalise": True, "decay": 0.5}),
    ("lfq", {"bits": 11, "temperature": 0.5}),
    ("lfq", {"bits": 4, "dim": 6, "normalise": True}),
    ("bsq", {"bits": 18, "temperature": 0.1, "commitment": 0.1}),
    ("latent", {"dim": 4, "levels": 5}),
    ("latent", {"dim": 6, "latents": 3, "levels": 4}),
    ("fixed", {"codebook": "e8(bits=2)", "dim": 16}),
    ("fixed", {"codebook": "pvq(dim=4, pulses=5, gain_bits=2)", "scale": "learned"}),
    ("fixed", {"codebook": "scalar(bits=2)", "dim": 5, "inner": 3, "estimator": "rotation"}),
    ("fixed", {"codebook": f"residual(stages=2, of={KMEANS}, beam=4)", "scale": "fixed"}),
]

# Quantizers made of others.
VQ = {"kind": "vq", "codebook": KMEANS}
FSQ6 = {"kind": "fsq", "levels": [5, 5, 5], "dim": 6, "normalise": True}
CASES += [
    ("residual", {"of": VQ, "stages": 3, "dropout": 0.5}),
    (
        "residual",
        {"of": [VQ, FSQ6, {"kind": "fixed", "codebook": "dn(dim=3, bits=2, step=1)", "dim": 6}]},
    ),
    ("residual", {"of": {**FSQ6, "levels": [3] * 6}, "stages": 2, "estimator": "rotation"}),
    ("grouped", {"of": [VQ, FSQ6]}),
    (
        "grouped",
        {
            "of": {"kind": "residual", "of": {"kind": "simvq", "codebook": SIMVQ}, "stages": 2},
            "groups": 2,
        },
    ),
    ("grouped", {"of": [VQ, {"kind": "residual", "of": VQ, "stages": 2, "dropout": 1.0}]}),
    ("multiscale", {"of": VQ, "strides": [4, 2, 1], "dropout": 0.5}),
    ("multiscale", {"of": [FSQ6, {"kind": "residual", "of": VQ, "stages": 2}], "strides": [3, 1]}),
    ("factorized", {"of": VQ, "dim": 7, "heads": 2}),
    ("factorized", {"of": [VQ, FSQ6], "dim": 8, "hidden": 12, "teachers": [None, 5]}),
]
