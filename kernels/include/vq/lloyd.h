// One step of Lloyd's algorithm for many independent problems: nearest codewords and the sums over their cells.
//
// Points are taken in blocks; the sums of a codeword run over its points in their order, whoever computes them, so the same bits come
// out for any number of threads. Beyond the results one block of codes is held per problem in work.
#pragma once

namespace vq {

struct LloydArgs {
  const float* points;   // (problems, count, dim)
  const float* table;    // (problems, entries, dim)
  const float* weight;   // (problems, count, weights), or null
  const float* penalty;  // (problems, entries), or null
  const int* codes;      // (problems, count): cells found elsewhere, or null
  long problems, count, dim, entries;
  long weights;    // numbers a point's weight has: 1 or dim
  double* total;   // (problems, entries, dim): += weight * point
  double* mass;    // (problems, entries, weights, or 1 without): += weight
  double* error;   // (problems, entries): += weighted squared distances of the cell
  long* members;   // (problems, entries): += points of the cell
  double* reach;   // (problems, entries): largest weighted squared distance in the cell, given as -1
  long* farthest;  // (problems, entries): the first point that has it
};

void lloyd_step(const LloydArgs& args, int threads);

// distances[i] = min(distances[i], weight_i |x_i - c|^2) for one codeword, and their sum over blocks of 4096 points into
// sums ((count + 4095) / 4096 numbers). `weights` is 0, 1 or dim.
void lower_distances(const float* points, const float* weight, long count, long dim, long weights, const float* centre,
                     float* distances, double* sums, int threads);

}  // namespace vq
