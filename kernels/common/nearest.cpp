#include "vq/nearest.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "vq/cpu.h"
#include "vq/threads.h"

namespace vq {
namespace {

// The nearest number with 8 significant bits.
float rounded(float value) {
  int exponent;
  const float mantissa = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(mantissa * 256.0f), exponent - 8);
}

}  // namespace

void nearest_shift(const float* table, long entries, long dim, float* shift) {
  // Minima and maxima of 32 interleaved streams or more, so that tables of short vectors run in registers.
  const long rows = std::max(1L, 32 / dim), width = rows * dim, blocks = entries / rows;
  std::vector<float> bounds(2 * width);
  float* __restrict low = bounds.data();
  float* __restrict high = low + width;
  for (long d = 0; d < width; ++d) low[d] = high[d] = table[d % dim];
  for (long block = 0; block < blocks; ++block) {
    const float* __restrict from = table + block * width;
    for (long d = 0; d < width; ++d) {
      low[d] = from[d] < low[d] ? from[d] : low[d];
      high[d] = from[d] > high[d] ? from[d] : high[d];
    }
  }
  for (long at = blocks * width; at < entries * dim; ++at) {
    low[at % dim] = std::min(low[at % dim], table[at]);
    high[at % dim] = std::max(high[at % dim], table[at]);
  }
  for (long d = 0; d < width; ++d) {
    low[d % dim] = std::min(low[d % dim], low[d]);
    high[d % dim] = std::max(high[d % dim], high[d]);
  }
  for (long d = 0; d < dim; ++d) {
    const float middle = 0.5f * low[d] + 0.5f * high[d], range = 0.5f * high[d] - 0.5f * low[d];
    shift[d] = std::fabs(middle) > 4 * range ? rounded(middle) : 0.0f;
  }
}

NearestRange nearest_range() {
#if VQ_X86
  if (isa() == Isa::avx512) return avx512::nearest_range;
  if (isa() == Isa::avx2) return avx2::nearest_range;
#endif
  return portable::nearest_range;
}

void nearest(const NearestArgs& args, int threads) {
  const NearestRange range = nearest_range();
  const long share = (args.count + threads - 1) / threads;
  const long grain = std::max(64L, std::min(kNearestChunk, share));
  parallel_for(args.count, grain, threads, [&](long first, long last) { range(args, first, last); });
}

}  // namespace vq
