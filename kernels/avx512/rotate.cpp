// AVX-512: block Walsh-Hadamard transform and quantization of activations.
#include "vq/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace vq {
namespace {

// One butterfly inside a register: `other` is v with lanes swapped, `high` marks the lanes that subtract.
inline __m512 butterfly(__m512 v, __m512 other, __mmask16 high) {
  return _mm512_mask_sub_ps(_mm512_add_ps(other, v), high, other, v);
}

inline __m512 within(__m512 v) {
  v = butterfly(v, _mm512_permute_ps(v, 0xb1), 0xaaaa);
  v = butterfly(v, _mm512_permute_ps(v, 0x4e), 0xcccc);
  v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0xb1), 0xf0f0);
  return butterfly(v, _mm512_shuffle_f32x4(v, v, 0x4e), 0xff00);
}

constexpr long kLanes = 16;
using Floats = __m512;
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
inline Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }

#include "vq/hadamard_body.inc"

}  // namespace

void hadamard_avx512(float* x, long n) { hadamard_blocks(x, n); }

void quantize_avx512(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i top = _mm512_setzero_si512();
  auto lanes = [&](long i) { return static_cast<__mmask16>(n - i >= 16 ? 0xffff : n > i ? (1u << (n - i)) - 1 : 0); };
  for (long i = 0; i < n; i += 16)
    top = _mm512_max_epi32(top, _mm512_and_si512(magnitude, _mm512_castps_si512(_mm512_maskz_loadu_ps(lanes(i), x + i))));
  const int bits = _mm512_reduce_max_epi32(top);
  float largest;
  std::memcpy(&largest, &bits, 4);
  std::fill(sums, sums + planes, 0);
  std::memset(acts, 0, planes * stride);
  if (!(largest > 1e-30f) || !std::isfinite(largest)) {
    *unit = std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float limit = planes == 2 ? 16319.0f : 127.0f;
  *unit = largest / limit;
  const __m512 factor = _mm512_set1_ps(limit / largest);
  const __m512i half = _mm512_set1_epi32(64), seven = _mm512_set1_epi32(127);
  __m512i total[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (long i = 0; i < n; i += 32) {
    __m512i part[2][2];
    for (int h = 0; h < 2; ++h) {
      const __mmask16 live = lanes(i + 16 * h);
      const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, live ? x + i + 16 * h : x), factor);
      const __m512i q = _mm512_cvtps_epi32(v);
      const __m512i low = _mm512_sub_epi32(_mm512_and_si512(_mm512_add_epi32(q, half), seven), half);
      part[0][h] = planes == 2 ? _mm512_srai_epi32(_mm512_sub_epi32(q, low), 7) : q;
      part[1][h] = low;
    }
    for (int p = 0; p < planes; ++p) {
      total[p] = _mm512_add_epi32(total[p], _mm512_add_epi32(part[p][0], part[p][1]));
      const __m256i packed = _mm256_set_m128i(_mm512_cvtepi32_epi8(part[p][1]), _mm512_cvtepi32_epi8(part[p][0]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acts + p * stride + i), packed);
    }
  }
  for (int p = 0; p < planes; ++p) sums[p] = _mm512_reduce_add_epi32(total[p]);
}

}  // namespace vq
