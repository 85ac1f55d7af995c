"""Plots of an analysis, drawn with ``svg``.

``choice`` says which plots a section has; ``tables``, ``codes``, ``stages``, ``rate`` (beside the codebooks of
``families``) and ``weights`` draw those made for it, ``other`` anything else. A ``figure`` is a plot with its words.
"""
