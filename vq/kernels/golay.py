"""The binary Golay code through the hexacode, in the coordinates of the Leech lattice kernels.

The 24 coordinates form six columns of four: coordinate ``4 * column + row``. The rows stand for the elements
0, 1, w, w^2 of GF(4). A set of coordinates is a codeword of the Golay code when all six columns and the top
row have the same parity, and the sums of the columns (of the rows' elements) form a word of the hexacode.

Reference:
    J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapter 11, sections 2 and 5.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

UInt8s = npt.NDArray[np.uint8]

_TIMES = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]], dtype=np.uint8)


@functools.cache
def hexacode() -> UInt8s:
    """The 64 words ``(64, 6)`` of the hexacode; 2 and 3 stand for w and w^2, addition is exclusive or.

    A word is ``(a, b, c, f(1), f(w), f(w^2))`` with ``f(x) = a x^2 + b x + c``.
    """
    words = []
    for number in range(64):
        a, b, c = number >> 4, number >> 2 & 3, number & 3
        values = [_TIMES[a, _TIMES[x, x]] ^ _TIMES[b, x] ^ c for x in (1, 2, 3)]
        words.append([a, b, c, *values])
    return np.array(words, dtype=np.uint8)


@functools.cache
def columns() -> UInt8s:
    """Column of four bits (bit r is row r) by parity, element and bit of row 0: uint8 ``(2, 4, 2)``."""
    table = np.zeros((2, 4, 2), dtype=np.uint8)
    for bits in range(16):
        row = [bits >> r & 1 for r in range(4)]
        element = row[1] * 1 ^ row[2] * 2 ^ row[3] * 3
        table[sum(row) & 1, element, row[0]] = bits
    return table


@functools.cache
def codewords() -> UInt8s:
    """All 4096 codewords ``(4096, 24)`` of 0 and 1, by weight (0, 8, 12, 16, 24), then as binary numbers."""
    words = []
    for parity in (0, 1):
        for word in hexacode():
            for top in range(64):
                rows = [top >> c & 1 for c in range(6)]
                if sum(rows) & 1 != parity:
                    continue
                found = [int(columns()[parity, word[c], rows[c]]) for c in range(6)]
                words.append([bits >> r & 1 for bits in found for r in range(4)])
    table = np.array(words, dtype=np.uint8)
    weight = table.sum(1)
    number = table.astype(np.int64) @ (1 << np.arange(24))
    return table[np.lexsort((number, weight))]
