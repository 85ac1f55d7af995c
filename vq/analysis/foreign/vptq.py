"""One layer of VPTQ: main, residual and outlier tables, packed indices, permutation, scale and bias of the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vq.analysis.foreign.files import Tensors
from vq.analysis.subject import Layer
from vq.errors import VqError

_PARTS = ("indices", "res_indices", "outlier_indices", "centroids.weight", "res_centroids.weight",
          "outlier_centroids.weight", "perm", "weight_scale", "weight_bias")  # fmt: skip
_NEEDED = ("in_features", "out_features", "vector_lens", "num_centroids", "num_res_centroids",
           "group_num", "group_size", "outlier_size")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Coded:
    """Vectors of some columns: table ``(books, entries, dim)``, codes ``(books, rows / dim, columns)``."""

    table: Tensor
    codes: Tensor

    def matrix(self, out: int) -> Tensor:
        """Values (out, columns): a vector runs down the rows of one column."""
        columns = []
        for book, codes in zip(self.table, self.codes, strict=True):
            columns.append(book[codes].transpose(1, 2).reshape(-1, codes.shape[1])[:out])
        return torch.cat(columns, 1)


def vptq_layer(
    tensors: Tensors, at: str, about: Mapping[str, Any]
) -> tuple[Layer, list[tuple[str, Tensor, np.ndarray]]]:
    """A layer, and for each of its tables name, values and the codes that use it.

    Args:
        tensors: of the model.
        at: prefix of the layer.
        about: ``quantization_config`` with ``config_for_layers``, which alone tells the length of the vectors.

    Raises:
        VqError: without the layer's configuration, or for shapes that do not fit it.
    """
    name = at.rstrip(".") or tensors.path.stem
    args = _args(tensors, name, about)
    try:
        main, residual, outlier = _read(tensors, at, args)
    except (RuntimeError, IndexError) as error:
        raise VqError(
            f"{tensors.path}: {name}: does not fit its configuration ({error})"
        ) from error
    out = int(args["out_features"])

    def units() -> Tensor:
        """The matrix before permutation and scale of its inputs, float32 ``(out, in)``."""
        values = main.matrix(out)
        if residual is not None:
            values = values + residual.matrix(out)
        return values if outlier is None else torch.cat([outlier.matrix(out), values], 1)

    def dense() -> Tensor:
        """The matrix the layer multiplies by, float32 ``(out, in)``."""
        values = units()
        if f"{at}perm" in tensors:
            values = values[:, torch.argsort(_unsigned(tensors.get(f"{at}perm")))]
        if f"{at}weight_scale" in tensors:
            values = values * tensors.floats(f"{at}weight_scale") + tensors.floats(
                f"{at}weight_bias"
            )
        return values

    bits = _bits(tensors, at)
    spec = f"VPTQ v{main.table.shape[2]}-k{main.table.shape[1]}"
    spec += "" if residual is None else f"-{residual.table.shape[1]}"
    layer = Layer(name, (out, int(args["in_features"])), spec, bits, {}, dense, units)
    named = {"": main, "residual": residual, "outliers": outlier}
    return layer, [row for word, part in named.items() for row in _tables(f"{name} {word}", part)]


def _tables(name: str, part: Coded | None) -> list[tuple[str, Tensor, np.ndarray]]:
    """Name, values and codes of each table of a part."""
    if part is None:
        return []
    numbers = range(len(part.table)) if len(part.table) > 1 else [""]
    names = [f"{name.strip()} {number}".strip() for number in numbers]
    codes = [each.reshape(-1).numpy() for each in part.codes]
    return list(zip(names, part.table, codes, strict=True))


def _bits(tensors: Tensors, at: str) -> dict[str, int]:
    bits = {}
    for part in _PARTS:
        if f"{at}{part}" in tensors:
            stored = tensors.get(f"{at}{part}")
            bits[part.removesuffix(".weight")] = 8 * stored.numel() * stored.element_size()
    return bits


def _args(tensors: Tensors, name: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
    layers = about.get("config_for_layers")
    args = layers.get(name) if isinstance(layers, Mapping) else None
    if not isinstance(args, Mapping) or any(key not in args for key in _NEEDED):
        raise VqError(
            f"{tensors.path}: {name}: the length of VPTQ's vectors stands in config.json, quantization_config, "
            f"config_for_layers ({', '.join(_NEEDED)}); put it beside the weights"
        )
    return args


def _read(
    tensors: Tensors, at: str, args: Mapping[str, Any]
) -> tuple[Coded, Coded | None, Coded | None]:
    books, columns, dim = (
        int(args["group_num"]),
        int(args["group_size"]),
        int(args["vector_lens"][1]),
    )
    table = tensors.floats(f"{at}centroids.weight").reshape(books, -1, dim)
    indices = tensors.get(f"{at}indices")
    rest = None
    if f"{at}res_centroids.weight" in tensors:
        rest = tensors.floats(f"{at}res_centroids.weight").reshape(books, -1, dim)
    if indices.dtype == torch.int32:
        low = math.ceil(math.log2(table.shape[1]))
        high = 0 if rest is None else math.ceil(math.log2(rest.shape[1]))
        words = unpack_words(indices, low + high, columns)
        codes, more = words & ((1 << low) - 1), words >> low
    else:
        codes = _unsigned(indices)
        more = codes if rest is None else _unsigned(tensors.get(f"{at}res_indices"))
    residual = None if rest is None else Coded(rest, _within(more, rest))
    outlier = None
    if f"{at}outlier_centroids.weight" in tensors:
        wide = tensors.floats(f"{at}outlier_centroids.weight")
        wide = wide.reshape(1, -1, int(args["vector_lens"][0]))
        outlier = Coded(wide, _within(_unsigned(tensors.get(f"{at}outlier_indices")), wide))
    return Coded(table, _within(codes, table)), residual, outlier


def _within(codes: Tensor, table: Tensor) -> Tensor:
    if codes.ndim != 3 or len(codes) != len(table) or int(codes.max()) >= table.shape[1]:
        raise IndexError(f"codes {tuple(codes.shape)} for tables {tuple(table.shape)}")
    return codes


def _unsigned(x: Tensor) -> Tensor:
    """16-bit integers are stored as signed ones."""
    return x.long() & 0xFFFF if x.element_size() == 2 else x.long()


def unpack_words(packed: Tensor, bits: int, count: int) -> Tensor:
    """Integers ``(..., count)`` of a stream of int32 words, least significant bits first."""
    stream = np.ascontiguousarray(packed.numpy()).astype("<i4").view(np.uint8)
    flat = np.unpackbits(stream, axis=-1, bitorder="little")[..., : bits * count]
    each = flat.reshape(*packed.shape[:-1], count, bits).astype(np.int64)
    return torch.from_numpy(each @ (1 << np.arange(bits)))
