// AVX2: products of bytes by vpmaddubsw.
#include "vq/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

namespace vq {
namespace {

#include "vq/ymm_levels.inc"
#include "vq/ymm_fused.inc"
#include "vq/ymm_wide.inc"
#include "vq/ymm_bytes.inc"
#include "vq/ymm_linear.inc"
#include "vq/trellis_values.inc"

void decode(const Trellis& w, long band, float* out, long stride) {
  if (w.hash || !values_decode(w, band, out, stride)) decode_hash(w, band, out, stride);
}

}  // namespace

void hadamard_avx2(float* x, long n);
void quantize_avx2(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit);

const LinearKernels avx2_linear = {false, 1, hadamard_avx2, quantize_avx2, arrange, dot, decode, values_dot};

}  // namespace vq
