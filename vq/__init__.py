"""vq: codebook quantization of weights and signals.

The package is light to import: transformers, lightning, scikit-learn and faiss are loaded only by the
functions that need them. After ``import vq``, transformers reads models that vq compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vq import _hf_hook
from vq._lazy import lazy_names
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.compressors.loading import load, load_tokenizer
    from vq.compressors.module import compress_module, load_module, save_module
    from vq.compressors.options import CompressOptions
    from vq.compressors.pipeline import compress
    from vq.tokenizers.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "CompressOptions",
    "Tokenizer",
    "VqError",
    "__version__",
    "compress",
    "compress_module",
    "load",
    "load_module",
    "load_tokenizer",
    "save_module",
]

_LAZY = {
    "CompressOptions": "vq.compressors.options",
    "Tokenizer": "vq.tokenizers.tokenizer",
    "compress": "vq.compressors.pipeline",
    "compress_module": "vq.compressors.module",
    "load": "vq.compressors.loading",
    "load_module": "vq.compressors.module",
    "load_tokenizer": "vq.compressors.loading",
    "save_module": "vq.compressors.module",
}


__getattr__, __dir__ = lazy_names(__name__, _LAZY)

_hf_hook.install()
