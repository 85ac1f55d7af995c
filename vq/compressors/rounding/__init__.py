"""Matrices to codes; each block passes through it.

``block`` takes the linear layers of one block and ``round`` their matrices. A matrix (``matrix``) is rotated
(``rotation``), may lose its outliers (``outliers``) or a low-rank part (``low_rank``), may get tables of its own
(``tables``), is rounded column after column with error feedback (``feedback``) and polished by coordinate descent
(``polish``); ``group`` rounds matrices that share their input as one. ``packing`` makes packed layers of the codes,
``shelf`` holds the codebooks of a model, and ``options`` names all choices.
"""
