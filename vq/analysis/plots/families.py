"""Rate and distortion on N(0, 1) of the codebooks of the catalogue, by kind."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from vq.codebooks import build
from vq.codebooks.catalogue import CATALOGUE

KINDS = {
    "numbers one by one": (
        "scalar uniform nf power minifloat pow2 binary ternary dynamic8 fsq lfq bsq latent"
    ),
    "k-means and sums of it": "kmeans product factorized residual additive simvq frozen",
    "lattices and pyramids": "zn dn e8 e8p leech pvq",
    "trellises": "trellis split",
    "entropy coded": "ecsq",
}
_KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}
_OTHER = "others"


@dataclass(frozen=True)
class Family:
    """One codebook of the catalogue.

    Attributes:
        spec: as text.
        kind: of ``KINDS``, or "others".
        rate: bits a number.
        distortion: mean squared error on N(0, 1), a closed form or the figure shipped with the table.
    """

    spec: str
    kind: str
    rate: float
    distortion: float


def kind_of(spec: str) -> str:
    """Kind of a codebook by its name; sums of trellises are trellises."""
    name = spec.partition("(")[0]
    if name == "residual" and "trellis" in spec:
        name = "trellis"
    return _KIND.get(name, _OTHER)


@functools.cache
def families() -> tuple[Family, ...]:
    """All with a known distortion."""
    found = []
    for spec in CATALOGUE:
        book = build(spec)
        if book.distortion is not None and book.distortion > 0:
            found.append(Family(spec, kind_of(spec), float(book.rate), float(book.distortion)))
    return tuple(found)
