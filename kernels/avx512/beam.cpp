#include "vq/beam.h"

#include <immintrin.h>

#include <cfloat>

#define WIDTH 16
#define CHAINS 8

namespace vq::avx512 {

typedef int Mask __attribute__((vector_size(WIDTH * 4)));

static unsigned bits(Mask mask) {
  return _mm512_movepi32_mask((__m512i)mask);
}

#include "vq/beam_body.inc"
}  // namespace vq::avx512
