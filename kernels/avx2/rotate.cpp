// AVX2: block Walsh-Hadamard transform and quantization of activations.
#include "vq/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace vq {
namespace {

// One butterfly inside a register: `other` is v with lanes swapped, HIGH marks the lanes that subtract.
template <int HIGH>
inline __m256 butterfly(__m256 v, __m256 other) {
  return _mm256_blend_ps(_mm256_add_ps(other, v), _mm256_sub_ps(other, v), HIGH);
}

inline __m256 within(__m256 v) {
  v = butterfly<0xaa>(v, _mm256_permute_ps(v, 0xb1));
  v = butterfly<0xcc>(v, _mm256_permute_ps(v, 0x4e));
  return butterfly<0xf0>(v, _mm256_permute2f128_ps(v, v, 0x01));
}

constexpr long kLanes = 8;
using Floats = __m256;
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
inline Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm256_sub_ps(a, b); }

#include "vq/hadamard_body.inc"

// Largest magnitude; NaN or infinity wherever there is one, as their bits are the largest.
float peak(const float* x, long n) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i top = _mm256_setzero_si256();
  long i = 0;
  for (; i + 8 <= n; i += 8)
    top = _mm256_max_epi32(top, _mm256_and_si256(magnitude, _mm256_castps_si256(_mm256_loadu_ps(x + i))));
  alignas(32) int32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), top);
  for (; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    lane[0] = std::max(lane[0], bits & 0x7fffffff);
  }
  const int32_t bits = *std::max_element(lane, lane + 8);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline __m256i rounded(const float* x, __m256 factor) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor)); }

// 32 numbers of 32 bits, four registers in order, to bytes.
inline __m256i bytes_of(const __m256i* v) {
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

int32_t total(__m256i v) {
  alignas(32) int32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), v);
  int32_t sum = 0;
  for (int32_t value : lane) sum += value;
  return sum;
}

// 32 columns of each plane; adds to the planes' sums.
inline void columns(const float* x, __m256 factor, int planes, long stride, int8_t* acts, __m256i* sums) {
  __m256i high[4], low[4];
  for (int i = 0; i < 4; ++i) {
    const __m256i q = rounded(x + 8 * i, factor), half = _mm256_set1_epi32(64);
    low[i] = _mm256_sub_epi32(_mm256_and_si256(_mm256_add_epi32(q, half), _mm256_set1_epi32(127)), half);
    high[i] = planes == 2 ? _mm256_srai_epi32(_mm256_sub_epi32(q, low[i]), 7) : q;
    sums[0] = _mm256_add_epi32(sums[0], high[i]);
    sums[1] = _mm256_add_epi32(sums[1], low[i]);
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(acts), bytes_of(high));
  if (planes == 2) _mm256_storeu_si256(reinterpret_cast<__m256i*>(acts + stride), bytes_of(low));
}

}  // namespace

void hadamard_avx2(float* x, long n) { hadamard_blocks(x, n); }

void quantize_avx2(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit) {
  const float largest = peak(x, n), top = planes == 2 ? 16319.0f : 127.0f;
  std::fill(sums, sums + planes, 0);
  std::memset(acts, 0, planes * stride);
  if (!(largest > 1e-30f) || !std::isfinite(largest)) {
    *unit = std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *unit = largest / top;
  const __m256 factor = _mm256_set1_ps(top / largest);
  __m256i both[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  long i = 0;
  for (; i + 32 <= n; i += 32) columns(x + i, factor, planes, stride, acts + i, both);
  if (i < n) {
    float rest[32] = {};
    std::copy(x + i, x + n, rest);
    columns(rest, factor, planes, stride, acts + i, both);
  }
  for (int p = 0; p < planes; ++p) sums[p] = total(both[p]);
}

}  // namespace vq
