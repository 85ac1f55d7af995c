"""Nearest codewords in a table of one's own, exact: indices, several neighbours, margins."""

from vq.kernels.search import Neighbours, nearest, search
from vq.kernels.search_reference import find_in_tiles

__all__ = ["Neighbours", "find_in_tiles", "nearest", "search"]
