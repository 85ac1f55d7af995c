"""The compressed folder at the end of the pipeline.

``folder`` assembles it from finished blocks and puts it in its place, ``shards`` writes its weight files,
``embeddings`` packs embeddings and head of a folder, and ``size`` counts its bytes. ``older`` reads packed weights of
earlier layouts.
"""
