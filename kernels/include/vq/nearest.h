// Exact nearest codeword for many points, without ever forming points x entries scores in memory.
//
// A point's score against codeword c is sum_d w_d ((c_d - s_d)^2 / 2 - (x_d - s_d)(c_d - s_d)) + penalty / 2, which is half its weighted
// squared distance up to a term of the point alone. Codewords are turned dimension-major one tile at a time, into L1; a tile is scanned
// by all points of a chunk, several points and several registers of codewords at once. Lowest index among equals.
#pragma once

namespace vq {

struct NearestArgs {
  const float* points;   // (count, dim)
  const float* table;    // (entries, dim)
  const float* shift;    // (dim): s, taken off points and codewords
  const float* weight;   // rows of dim numbers, weight_stride apart (0: one row for all points), or null
  const float* penalty;  // (entries), or null
  long count, dim, entries, weight_stride;
  int top;         // neighbours of a point: 1 to kMostNeighbours
  int* codes;      // (count, top), nearest first
  float* margins;  // (count), or null: how much farther the second nearest is, in squared distance and penalty
};

constexpr int kMostNeighbours = 32;
constexpr int kMostRows = 64;  // dim, or twice dim where every point has weights of its own

// s: the middle of the table in every coordinate whose middle is far from zero compared with its range, else 0. Rounded to
// 8 bits, so that taking it off is exact.
void nearest_shift(const float* table, long entries, long dim, float* shift);

void nearest(const NearestArgs& args, int threads);

// Points that share one copy of a tile; a multiple of it is a good grain for threads.
constexpr long kNearestChunk = 1024;

using NearestRange = void (*)(const NearestArgs& args, long first, long last);

// The kernel of the instruction set in use: codes of the points [first, last).
NearestRange nearest_range();

namespace portable {
void nearest_range(const NearestArgs& args, long first, long last);
}
namespace avx2 {
void nearest_range(const NearestArgs& args, long first, long last);
}
namespace avx512 {
void nearest_range(const NearestArgs& args, long first, long last);
}

}  // namespace vq
