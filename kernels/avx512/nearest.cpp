#include "vq/nearest.h"

#include <immintrin.h>

#include <cstdint>

#define WIDTH 16
#define POINTS 4
#define GROUP 4

namespace vq::avx512 {

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef int Ints __attribute__((vector_size(64), aligned(4)));

// A bit for each lane of a comparison, the first lane lowest.
static unsigned bits(Ints mask) {
  return _mm512_movepi32_mask((__m512i)mask);
}

static float least(Floats best) { return _mm512_reduce_min_ps((__m512)best); }

// The smallest index among the lanes whose score is `lowest`.
static int lowest_index(Floats best, Ints index, float lowest) {
  const __mmask16 found = _mm512_cmp_ps_mask((__m512)best, _mm512_set1_ps(lowest), _CMP_EQ_OQ);
  if (found & (found - 1)) return _mm512_mask_reduce_min_epi32(found, (__m512i)index);
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(found, (__m512i)index)));
}

#include "vq/nearest_body.inc"

}  // namespace vq::avx512
