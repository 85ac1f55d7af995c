"""Codes of fixed width on a GPU, out of both layouts, and what they stand for."""

import triton
import triton.language as tl


@triton.jit
def _field(data, at, index, bytes_, inside, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Field ``index`` of ``BITS`` bits behind byte ``at``, lowest bit first; 0 outside."""
    begin = index * BITS
    place = at + (begin >> 3)
    code = tl.load(data + place, mask=inside, other=0).to(tl.int32)
    for more in tl.static_range(1, BYTES):
        here = inside & (place + more < bytes_)
        code |= tl.load(data + place + more, mask=here, other=0).to(tl.int32) << (8 * more)
    return (code >> (begin & 7).to(tl.int32)) & ((1 << BITS) - 1)


@triton.jit
def _nibble(data, at, line, stored, inside):
    """Half a byte of a row: those of the upper half of the rows are the high ones."""
    half = stored // 2
    upper = line >= half
    byte = tl.load(data + at + tl.where(upper, line - half, line), mask=inside, other=0)
    return (byte.to(tl.int32) >> tl.where(upper, 4, 0)) & 15


@triton.jit
def row_code(data, row, codes, j, bytes_, inside, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Code j of a row of layout 1, where rows of ``codes`` codes follow each other without gaps."""
    return _field(data, 0, row.to(tl.int64) * codes + j, bytes_, inside, BITS, BYTES)


@triton.jit
def panel_code(
    data, row, stored, codes, j, bytes_, inside,
    BITS: tl.constexpr, BYTES: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Code j of a row of layout 4: panels of 64 rows, in them units of ``FOLD`` codes, in them the rows.

    ``stored`` is the number of rows of this panel in memory.
    """
    unit, k, line = j // FOLD, j % FOLD, row % 64
    at = (row // 64).to(tl.int64) * ((codes + FOLD - 1) // FOLD) * (8 * FOLD * BITS)
    at += unit * (stored * (FOLD * BITS) // 8)
    if BITS == 3:
        low = tl.load(data + at + line, mask=inside, other=0).to(tl.int32) >> (2 * k) & 3
        code = low | (_nibble(data, at + stored, line, stored, inside) >> k & 1) << 2
    elif BITS <= 4:
        code = _nibble(data, at, line, stored, inside) >> (k * BITS) & ((1 << BITS) - 1)
    elif BITS <= 8:
        code = _field(data, at, line, bytes_, inside, BITS, BYTES)
    else:
        low = tl.load(data + at + line, mask=inside, other=0).to(tl.int32)
        code = low | _field(data, at + stored, line, bytes_, inside, BITS - 8, BYTES) << 8
    return code


@triton.jit
def e8p_value(code, magnitudes, d: tl.constexpr):
    """Coordinate d of an E8P point in units of its step: a signed half-integer, moved by a quarter.

    A byte of the table is a magnitude plus 3.5, or the negative of one for a last coordinate whose sign the parity of
    the pattern turns; a sign bit exchanges a number and its negative by an XOR with 7. Bits 8 to 14 of the code are
    signs, their parity is the last one, bit 15 is the move.
    """
    word = tl.load(magnitudes + (code & 255) * 2 + d // 4)
    if d < 7:
        minus = (code >> (8 + d)) & 1
    else:
        signs = (code >> 8) & 127
        signs ^= signs >> 4
        signs ^= signs >> 2
        minus = (signs ^ (signs >> 1)) & 1
    size = ((word >> (8 * (d % 4))) & 7) ^ (7 * minus)
    return size.to(tl.float32) - 3.5 + tl.where(code >> 15 == 1, 0.25, -0.25)


@triton.jit
def code_at(
    data, row, stored, codes, j, bytes_, inside,
    BITS: tl.constexpr, BYTES: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Code j of a row, of layout 1 (``FOLD`` 0) or 4."""
    if FOLD == 0:
        return row_code(data, row, codes, j, bytes_, inside, BITS, BYTES)
    else:
        return panel_code(data, row, stored, codes, j, bytes_, inside, BITS, BYTES, FOLD)


@triton.jit
def coordinate(
    data, row, stored, codes, vector, bytes_, inside, table, entries, d: tl.constexpr,
    BITS: tl.constexpr, BYTES: tl.constexpr, FOLD: tl.constexpr,
    DIM: tl.constexpr, SUM: tl.constexpr, APART: tl.constexpr, E8P: tl.constexpr,
):  # fmt: skip
    """Coordinate d of vectors: the sum of ``SUM`` entries, each of its own table, or one of ``APART`` tables in turn.

    The compiler sees that the codes are the same for every d and loads them once. A code beyond the table, which only
    a damaged file holds, reads the last entry.
    """
    if E8P:
        code = code_at(data, row, stored, codes, vector, bytes_, inside, BITS, BYTES, FOLD)
        value = e8p_value(code, table, d)
    else:
        value = 0.0
        for part in tl.static_range(SUM):
            j = vector * SUM + part
            code = code_at(data, row, stored, codes, j, bytes_, inside, BITS, BYTES, FOLD)
            place = (part + vector % APART) * entries + tl.minimum(code, entries - 1)
            value += tl.load(table + place * DIM + d).to(tl.float32)
    return value
