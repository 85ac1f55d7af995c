#include "vq/nearest.h"

#include <immintrin.h>

#include <cstdint>

#define WIDTH 8
#define POINTS 2
#define GROUP 4

namespace vq::avx2 {

typedef float Floats __attribute__((vector_size(32), aligned(4)));
typedef int Ints __attribute__((vector_size(32), aligned(4)));

// A bit for each lane of a comparison, the first lane lowest.
static unsigned bits(Ints mask) {
  return _mm256_movemask_ps((__m256)mask);
}

static float least(Floats best) {
  __m128 low = _mm_min_ps(_mm256_castps256_ps128((__m256)best), _mm256_extractf128_ps((__m256)best, 1));
  low = _mm_min_ps(low, _mm_movehl_ps(low, low));
  return _mm_cvtss_f32(_mm_min_ss(low, _mm_movehdup_ps(low)));
}

// The smallest index among the lanes whose score is `lowest`.
static int lowest_index(Floats best, Ints index, float lowest) {
  int found = _mm256_movemask_ps(_mm256_cmp_ps((__m256)best, _mm256_set1_ps(lowest), _CMP_EQ_OQ));
  int at = index[__builtin_ctz(found)];
  while (found &= found - 1) at = index[__builtin_ctz(found)] < at ? index[__builtin_ctz(found)] : at;
  return at;
}

#include "vq/nearest_body.inc"

}  // namespace vq::avx2
