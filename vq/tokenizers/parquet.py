"""Tokens as one Parquet file, for data frames and language-model trainers (needs pyarrow)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vq._files import atomic_file
from vq.errors import VqError
from vq.tokenizers.orders import TokenOrder
from vq.tokenizers.tokenreader import TokenReader

METADATA = b"vq-tokens"


def export_parquet(
    reader: TokenReader, path: str | Path, order: TokenOrder | None = None, batch: int = 256
) -> int:
    """Write one row per item: key, tokens, shape, size, gain.

    ``tokens`` is a list of int32 (int64 where the vocabulary needs it) in the given order. The file's metadata holds,
    as JSON under "vq-tokens", the code spec, the order, the special tokens and the offset of each stage, so that the
    codes can be made again. The file appears complete or not at all; equal tokens make equal files for one version of
    pyarrow.

    Args:
        reader: of the tokens.
        path: of the file.
        order: how codes become a sequence; interleaved without special tokens by default.
        batch: rows of a row group, which is what is held in memory.

    Returns:
        Number of rows.

    Raises:
        VqError: if pyarrow is not installed.
        ValueError: if the order is made for other codes.
    """
    arrow, parquet = _pyarrow()
    order = order or TokenOrder(reader.spec)
    if order.spec != reader.spec:
        raise ValueError(f"order: made for other codes: {order.spec.difference(reader.spec)}")
    if batch < 1:
        raise ValueError(f"batch: expected a positive number, got {batch}")
    schema = _schema(arrow, order)
    with atomic_file(Path(path)) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(reader), batch):
            rows = [_row(reader, n, order) for n in range(start, min(start + batch, len(reader)))]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
    return len(reader)


def _row(reader: TokenReader, number: int, order: TokenOrder) -> dict[str, Any]:
    item = reader.item(number)
    return {
        "key": item.key,
        "tokens": order.to_sequence(reader.codes(number)).numpy(),
        "shape": item.shape,
        "size": item.size,
        "gain": item.gain,
    }


def _schema(arrow: Any, order: TokenOrder) -> Any:
    wide = order.vocabulary > 2**31
    described = {
        "spec": order.spec.to_dict(),
        "order": order.order,
        "special": list(order.special),
        "offsets": list(order.offsets),
        "vocabulary": order.vocabulary,
    }
    fields = {
        "key": arrow.string(),
        "tokens": arrow.list_(arrow.int64() if wide else arrow.int32()),
        "shape": arrow.list_(arrow.int32()),
        "size": arrow.list_(arrow.int64()),
        "gain": arrow.float64(),
    }
    return arrow.schema(list(fields.items()), metadata={METADATA: json.dumps(described).encode()})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VqError("Parquet needs pyarrow: pip install 'vq-toolkit[parquet]'") from error
    return pyarrow, pyarrow.parquet
