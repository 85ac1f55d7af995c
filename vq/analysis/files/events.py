"""Scalars of TensorBoard event files, read without TensorBoard.

A file is a row of records: length (u64), checksum, data, checksum. A record's data is a protocol buffer message
``Event``; only its step and the scalar values of its summary are looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STEP, _SUMMARY, _VALUE, _TAG, _SIMPLE, _TENSOR = 2, 5, 1, 1, 2, 8
_FLOATS, _DOUBLES, _CONTENT, _DTYPE = 5, 6, 4, 1
_FLOAT, _DOUBLE = 1, 2


def read_events(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by name, pairs of step and value in the order of the file; a record that is cut short ends it."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in _records(path):
        step, summaries = 0, []
        for field, value in _fields(record):
            if field == _STEP and isinstance(value, int):
                step = value
            elif field == _SUMMARY and isinstance(value, bytes):
                summaries.append(value)
        for summary in summaries:
            for field, value in _fields(summary):
                if field == _VALUE and isinstance(value, bytes):
                    name, number = _scalar(value)
                    if number is not None:
                        found.setdefault(name, []).append((step, number))
    return found


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            (size,) = struct.unpack_from("<Q", head)
            data = file.read(size)
            if len(data) < size or len(file.read(4)) < 4:
                return
            yield data


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and raw value of each field of a message; ends where the bytes make no sense."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            return
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _scalar(data: bytes) -> tuple[str, float | None]:
    name, number = "", None
    for field, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if field == _TAG:
            name = value.decode("utf-8", "replace")
        elif field == _SIMPLE and len(value) == 4:
            number = float(struct.unpack("<f", value)[0])
        elif field == _TENSOR:
            number = _tensor(value)
    return name, number


def _tensor(data: bytes) -> float | None:
    """The number of a tensor of one."""
    kind, raw = 0, b""
    for field, value in _fields(data):
        if field == _DTYPE and isinstance(value, int):
            kind = value
        elif field in (_FLOATS, _DOUBLES, _CONTENT) and isinstance(value, bytes):
            raw = value
    form = {_FLOAT: "<f", _DOUBLE: "<d"}.get(kind)
    if form is None or len(raw) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, raw)[0])
