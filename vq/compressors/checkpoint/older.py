"""Folders whose packed weights have an older layout than new layers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vq.compressors.files.tensorfile import TensorEntry, read_header
from vq.compressors.layers.linear import QuantizedLinear
from vq.errors import VqError
from vq.kernels.formats import HEADER_BYTES, PackedHeader


def adopt_stored(model: nn.Module, files: list[Path]) -> None:
    """Give the packed layers of a model, still without weights, the layouts that the files hold.

    Raises:
        VqError: for a weight of another size or codebook than its layer.
    """
    stored: dict[str, TensorEntry] = {}
    for file in files:
        stored.update(read_header(file)[0])
    prefix = getattr(model, "base_model_prefix", "")
    for name, layer in model.named_modules():
        if not isinstance(layer, QuantizedLinear):
            continue
        entry = stored.get(f"{name}.weight") or stored.get(f"{prefix}.{name}.weight")
        if entry is None or entry.shape == tuple(layer.weight.shape):
            continue
        with entry.path.open("rb") as stream:
            stream.seek(entry.start)
            front = stream.read(HEADER_BYTES)
        try:
            layer.adopt(PackedHeader.from_bytes(front))
        except ValueError as error:
            raise VqError(f"tensor {name}.weight: {error}") from error
