// AVX2 wide table kernels: 16-bit levels times 16-bit activations, pairs of columns at once.
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

// Keeps a value in a register where the compiler would load it for each use, and loads in their order: with more of them at
// once an accumulator would not find a register.
VQ_INLINE void pin(__m256i& v) { __asm__ volatile("" : "+x"(v)); }

// 32 places of a block times P rows of x, into four registers a row. Not inlined: its loop needs all registers.
template <int P>
__attribute__((noinline)) void product(const int16_t* block, long pairs, const int16_t* x, long stride, __m256i* sums) {
  constexpr auto places = std::make_integer_sequence<int, 4>{};
  constexpr auto rows = std::make_integer_sequence<int, P>{};
  __m256i acc[P][4];
  unroll(rows, [&](auto p) { unroll(places, [&](auto i) { acc[p][i] = _mm256_setzero_si256(); }); });
#pragma GCC unroll 2
  for (long t = 0; t < pairs; ++t) {
    __m256i two[P];
    unroll(rows, [&](auto p) { two[p] = _mm256_broadcastd_epi32(_mm_loadu_si32(x + p * stride + 2 * t)); });
    unroll(places, [&](auto i) {
      __m256i level = load(block + t * 64 + 16 * i);
      pin(level);
      unroll(rows, [&](auto p) { acc[p][i] = _mm256_add_epi32(acc[p][i], _mm256_madd_epi16(level, two[p])); });
    });
  }
  unroll(rows, [&](auto p) { unroll(places, [&](auto i) { _mm256_store_si256(sums + p * 4 + i, acc[p][i]); }); });
}

// 32 places of some blocks times P rows of x.
template <int P>
VQ_INLINE void products(const int16_t* block, long blocks, long pairs, const int16_t* x, float* totals) {
  __m256 all[P * 4];
  for (auto& v : all) v = _mm256_setzero_ps();
  for (long b = 0; b < blocks; ++b) {
    __m256i sums[P * 4];
    product<P>(block + b * pairs * 2 * kPanelRows, pairs, x + b * pairs * 2, blocks * pairs * 2, sums);
    for (int i = 0; i < P * 4; ++i) all[i] = _mm256_add_ps(all[i], _mm256_cvtepi32_ps(_mm256_load_si256(sums + i)));
  }
  for (int i = 0; i < P * 4; ++i) {
    float* at = totals + i / 4 * kPanelRows + i % 4 * 8;
    _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), all[i]));
  }
}

void multiply(const int16_t* block, long blocks, long pairs, const int16_t* x, long rows, float* totals) {
  const long stride = blocks * pairs * 2;
  for (int half = 0; half < 2; ++half) {
    const int16_t* level = block + half * pairs * 64;
    float* to = totals + half * 32;
    long i = 0;
    for (; i + 2 <= rows; i += 2) products<2>(level, blocks, pairs, x + i * stride, to + i * kPanelRows);
    if (i < rows) products<1>(level, blocks, pairs, x + i * stride, to + i * kPanelRows);
  }
}

}  // namespace

const WideKernels avx2_wide = {row_at, nibbles, threes, bytes, vectors, e8p, multiply, quantize, measure, add_values};

}  // namespace vq
