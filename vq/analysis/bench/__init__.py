"""What ``vq bench`` measures: ``gaussian`` distortion, and speed of ``search``, ``kmeans``, ``matmul``, ``generate``.

``timing`` lets methods alternate in one process, so that a ratio is fair.
"""
