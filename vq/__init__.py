"""vq: codebook quantization of weights and signals.

The package is light to import: transformers, lightning, scikit-learn and faiss are loaded only by the
functions that need them.
"""

__version__ = "0.1.0"
