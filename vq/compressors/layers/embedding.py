"""Embeddings in packed codes, and the head that is tied to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.layers.linear import QuantizedLinear
from vq.errors import VqError
from vq.kernels.formats import PANELS
from vq.kernels.rows import packed_rows


class QuantizedEmbedding(QuantizedLinear):
    """A table of embeddings in packed codes; only the rows that are asked for are decoded.

    It holds what a ``QuantizedLinear`` holds, with a row for each token: ``project`` multiplies by the same matrix,
    which is what a tied head does and what ``explain`` speaks of.

    Args:
        count: rows, the size of the vocabulary.
        width: length of a row.
        codebook: one whose vectors can be listed, for instance ``uniform(bits=8)``.
        rotate: whether rows are stored rotated.
        mode: of ``project``; see QuantizedLinear.
        device: where the buffers are made.
        dtype: of the rows that come back.
        scale: what rows are multiplied by, in that dtype; ``project`` does not.

    Raises:
        ValueError: for a codebook that layout 4 cannot hold.
    """

    def __init__(
        self,
        count: int,
        width: int,
        codebook: nn.Module,
        *,
        rotate: bool = True,
        mode: str = "int15",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(width, count, codebook, rotate_in=rotate, mode=mode, device=device)
        if self.header.layout != PANELS:
            name = getattr(codebook, "spec", type(codebook).__name__)
            raise ValueError(
                f"embeddings: {name} has no table that can be listed; expected one such as uniform(bits=8)"
            )
        self.scale = scale
        # carries the dtype through .to(); holds nothing
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """Rows ``(*shape, width)`` of the numbers ``(*shape,)``, in the dtype of the module.

        Raises:
            ValueError: for a number beyond the last row.
        """
        self._check_once()
        like = self.get_buffer("like")
        table = self._table().to(index.device)
        rows = packed_rows(index, self.weight, self.scales, self.signs_in, table, self.in_features)
        rows = rows.to(like.dtype)
        return rows if self.scale == 1 else rows * torch.tensor(self.scale, dtype=like.dtype)

    def project(self, x: Tensor) -> Tensor:
        """``x @ table.T``: ``(*batch, width)`` to ``(*batch, count)``, in x's dtype; differentiable in x."""
        return super().forward(x)


class TiedHead(nn.Module):
    """The head of a language model that multiplies by its embeddings; it has no tensors of its own.

    Args:
        embedding: referenced, not registered: the model owns it.
        bias: ``(count,)`` or None.
    """

    bias: Tensor | None

    def __init__(self, embedding: QuantizedEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "_embedding", (embedding,))
        self.in_features, self.out_features = embedding.in_features, embedding.out_features
        self.register_parameter("bias", bias)

    @property
    def embedding(self) -> QuantizedEmbedding:
        """The module whose matrix this is."""
        found: QuantizedEmbedding = self.__dict__["_embedding"][0]
        return found

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, width)`` to ``(*batch, count)``."""
        y = self.embedding.project(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def put_embedding(
    model: nn.Module, settings: Mapping[str, Any], books: Mapping[str, nn.Module], prefix: str = ""
) -> None:
    """Replace a model's embeddings, and a head that is tied to them, by packed ones on the meta device.

    Args:
        model: of transformers.
        settings: the ``embeddings`` entry of ``quantization_config``; empty for none.
        books: codebooks by id.
        prefix: base model's prefix, which a headless model has not.

    Raises:
        VqError: if the model has no such modules.
    """
    if not settings:
        return
    name = _present(model, settings["module"], prefix)
    table = None if name is None else model.get_submodule(name)
    if name is None or not isinstance(table, nn.Embedding):
        raise VqError(
            f"quantization_config: embeddings {settings['module']}: no embedding of this name"
        )
    packed = QuantizedEmbedding(
        table.num_embeddings,
        table.embedding_dim,
        books[settings["codebook"]],
        rotate=bool(settings["rotate"]),
        device="meta",
        dtype=table.weight.dtype,
        scale=float(settings.get("scale", 1.0)),
    )
    packed.like = torch.empty(0, dtype=table.weight.dtype)
    model.set_submodule(name, packed.requires_grad_(False))
    head = settings.get("tied")
    found = None if head is None else _present(model, head, prefix)
    if found is None:
        return
    old = model.get_submodule(found)
    model.set_submodule(found, TiedHead(packed, getattr(old, "bias", None)))
    ties = getattr(model, "all_tied_weights_keys", None)
    if ties:  # there is nothing left to tie
        ties.pop(f"{found}.weight", None)


def _present(model: nn.Module, name: str, prefix: str) -> str | None:
    """The name a module has in this model, with or without the prefix of the base model."""
    modules = dict(model.named_modules())
    for candidate in (name, name.removeprefix(f"{prefix}.")):
        if candidate in modules:
            return candidate
    return None
