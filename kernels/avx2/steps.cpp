// AVX2 kernels of trellises whose values stand in a table: entries gathered one by one, or byte sums in registers.
#include "vq/steps.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

namespace vq {
namespace {

#include "vq/steps_body.inc"
#include "vq/ymm_levels.inc"

// Four indices that follow each other, `stride` bits apart, from the first bits of a word on.
struct Indices {
#ifdef __BMI__
  uint64_t control[4];

  explicit Indices(const Steps& s) {
    for (int k = 0; k < 4; ++k) control[k] = static_cast<uint64_t>(64 - s.window - k * s.stride) | static_cast<uint64_t>(s.window) << 8;
  }
  VQ_INLINE uint64_t operator()(uint64_t v, int k) const { return __bextr_u64(v, control[k]); }
#else
  uint64_t right[4], mask;

  explicit Indices(const Steps& s) : mask((uint64_t{1} << s.window) - 1) {
    for (int k = 0; k < 4; ++k) right[k] = static_cast<uint64_t>(64 - s.window - k * s.stride);
  }
  VQ_INLINE uint64_t operator()(uint64_t v, int k) const { return v >> right[k] & mask; }
#endif
};

VQ_INLINE void put(int16_t* at, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), v); }

// Entries of two columns: four rows, of two entries each, at a time.
VQ_INLINE void twos(const uint8_t* bits, const int16_t* entry, const Indices& indices, long stride, int16_t* out) {
  const long half = stride / 2;
  const int nibble = static_cast<int>(stride % 2 * 4);
  const auto first = [&](uint64_t v, int k) { return _mm_loadu_si32(entry + 2 * indices(v, k)); };
  const auto second = [&](uint64_t v, int k) {  // of which the lowest 32 bits are used
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(entry + 2 * indices(v, k)));
  };
  for (int h = 0; h < 2; ++h, out += kStepHalf)
    for (int i = 0; i < 8; ++i, bits -= stride) {
      const uint64_t v = little(bits), z = little(bits - half) << nibble;
      for (int p = 0; p < 2; ++p) {
        const __m128i a = _mm_unpacklo_epi32(first(v, p), second(v, p + 2));
        const __m128i b = _mm_unpacklo_epi32(first(z, p), second(z, p + 2));
        put(out + p * 64 + i * 8, _mm_unpacklo_epi64(a, b));
      }
    }
}

// Entries of one column: four rows, of four entries each, at a time.
VQ_INLINE void ones(const uint8_t* bits, const int16_t* entry, const Indices& indices, long stride, int16_t* out) {
  const int nibble = static_cast<int>(stride % 2 * 4);
  for (int h = 0; h < 2; ++h, out += kStepHalf)
    for (int i = 0; i < 8; ++i, bits -= 2 * stride) {
      const uint64_t row[4] = {little(bits), little(bits - stride / 2) << nibble, little(bits - stride),
                               little(bits - stride - stride / 2) << nibble};
      for (int p = 0; p < 2; ++p) {
        __m128i all = _mm_cvtsi32_si128(entry[indices(row[0], 2 * p)]);
        all = _mm_insert_epi16(all, entry[indices(row[0], 2 * p + 1)], 1);
        all = _mm_insert_epi16(all, entry[indices(row[1], 2 * p)], 2);
        all = _mm_insert_epi16(all, entry[indices(row[1], 2 * p + 1)], 3);
        all = _mm_insert_epi16(all, entry[indices(row[2], 2 * p)], 4);
        all = _mm_insert_epi16(all, entry[indices(row[2], 2 * p + 1)], 5);
        all = _mm_insert_epi16(all, entry[indices(row[3], 2 * p)], 6);
        all = _mm_insert_epi16(all, entry[indices(row[3], 2 * p + 1)], 7);
        put(out + p * 64 + i * 8, all);
      }
    }
}

// Weights of 16 states of the code `mul1`.
struct Sums {
  __m256i low = _mm256_set1_epi16(static_cast<short>(kSumFactor & 0xffff)), high = _mm256_set1_epi16(static_cast<short>(kSumFactor >> 16));
  __m256i ones = _mm256_set1_epi8(1), middle = _mm256_set1_epi16(kSumMiddle);

