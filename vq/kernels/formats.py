"""The packed tensor of a linear layer: 64 bytes of header, then the payload (docs/format.md)."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields

import numpy as np
import torch
from torch import Tensor

MAGIC = b"VQPK"
VERSION = 1
HEADER_BYTES = 64
ROWS, TILES, BLOCKS, PANELS = 1, 2, 3, 4  # the layouts
TABLE_CODE, HASH_CODE, E8P_CODE = 0, 1, 2
TILE_ROWS, TILE_COLUMNS, TILE_WEIGHTS = 64, 4, 256
GROUP = 8  # tiles whose words are interleaved
PANEL_ROWS = 64  # rows of a panel of layout 4
PANEL_BITS = 16  # the widest code of layout 4
SCALE_COLUMNS = 32  # columns that share a scale are a multiple of these

_STRUCT = struct.Struct("<4sHHIIHHHHHHIQIfHH12x")


@dataclass(frozen=True)
class PackedHeader:
    """Header of a packed weight; every field is one of docs/format.md.

    Attributes:
        layout: ROWS (fixed-width codes), TILES (trellis), BLOCKS (fixed-width codes of several rows) or PANELS
            (fixed-width codes in the order of the kernels).
        out_features: rows of the matrix.
        in_features: columns of the matrix.
        code_bits: bits of one code; for a trellis, of one step.
        dim: weights of one code vector; 256 for a trellis.
        memory: bits of a trellis state, else 0.
        symbols: weights of one trellis step, else 0.
        code: TABLE_CODE, HASH_CODE or E8P_CODE.
        codes_per_vector: 1; stages of a residual codebook; steps of a trellis.
        hash_constant: multiplier of the hash code, else 0.
        step: value of one integer level of the hash code, unit of E8P's coordinates, else 0.
        tile_rows: rows of the matrix that a code vector covers in layout BLOCKS, else 1.
        scale_group: columns that share a scale in a row (layout PANELS); 0: a row has one scale.
        crc: CRC-32 of the payload.
    """

    layout: int
    out_features: int
    in_features: int
    code_bits: int
    dim: int
    memory: int = 0
    symbols: int = 0
    code: int = TABLE_CODE
    codes_per_vector: int = 1
    hash_constant: int = 0
    step: float = 0.0
    tile_rows: int = 1
    scale_group: int = 0
    crc: int = 0

    def __post_init__(self) -> None:
        _check_fields(self)
        # the file stores float32: keep the number that will be read back
        object.__setattr__(self, "step", float(np.float32(self.step)))

    @property
    def vectors_per_row(self) -> int:
        """Code vectors of one row (layout ROWS) or one band of rows (BLOCKS)."""
        return -(-self.in_features // (self.dim // self.tile_rows))

    @property
    def bands(self) -> int:
        """Bands of 64 rows (layout TILES) or ``tile_rows`` (the others)."""
        return -(-self.out_features // (TILE_ROWS if self.layout == TILES else self.tile_rows))

    @property
    def blocks(self) -> int:
        """Tiles of one band, four columns each (layout TILES)."""
        return -(-self.in_features // TILE_COLUMNS)

    @property
    def words(self) -> int:
        """64-bit words of one tile (layout TILES)."""
        return self.codes_per_vector * self.code_bits // 64

    @property
    def codes_per_row(self) -> int:
        """Codes of one row (layouts ROWS and PANELS)."""
        return self.vectors_per_row * self.codes_per_vector

    @property
    def fold(self) -> int:
        """Codes of a row that are stored as one unit (layout PANELS)."""
        return {1: 4, 2: 2, 3: 4}.get(self.code_bits, 1)

    @property
    def units(self) -> int:
        """Units of one row (layout PANELS)."""
        return -(-self.codes_per_row // self.fold)

    def panel_bytes(self, rows: int) -> int:
        """Bytes of a panel of ``rows`` rows, a multiple of 8 (layout PANELS)."""
        return self.units * rows * self.fold * self.code_bits // 8

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """Shape of the scales: a row's, or a row's and a group of columns'."""
        if not self.scale_group:
            return (self.out_features,)
        return (self.out_features, -(-self.in_features // self.scale_group))

    @property
    def payload_bytes(self) -> int:
        """Bytes after the header."""
        if self.layout == TILES:
            return self.bands * self.blocks * self.words * 8
        if self.layout == PANELS:
            return self.panel_bytes(-(-self.out_features // 8) * 8)
        codes = self.bands * self.vectors_per_row * self.codes_per_vector
        return (codes * self.code_bits + 7) // 8

    @property
    def total_bytes(self) -> int:
        """Bytes of header and payload."""
        return HEADER_BYTES + self.payload_bytes

    def same_format(self, other: PackedHeader) -> bool:
        """Whether all fields but the checksum agree."""
        return replace(self, crc=0) == replace(other, crc=0)

    def to_bytes(self) -> bytes:
        """The 64 bytes of the file."""
        return _STRUCT.pack(
            MAGIC,
            VERSION,
            self.layout,
            self.out_features,
            self.in_features,
            self.code_bits,
            self.dim,
            self.memory,
            self.symbols,
            self.code,
            self.codes_per_vector,
            self.hash_constant,
            self.payload_bytes,
            self.crc,
            self.step,
            self.tile_rows if self.layout == BLOCKS else 0,
            self.scale_group,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> PackedHeader:
        """Read a header; the payload is not looked at (see ``read_packed``).

        Raises:
            ValueError: if the bytes are no header, or of another version, or contradict themselves.
        """
        if len(data) < HEADER_BYTES:
            raise ValueError(
                f"packed weight cut short: expected a header of {HEADER_BYTES} bytes, "
                f"got {len(data)}"
            )
        magic, version, *fields = _STRUCT.unpack(data[:HEADER_BYTES])
        if magic != MAGIC:
            raise ValueError(f"not a packed weight: expected the magic {MAGIC!r}, got {magic!r}")
        if version != VERSION:
            fix = "upgrade vq-toolkit" if version > VERSION else "pack the weight again"
            raise ValueError(
                f"packed weight of format version {version}, this library reads version "
                f"{VERSION}: {fix}"
            )
        payload_bytes, crc, step, tile_rows, scale_group = fields[10:]
        names = [field.name for field in dataclass_fields(cls)][:10]
        known = dict(zip(names, fields[:10], strict=True))
        more = {"tile_rows": max(1, tile_rows), "scale_group": scale_group}
        header = cls(**known, crc=crc, step=step, **more)
        if header.payload_bytes != payload_bytes:
            raise ValueError(
                f"packed weight is corrupted: its header promises {payload_bytes} bytes of "
                f"payload, its fields need {header.payload_bytes}"
            )
        return header


def assemble(header: PackedHeader, payload: Tensor) -> Tensor:
    """Header and payload in one uint8 tensor ``(64 + payload,)``, with the checksum filled in.

    Raises:
        ValueError: if the payload has another size than the header's fields ask for.
    """
    if payload.dtype != torch.uint8 or payload.numel() != header.payload_bytes:
        raise ValueError(
            f"payload: expected {header.payload_bytes} bytes (uint8), "
            f"got {payload.numel()} of {payload.dtype}"
        )
    flat = payload.reshape(-1).cpu().contiguous()
    sealed = replace(header, crc=zlib.crc32(flat.numpy().data))
    front = torch.frombuffer(bytearray(sealed.to_bytes()), dtype=torch.uint8)
    return torch.cat([front, flat])


def read_header(weight: Tensor) -> PackedHeader:
    """Header of a packed weight, checked against the tensor's size but not its checksum.

    Raises:
        ValueError: as ``PackedHeader.from_bytes``, or if the tensor has another length.
    """
    if weight.dtype != torch.uint8 or weight.ndim != 1:
        raise ValueError(
            f"packed weight: expected uint8 of one dimension, got {weight.dtype} of shape "
            f"{tuple(weight.shape)}"
        )
    header = PackedHeader.from_bytes(weight[:HEADER_BYTES].cpu().numpy().tobytes())
    if weight.numel() != header.total_bytes:
        raise ValueError(
            f"packed weight cut short or too long: expected {header.total_bytes} bytes for "
            f"{header.out_features}x{header.in_features}, got {weight.numel()}"
        )
    return header


def read_packed(weight: Tensor) -> PackedHeader:
    """Header of a packed weight after checking size and checksum.

    Raises:
        ValueError: as ``read_header``, or if the payload is corrupted.
    """
    header = read_header(weight)
    found = zlib.crc32(weight[HEADER_BYTES:].cpu().contiguous().numpy().data)
    if found != header.crc:
        raise ValueError(
            f"packed weight is corrupted: CRC-32 of the payload is {found:#010x}, the header "
            f"says {header.crc:#010x}; get the file again"
        )
    return header


def _check_fields(header: PackedHeader) -> None:
    """Raise ValueError unless the fields describe a format that exists."""
    if header.layout not in (ROWS, TILES, BLOCKS, PANELS):
        raise ValueError(f"packed weight: unknown layout {header.layout}, expected 1 to 4")
    if header.out_features < 1 or header.in_features < 1:
        raise ValueError(
            f"packed weight: expected positive sizes, got out={header.out_features}, "
            f"in={header.in_features}"
        )
    if not 1 <= header.code_bits <= 62 or header.dim < 1 or header.codes_per_vector < 1:
        raise ValueError(
            "packed weight: expected codes of 1 to 62 bits and at least one code and one weight a "
            f"vector, got {header.code_bits} bits, dim={header.dim}, "
            f"codes_per_vector={header.codes_per_vector}"
        )
    several = header.layout == BLOCKS
    if header.tile_rows < 1 or (header.tile_rows > 1) != several or header.dim % header.tile_rows:
        raise ValueError(
            "packed weight: expected vectors of several rows in layout 3 (dim a multiple of them) and of one row in "
            f"the others, got layout={header.layout}, tile_rows={header.tile_rows}, dim={header.dim}"
        )
    if header.layout == TILES:
        _check_trellis(header)
    if header.layout == PANELS:
        _check_panels(header)
    if header.scale_group:
        _check_scale_group(header)


def _check_panels(header: PackedHeader) -> None:
    """Raise ValueError unless the fields describe codes that layout 4 can hold."""
    if header.code_bits > PANEL_BITS:
        raise ValueError(
            f"packed panels: expected codes of at most {PANEL_BITS} bits, got {header.code_bits}"
        )
    e8p = (header.code_bits, header.dim, header.codes_per_vector) == (16, 8, 1) and header.step > 0
    if header.code not in (TABLE_CODE, E8P_CODE) or (header.code == E8P_CODE and not e8p):
        raise ValueError(
            f"packed panels: expected the code of a table (0), or of E8P (2) with 16 bits, dim 8 and a step, got code="
            f"{header.code}, code_bits={header.code_bits}, dim={header.dim}, step={header.step}"
        )


def _check_scale_group(header: PackedHeader) -> None:
    """Raise ValueError unless columns may share scales: layout 4, and groups of whole units."""
    if header.layout != PANELS:
        raise ValueError(
            f"scales of groups of columns: expected codes of tables that can be listed (layout {PANELS}), got layout "
            f"{header.layout}; take a codebook such as scalar(bits=4), kmeans(dim=4, entries=256) or e8p, or one "
            "scale a row (group 0)"
        )
    dim, codes = header.dim, header.fold // math.gcd(header.fold, header.codes_per_vector)
    step = math.lcm(SCALE_COLUMNS, dim * codes)
    if header.scale_group % step or not 0 < header.scale_group < 1 << 16:
        raise ValueError(
            f"scales of groups of columns: expected groups of a multiple of {step} columns and fewer than 65536 for "
            f"codes of {header.code_bits} bits and dim {dim}, got {header.scale_group}; take {step} or {4 * step}"
        )


def _check_trellis(header: PackedHeader) -> None:
    """Raise ValueError unless the fields describe a trellis the decoders know."""
    symbols, steps = header.symbols, header.codes_per_vector
    if header.dim != TILE_WEIGHTS or symbols < 1 or steps * symbols != TILE_WEIGHTS:
        raise ValueError(
            f"packed trellis: expected dim 256 and 256 / symbols steps, got dim={header.dim}, "
            f"symbols={symbols}, steps={steps}"
        )
    if steps * header.code_bits % 64:
        raise ValueError(
            f"packed trellis: {header.code_bits} bits a step do not fill whole 64-bit words; "
            f"expected a multiple of symbols / 4 = {symbols / 4}"
        )
    if not max(header.code_bits, 1) <= header.memory <= 16:
        raise ValueError(
            f"packed trellis: expected a memory from {header.code_bits} (bits of a step) to 16, "
            f"got {header.memory}"
        )
    if header.code not in (TABLE_CODE, HASH_CODE):
        raise ValueError(f"packed trellis: unknown code {header.code}, expected 0 or 1")
    if header.code == HASH_CODE and (symbols != 2 or not 0 < header.hash_constant < 2**16):
        raise ValueError(
            "packed trellis: the hash code needs two symbols a step and a 16-bit constant, got "
            f"symbols={symbols}, hash_constant={header.hash_constant}"
        )
