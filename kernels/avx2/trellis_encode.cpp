// Forward pass of the trellis encoder, 16 groups at a time. See vq/trellis.h for the recursion.
#include "vq/trellis.h"

#include <immintrin.h>

namespace vq::avx2 {
namespace {

// 16 lanes that hold values[lane >> B].
template <int B>
inline __m256i expand(const uint16_t* values) {
  if constexpr (B == 1) {
    const __m256i index = _mm256_set_epi32(0x0f0e0f0e, 0x0d0c0d0c, 0x0b0a0b0a, 0x09080908, 0x07060706, 0x05040504,
                                           0x03020302, 0x01000100);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)values)), index);
  } else if constexpr (B == 2) {
    const __m256i index = _mm256_set_epi32(0x07060706, 0x07060706, 0x05040504, 0x05040504, 0x03020302, 0x03020302,
                                           0x01000100, 0x01000100);
    return _mm256_shuffle_epi8(_mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i*)values)), index);
  } else if constexpr (B == 3) {
    const __m256i index = _mm256_set_epi32(0x03020302, 0x03020302, 0x03020302, 0x03020302, 0x01000100, 0x01000100,
                                           0x01000100, 0x01000100);
    return _mm256_shuffle_epi8(_mm256_broadcastd_epi32(_mm_loadu_si32(values)), index);
  } else {
    return _mm256_set1_epi16((short)values[0]);
  }
}

inline uint16_t lowest(__m256i v) {
  const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(half), 0);
}

inline __m256i load(const void* address) { return _mm256_loadu_si256((const __m256i*)address); }

template <int V>
inline __m256i error(const __m256i* x, const int16_t* table) {
  const __m256i e = _mm256_subs_epi16(x[0], load(table));
  const __m256i d = _mm256_mulhrs_epi16(e, e);
  if constexpr (V == 1) return d;
  const __m256i f = _mm256_subs_epi16(x[V - 1], load(table + 16));
  return _mm256_adds_epu16(d, _mm256_mulhrs_epi16(f, f));
}

template <int B, int V>
void forward(const TrellisShape& shape, const int16_t* x, int steps, const int16_t* table, uint16_t* minima,
             uint16_t* floors) {
  constexpr int branches = 1 << B;
  const long groups = 1L << (shape.memory - B);
  for (int t = 0; t < steps; ++t) {
    const uint16_t* in = minima + t * groups;
    uint16_t* out = minima + (t + 1) * groups;
    __m256i value[V];
    for (int v = 0; v < V; ++v) value[v] = _mm256_set1_epi16(x[t * V + v]);
    const __m256i floor = _mm256_set1_epi16((short)floors[t]);
    __m256i least = _mm256_set1_epi16(-1);
    const int16_t* row = table;
    for (long g = 0; g < groups; g += 16) {
      __m256i best = _mm256_set1_epi16(-1);
#pragma GCC unroll 4
      for (int p = 0; p < branches; ++p, row += 16 * V) {
        const __m256i before = expand<B>(in + ((p * groups + g) >> B));
        best = _mm256_min_epu16(best, _mm256_adds_epu16(before, error<V>(value, row)));
      }
      best = _mm256_sub_epi16(best, floor);
      least = _mm256_min_epu16(least, best);
      _mm256_storeu_si256((__m256i*)(out + g), best);
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

}  // namespace vq::avx2