  VQ_INLINE __m256i operator()(__m256i state) const {
    const __m256i upper = _mm256_add_epi16(_mm256_mulhi_epu16(state, low), _mm256_mullo_epi16(state, high));
    const __m256i bytes = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_mullo_epi16(state, low), ones), _mm256_maddubs_epi16(upper, ones));
    return _mm256_sub_epi16(bytes, middle);
  }
};

// States at bits Q * S of V, where AFTER follows: right-aligned.
template <int S, int Q>
VQ_INLINE __m256i state(__m256i v, __m256i after, __m128i right) {
  constexpr int offset = Q * S;
  if constexpr (offset == 0) return _mm256_srl_epi16(v, right);
  return _mm256_srl_epi16(_mm256_or_si256(_mm256_slli_epi16(v, offset), _mm256_srli_epi16(after, 16 - offset)), right);
}

// Four tiles whose words are side by side: a 16-bit part of a word is 16 / (4 S) rows. Quads of rows are stored.
template <int S>
VQ_INLINE void four_tiles(const Sums& sums, const uint8_t* at, __m128i right, int16_t* out) {
  constexpr int words = 4 * S, rows = 4 / S;
  __m256i v = load(at);
  for (int j = 0; j < words; ++j) {
    const __m256i next = load(at + (j + 1) % words * 64), after = Rows::after(v, next);
    unroll(std::make_integer_sequence<int, 2 * rows>{}, [&](auto i) {  // row i / 2, columns of pair i % 2
      const __m256i a = sums(state<S, 2 * i>(v, after, right)), b = sums(state<S, 2 * i + 1>(v, after, right));
      const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
      const int quad = j * rows + i / 2;
      int16_t* to = out + quad / 8 * kStepHalf + i % 2 * 64 + quad % 8 * 8;
      put(to, _mm256_castsi256_si128(low));
      put(to + 2 * 64, _mm256_castsi256_si128(high));
      put(to + 4 * 64, _mm256_extracti128_si256(low, 1));
      put(to + 6 * 64, _mm256_extracti128_si256(high, 1));
    });
    v = next;
  }
}

template <int S>
void byte_sums(const Trellis& w, long band, long first, long count, int16_t* out) {
  const Band here(w, band);
  const Sums sums;
  const __m128i right = _mm_cvtsi32_si128(16 - w.memory);
  for (long g = 2 * first; g < std::min(2 * (first + count), w.groups); ++g) {
    const uint8_t* at = here.group(g);
    for (int i = 0; i < w.words; ++i) _mm_prefetch(reinterpret_cast<const char*>(here.base) + (g * w.words + i) * 64 + 4096, _MM_HINT_T0);
    int16_t* to = out + (g / 2 - first) * 2 * kStepHalf + g % 2 * 8 * 2 * 64;
    four_tiles<S>(sums, at, right, to);
    four_tiles<S>(sums, at + 32, right, to + 4 * 2 * 64);
  }
}

// Bits of a step for which states of `mul1` come out of 16-bit words in order.
inline bool in_order(const Steps& s) { return s.sums && (s.step_bits == 1 || s.step_bits == 2 || s.step_bits == 4); }

void decode(const Trellis& w, const Steps& s, long band, long first, long count, int16_t* out) {
  if (in_order(s)) {
    if (s.step_bits == 1) return byte_sums<1>(w, band, first, count, out);
    if (s.step_bits == 2) return byte_sums<2>(w, band, first, count, out);
    return byte_sums<4>(w, band, first, count, out);
  }
  const Indices indices(s);
  const int16_t* entry = s.entry.data();
  const long stride = s.stride;
  if (s.twos) {
    each_tile(w, band, first, count, out, [&](const uint8_t* bits, int16_t* to) { twos(bits, entry, indices, stride, to); });
  } else {
    each_tile(w, band, first, count, out, [&](const uint8_t* bits, int16_t* to) { ones(bits, entry, indices, stride, to); });
  }
}

int row_at(const Steps& s, int place) {
  if (!in_order(s)) return place;
  const int rows = 4 / s.step_bits, quad = place / 4;  // parts of a word stand in it from the last to the first
  return (quad / rows * 4 + 3 - place % 4) * rows + quad % rows;
}

}  // namespace

const StepKernels avx2_steps = {decode, row_at};

}  // namespace vq
