"""Layers whose weights are packed codes.

``linear`` and ``embedding`` are the layers; what they store is in ``matrix`` and ``header``, what stands beside the
codes in ``sides``, the numbers that codes stand for in ``tables``, and the way back to a dense matrix in ``decode``.
"""
