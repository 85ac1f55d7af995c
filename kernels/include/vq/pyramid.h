// Pyramid search: whole numbers whose magnitudes sum to `pulses`, in the direction nearest to a vector's.
#pragma once

namespace vq {

struct PyramidArgs {
  const float* points;  // (count, dim)
  const float* weight;  // (count, dim), not negative; null for ones
  long count, dim;
  int pulses;
  short* out;  // (count, dim): signed, magnitudes of a row sum to pulses
};

// Greedy pulses, then exchanges of one pulse until none helps, for (sum w x y)^2 / (sum w y^2).
void pyramid_search(const PyramidArgs& args, int threads);

}  // namespace vq
