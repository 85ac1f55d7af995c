"""The pairing of least total cost."""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> np.ndarray:
    """A column for each row, all different, with the least sum of costs.

    Args:
        cost: ``(rows, columns)`` finite, rows at most columns.

    Returns:
        ``(rows,)`` int64.

    Raises:
        ValueError: for more rows than columns, or costs that are not finite.

    Reference:
        R. Jonker, A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems"
        (1987), without their initial phases.
    """
    rows, columns = cost.shape
    if rows > columns or not np.isfinite(cost).all():
        raise ValueError(f"assign: expected finite costs, rows <= columns, got {cost.shape}")
    row_price, price = np.zeros(rows), np.zeros(columns)
    of_row, of_column = np.full(rows, -1), np.full(columns, -1)
    for start in range(rows):
        length, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        visited, row, least = [], start, 0.0
        while True:
            visited.append(row)
            path = least + cost[row] - row_price[row] - price
            better = (path < length) & ~done
            length[better], before[better] = path[better], row
            column = int(np.where(done, np.inf, length).argmin())
            least = float(length[column])
            done[column] = True
            if of_column[column] < 0:
                break
            row = int(of_column[column])
        row_price[start] += least
        for other in visited[1:]:
            row_price[other] += least - length[of_row[other]]
        price[done] -= least - length[done]
        while True:  # turn the path around
            row = int(before[column])
            of_column[column] = row
            of_row[row], column = column, int(of_row[row])
            if row == start:
                break
    return of_row
