// Forward pass of the trellis encoder, 16 groups at a time. See vq/trellis.h for the recursion.
#include "vq/trellis.h"

#include <immintrin.h>

namespace vq::avx2 {
namespace {

using Words = __m256i;

// 16 lanes that hold values[lane >> B].
template <int B>
inline Words expand(const uint16_t* values) {
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

inline uint16_t lowest(Words v) {
  const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return (uint16_t)_mm_extract_epi16(_mm_minpos_epu16(half), 0);
}

inline Words load(const int16_t* from) { return _mm256_loadu_si256((const __m256i*)from); }
inline void store(uint16_t* to, Words v) { _mm256_storeu_si256((__m256i*)to, v); }
inline Words spread(int16_t number) { return _mm256_set1_epi16(number); }
inline Words minus(Words a, Words b) { return _mm256_sub_epi16(a, b); }
inline Words least(Words a, Words b) { return _mm256_min_epu16(a, b); }
inline Words sum(Words a, Words b) { return _mm256_adds_epu16(a, b); }
inline Words square(Words value, Words levels) {
  const Words e = _mm256_subs_epi16(value, levels);
  return _mm256_mulhrs_epi16(e, e);
}

#include "vq/trellis_encode_body.inc"

}  // namespace

TrellisForward trellis_forward(int step_bits, int symbols) { return pick(step_bits, symbols); }

}  // namespace vq::avx2
