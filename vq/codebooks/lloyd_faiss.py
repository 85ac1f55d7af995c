"""K-means by faiss, from the same start: for comparison."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vq.codebooks.clustering import Clustering
from vq.kernels.lloyd import cell_sums


def run(x: Tensor, weight: Tensor | None, table: Tensor, iterations: int) -> Clustering:
    """Lloyd's algorithm in faiss on all points, ``(problems, n, dim)``.

    Raises:
        ImportError: where faiss is not installed.
        ValueError: for weights of coordinates, which faiss does not know.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "lloyd: backend faiss needs faiss; install it with: pip install 'vq-toolkit[search]'"
        ) from error
    if weight is not None and weight.shape[2] > 1:
        raise ValueError("lloyd: faiss knows weights of points only; use backend native")
    faiss.omp_set_num_threads(torch.get_num_threads())
    tables, histories = [], []
    for p in range(len(x)):
        entries, dim = table[p].shape
        means = faiss.Kmeans(
            dim,
            entries,
            niter=iterations,
            min_points_per_centroid=1,
            max_points_per_centroid=x.shape[1],
        )
        own = None if weight is None else np.ascontiguousarray(weight[p, :, 0].numpy())
        means.train(x[p].numpy(), weights=own, init_centroids=table[p].numpy())
        tables.append(torch.from_numpy(np.array(means.centroids)))
        mass = float(x.shape[1] if own is None else own.sum()) * dim
        histories.append(torch.tensor(np.array(means.obj, dtype=np.float64) / mass))
    found = torch.stack(tables)
    sums = cell_sums(x, found, weight)
    masses = sums.mass.sum((1, 2)) * x.shape[2]
    history = torch.cat([torch.stack(histories, 1), (sums.error.sum(1) / masses)[None]])
    return Clustering(found, history, sums.members)
