// Optimal k-means in one dimension, with weights.
//
// Cells of sorted numbers are intervals, so the best partition is a dynamic programme over interval ends:
//   G[k][j] = max over i < j of G[k-1][i] + S1(i, j)^2 / S0(i, j),   S0, S1 = sums of weights and of weight * value over [i, j).
// The best i grows with j, so a layer is found by divide and conquer in O(n log n). Rows with more distinct numbers than `bins` first
// choose among `bins` ends; all ends are then moved together, by the same programme over a window around each, until none moves.
#pragma once

namespace vq {

// table (rows, levels) ascending, errors (rows): weighted squared errors. Weights (rows, count) or null; points of weight 0 are left out.
// Rows with fewer distinct numbers than levels repeat the last one.
void kmeans1d(const float* values, const float* weights, long rows, long count, int levels, int bins, float* table,
              double* errors, int threads);

}  // namespace vq
