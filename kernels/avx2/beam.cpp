#include "vq/beam.h"

#include <immintrin.h>

#include <cfloat>

#define WIDTH 8
#define CHAINS 8

namespace vq::avx2 {

typedef int Mask __attribute__((vector_size(WIDTH * 4)));

static unsigned bits(Mask mask) {
  return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask));
}

#include "vq/beam_body.inc"
}  // namespace vq::avx2
