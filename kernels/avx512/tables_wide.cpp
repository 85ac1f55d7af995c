// AVX-512 wide table kernels: the decoders of AVX2, products by vpdpwssd.
#include "vq/tables_wide.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace vq {
namespace {

#include "vq/tables_wide_body.inc"
#include "vq/ymm_wide_tables.inc"

template <typename F, int... I>
VQ_INLINE void unroll(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}

VQ_INLINE int pair_of(const int16_t* at) {
  int v;
  std::memcpy(&v, at, 4);
  return v;
}

// 64 places of a block times P rows of x, `stride` numbers apart: four registers a row.
template <int P>
VQ_INLINE void product(const int16_t* block, long pairs, const int16_t* x, long stride, __m512i* sums) {
  constexpr auto places = std::make_integer_sequence<int, 4>{};
  constexpr auto rows = std::make_integer_sequence<int, P>{};
  __m512i acc[P][4];
  unroll(rows, [&](auto p) { unroll(places, [&](auto i) { acc[p][i] = _mm512_setzero_si512(); }); });
  for (long t = 0; t < pairs; ++t) {
    __m512i level[4];
    unroll(places, [&](auto i) { level[i] = _mm512_loadu_si512(block + (i / 2 * pairs + t) * 64 + i % 2 * 32); });
    unroll(rows, [&](auto p) {
      const __m512i two = _mm512_set1_epi32(pair_of(x + p * stride + 2 * t));
      unroll(places, [&](auto i) { acc[p][i] = _mm512_dpwssd_epi32(acc[p][i], level[i], two); });
    });
  }
  unroll(rows, [&](auto p) { unroll(places, [&](auto i) { sums[p * 4 + i] = acc[p][i]; }); });
}

template <int P>
VQ_INLINE void products(const int16_t* block, long blocks, long pairs, const int16_t* x, float* totals) {
  __m512 all[P * 4];
  for (auto& v : all) v = _mm512_setzero_ps();
  for (long b = 0; b < blocks; ++b) {
    __m512i sums[P * 4];
    product<P>(block + b * pairs * 2 * kPanelRows, pairs, x + b * pairs * 2, blocks * pairs * 2, sums);
    for (int i = 0; i < P * 4; ++i) all[i] = _mm512_add_ps(all[i], _mm512_cvtepi32_ps(sums[i]));
  }
  for (int i = 0; i < P * 4; ++i) {
    float* at = totals + i / 4 * kPanelRows + i % 4 * 16;
    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), all[i]));
  }
}

void multiply(const int16_t* block, long blocks, long pairs, const int16_t* x, long rows, float* totals) {
  const long stride = blocks * pairs * 2;
  long i = 0;
  for (; i + 4 <= rows; i += 4) products<4>(block, blocks, pairs, x + i * stride, totals + i * kPanelRows);
  for (; i < rows; ++i) products<1>(block, blocks, pairs, x + i * stride, totals + i * kPanelRows);
}

}  // namespace

const WideKernels avx512_wide = {row_at, nibbles, threes, bytes, vectors, e8p, multiply, quantize, measure, add_values};

}  // namespace vq
