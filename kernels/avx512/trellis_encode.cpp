// Forward pass of the trellis encoder, 32 groups at a time. See vq/trellis.h for the recursion.
#include "vq/trellis.h"

#include <immintrin.h>

namespace vq::avx512 {
namespace {

// 32 lanes that hold values[lane >> B].
template <int B>
inline __m512i expand(const uint16_t* values) {
  if constexpr (B == 1) {
    const __m512i index = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5,
                                           4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)values)));
  } else if constexpr (B == 2) {
    const __m512i index = _mm512_set_epi32(0x0f0e0f0e, 0x0f0e0f0e, 0x0d0c0d0c, 0x0d0c0d0c, 0x0b0a0b0a, 0x0b0a0b0a,
                                           0x09080908, 0x09080908, 0x07060706, 0x07060706, 0x05040504, 0x05040504,
                                           0x03020302, 0x03020302, 0x01000100, 0x01000100);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)values)), index);
  } else if constexpr (B == 3) {
    const __m512i index = _mm512_set_epi32(0x07060706, 0x07060706, 0x07060706, 0x07060706, 0x05040504, 0x05040504,
                                           0x05040504, 0x05040504, 0x03020302, 0x03020302, 0x03020302, 0x03020302,
                                           0x01000100, 0x01000100, 0x01000100, 0x01000100);
    return _mm512_shuffle_epi8(_mm512_broadcastq_epi64(_mm_loadl_epi64((const __m128i*)values)), index);
  } else if constexpr (B == 4) {
    const __m512i index = _mm512_set_epi32(0x03020302, 0x03020302, 0x03020302, 0x03020302, 0x03020302, 0x03020302,
                                           0x03020302, 0x03020302, 0x01000100, 0x01000100, 0x01000100, 0x01000100,
                                           0x01000100, 0x01000100, 0x01000100, 0x01000100);
    return _mm512_shuffle_epi8(_mm512_broadcastd_epi32(_mm_loadu_si32(values)), index);
  } else {
    return _mm512_set1_epi16((short)values[0]);
  }
}

inline uint16_t lowest(__m512i v) {
  const __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  const __m128i quarter = _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(quarter), 0);
}

template <int V>
inline __m512i error(const __m512i* x, const int16_t* table) {
  const __m512i e = _mm512_subs_epi16(x[0], _mm512_loadu_si512(table));
  const __m512i d = _mm512_mulhrs_epi16(e, e);
  if constexpr (V == 1) return d;
  const __m512i f = _mm512_subs_epi16(x[V - 1], _mm512_loadu_si512(table + 32));
  return _mm512_adds_epu16(d, _mm512_mulhrs_epi16(f, f));
}

template <int B, int V>
void forward(const TrellisShape& shape, const int16_t* x, int steps, const int16_t* table, uint16_t* minima,
             uint16_t* floors) {
  constexpr int branches = 1 << B;
  const long groups = 1L << (shape.memory - B);
  for (int t = 0; t < steps; ++t) {
    const uint16_t* in = minima + t * groups;
    uint16_t* out = minima + (t + 1) * groups;
    __m512i value[V];
    for (int v = 0; v < V; ++v) value[v] = _mm512_set1_epi16(x[t * V + v]);
    const __m512i floor = _mm512_set1_epi16((short)floors[t]);
    __m512i least = _mm512_set1_epi16(-1);
    const int16_t* row = table;
    for (long g = 0; g < groups; g += 32) {
      __m512i best = _mm512_set1_epi16(-1);
#pragma GCC unroll 4
      for (int p = 0; p < branches; ++p, row += 32 * V) {
        const __m512i before = expand<B>(in + ((p * groups + g) >> B));
        best = _mm512_min_epu16(best, _mm512_adds_epu16(before, error<V>(value, row)));
      }
      best = _mm512_sub_epi16(best, floor);
      least = _mm512_min_epu16(least, best);
      _mm512_storeu_si512(out + g, best);
    }
    floors[t + 1] = lowest(least);
  }
}

}  // namespace

TrellisForward trellis_forward(int step_bits, int symbols) {
  static constexpr TrellisForward one[] = {forward<1, 1>, forward<2, 1>, forward<3, 1>, forward<4, 1>,
                                           forward<5, 1>, forward<6, 1>, forward<7, 1>, forward<8, 1>};
  static constexpr TrellisForward two[] = {forward<1, 2>, forward<2, 2>, forward<3, 2>, forward<4, 2>,
                                           forward<5, 2>, forward<6, 2>, forward<7, 2>, forward<8, 2>};
  if (step_bits < 1 || step_bits > 8) return nullptr;
  return symbols == 1 ? one[step_bits - 1] : symbols == 2 ? two[step_bits - 1] : nullptr;
}

}  // namespace vq::avx512
