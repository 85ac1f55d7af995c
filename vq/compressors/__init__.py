"""Compressing model weights: from a model and some text to a Hugging Face folder of packed codes.

``pipeline`` runs the steps, each in a folder of its own, in this order: ``files`` opens the model, ``structure`` takes
it apart into blocks of linear layers, ``planning`` chooses codebooks under a budget, ``calibration`` runs blocks and
sums Hessians, ``rounding`` turns matrices into codes and puts packed ``layers`` in their place, ``tuning`` moves what
is not codes, ``checkpoint`` writes the folder, and ``scores`` says what it cost. Beside it, ``options`` and
``recipes`` say what is done, ``ranks`` spreads it over processes, ``report`` tells of it, ``module`` does the same to
a bare ``nn.Module``, and ``loading`` and ``huggingface`` read the folder again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vq._lazy import lazy_names

if TYPE_CHECKING:
    from vq.compressors.checkpoint.size import measure_size
    from vq.compressors.files.source import open_source
    from vq.compressors.layers.embedding import QuantizedEmbedding
    from vq.compressors.layers.linear import QuantizedLinear
    from vq.compressors.loading import load, load_tokenizer, set_mode
    from vq.compressors.module import compress_module, load_module, save_module
    from vq.compressors.options import CompressOptions
    from vq.compressors.pipeline import CompressReport, Progress, compress
    from vq.compressors.planning.plan import Planner
    from vq.compressors.recipes import read_recipe
    from vq.compressors.rounding.options import RoundingOptions
    from vq.compressors.rounding.round import restore, round_matrices
    from vq.compressors.scores.evaluate import score

__all__ = [
    "CompressOptions",
    "CompressReport",
    "Planner",
    "Progress",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "RoundingOptions",
    "compress",
    "compress_module",
    "load",
    "load_module",
    "load_tokenizer",
    "measure_size",
    "open_source",
    "read_recipe",
    "restore",
    "round_matrices",
    "save_module",
    "score",
    "set_mode",
]

_HOMES = {
    "CompressOptions": "options",
    "CompressReport": "pipeline",
    "Planner": "planning.plan",
    "Progress": "pipeline",
    "QuantizedEmbedding": "layers.embedding",
    "QuantizedLinear": "layers.linear",
    "RoundingOptions": "rounding.options",
    "compress": "pipeline",
    "compress_module": "module",
    "load": "loading",
    "load_module": "module",
    "load_tokenizer": "loading",
    "measure_size": "checkpoint.size",
    "open_source": "files.source",
    "read_recipe": "recipes",
    "restore": "rounding.round",
    "round_matrices": "rounding.round",
    "save_module": "module",
    "score": "scores.evaluate",
    "set_mode": "loading",
}

__getattr__, __dir__ = lazy_names(
    __name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()}
)
