// AVX-512 table kernels that differ from those of AVX2: lookups of 64 rows at once.
#include "vq/tables.h"

#include <immintrin.h>

#include <algorithm>

namespace vq {
namespace {

// Bits are those of the AVX2 kernel: the same 16-bit sums, the same order of float32 additions.
void nibbles(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);  // rows 32 on: the high halves
  __m512 total[4];  // rows 0 to 7 and 16 to 23, the same 32 on; 8 to 15 and 24 to 31, the same 32 on
  for (auto& t : total) t = _mm512_setzero_ps();
  for (long u = 0; u < units; u += block) {
    __m512i first = _mm512_setzero_si512(), second = first;
    for (long i = u; i < std::min(units, u + block); ++i) {
      const uint8_t* at = codes + i * 32;
      _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
      const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      const __m512i index = _mm512_and_si512(_mm512_srlv_epi16(both, shift), mask);
      const __m128i* table = reinterpret_cast<const __m128i*>(lut + i * 32);
      const __m512i low = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table)), index);
      const __m512i high = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table + 1)), index);
      first = _mm512_add_epi16(first, _mm512_unpacklo_epi8(low, high));
      second = _mm512_add_epi16(second, _mm512_unpackhi_epi8(low, high));
    }
    const __m512 unit = _mm512_set1_ps(scale[u / block]);
    for (int k = 0; k < 4; ++k) {
      const __m512i words = k < 2 ? first : second;
      const __m256i half = k % 2 ? _mm512_extracti64x4_epi64(words, 1) : _mm512_castsi512_si256(words);
      total[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(half)), unit, total[k]);
    }
  }
  for (int k = 0; k < 4; ++k) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, total[k]);
    float* at = y + k % 2 * 32 + k / 2 * 8;
    std::copy_n(lanes, 8, at);
    std::copy_n(lanes + 8, 8, at + 16);
  }
}

}  // namespace

void use_avx512(TablesKernels* k) { k->nibbles = nibbles; }

}  // namespace vq
