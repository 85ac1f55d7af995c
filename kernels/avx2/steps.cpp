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

VQ_INLINE void put(void* at, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), v); }

// Keeps a number in a register: instructions that cut bits out of memory are slow.
VQ_INLINE uint64_t pin(uint64_t v) {
  __asm__("" : "+r"(v));
  return v;
}

// Entries at four indices that follow each other, STRIDE bits apart, from the first bits of a word on.
template <int STRIDE>
struct Entries {
  const int16_t* entry;
  uint64_t control[4];

  explicit Entries(const Steps& s) : entry(s.entry.data()) {
    for (int k = 0; k < 4; ++k) control[k] = static_cast<uint64_t>(64 - s.window - k * STRIDE) | static_cast<uint64_t>(s.window) << 8;
  }
#ifdef __BMI__
  VQ_INLINE uint64_t index(uint64_t v, int k) const { return __bextr_u64(v, control[k]); }
#else
  VQ_INLINE uint64_t index(uint64_t v, int k) const { return v >> (control[k] & 63) & ((uint64_t{1} << (control[k] >> 8)) - 1); }
#endif

  // Pair P of four rows: entries of two columns, two rows to a word.
  template <int P>
  VQ_INLINE __m128i twos(uint64_t v, uint64_t z) const {
    const auto first = [&](uint64_t x, int k) { return _mm_loadu_si32(entry + 2 * index(x, k)); };
    const auto second = [&](uint64_t x, int k) {  // of which the lowest 32 bits are used
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(entry + 2 * index(x, k)));
    };
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(first(v, P), second(v, P + 2)), _mm_unpacklo_epi32(first(z, P), second(z, P + 2)));
  }

  // The same of entries of one column, a row to a word.
  template <int P>
  VQ_INLINE __m128i ones(const uint64_t* row) const {
    __m128i all = _mm_loadu_si32(entry + index(row[0], 2 * P));
    all = _mm_insert_epi16(all, entry[index(row[0], 2 * P + 1)], 1);
    all = _mm_insert_epi16(all, entry[index(row[1], 2 * P)], 2);
    all = _mm_insert_epi16(all, entry[index(row[1], 2 * P + 1)], 3);
    all = _mm_insert_epi16(all, entry[index(row[2], 2 * P)], 4);
    all = _mm_insert_epi16(all, entry[index(row[2], 2 * P + 1)], 5);
    all = _mm_insert_epi16(all, entry[index(row[3], 2 * P)], 6);
    return _mm_insert_epi16(all, entry[index(row[3], 2 * P + 1)], 7);
  }
};

// A tile by its stream: four rows at a time, from two words or from four.
template <int STRIDE, bool TWOS>
void expand(const Steps& s, const uint8_t* bits, int16_t* out) {
  constexpr int words = TWOS ? 2 : 4;
  const Entries<STRIDE> entries(s);
  for (int h = 0; h < 2; ++h, out += kStepHalf)
#pragma GCC unroll 4
    for (int i = 0; i < 8; ++i, bits -= words * STRIDE / 2) {
      uint64_t from[words];
      unroll(std::make_integer_sequence<int, words>{}, [&](auto k) {
        constexpr int bit = k * 4 * STRIDE;
        from[k] = pin(bit % 8 ? little(bits - bit / 8) << bit % 8 : little(bits - bit / 8));
      });
      if constexpr (TWOS) {
        put(out + i * 8, entries.template twos<0>(from[0], from[1]));
        put(out + i * 8 + 64, entries.template twos<1>(from[0], from[1]));
      } else {
        put(out + i * 8, entries.template ones<0>(from));
        put(out + i * 8 + 64, entries.template ones<1>(from));
      }
    }
}

using Expand = void (*)(const Steps& s, const uint8_t* bits, int16_t* out);

template <bool TWOS, int... I>
Expand expand_among(int stride, std::integer_sequence<int, I...>) {
  static constexpr Expand known[] = {expand<I + 1, TWOS>...};
  return known[stride - 1];
}

// Two steps of one value and at most 14 bits of state and step are 12 bits apart at most.
Expand expand_for(const Steps& s) {
  return s.twos ? expand_among<true>(s.stride, std::make_integer_sequence<int, 12>{})
                : expand_among<false>(s.stride, std::make_integer_sequence<int, 8>{});
}

// open_group where the group is a whole one, two words of four tiles at a time.
VQ_INLINE void open_tiles(const Trellis& w, long band, long g, Streams& streams) {
  const uint8_t* base = w.band(band) + g * 64 * w.words;
  for (int t = 0; t < 8; t += 4) {
    uint8_t(*to)[sizeof streams.bytes[0]] = streams.bytes + t;
    for (int k = 0; k < 4; ++k) std::memcpy(to[k], base + (t + k) * 8, 8);
    for (int i = 0; i < w.words; i += 2) {
      const __m256i a = load(base + i * 64 + t * 8), b = load(base + i * 64 + 64 + t * 8);
      const __m256i even = _mm256_unpacklo_epi64(b, a), odd = _mm256_unpackhi_epi64(b, a);
      const int at = (w.words - i - 1) * 8;
      put(to[0] + at, _mm256_castsi256_si128(even));
      put(to[1] + at, _mm256_castsi256_si128(odd));
      put(to[2] + at, _mm256_extracti128_si256(even, 1));
      put(to[3] + at, _mm256_extracti128_si256(odd, 1));
    }
  }
}

// Weights of 16 states of a code of byte sums; TERM: whether something is added to the product.
template <bool TERM>
struct Sums {
  __m256i factor[2], term[2];  // lower halves, upper halves
  __m256i ones = _mm256_set1_epi8(1), middle = _mm256_set1_epi16(kSumMiddle);

  explicit Sums(const ByteSum& of) {
    for (int i = 0; i < 2; ++i) {
      factor[i] = _mm256_set1_epi16(static_cast<short>(of.factor >> (16 * i)));
      term[i] = _mm256_set1_epi16(static_cast<short>((of.term >> (16 * i)) + i));  // and one for the carry
    }
  }

  VQ_INLINE __m256i operator()(__m256i state) const {
    __m256i low = _mm256_mullo_epi16(state, factor[0]);
    __m256i high = _mm256_add_epi16(_mm256_mulhi_epu16(state, factor[0]), _mm256_mullo_epi16(state, factor[1]));
    if constexpr (TERM) {
      low = _mm256_add_epi16(low, term[0]);
      const __m256i kept = _mm256_cmpeq_epi16(_mm256_max_epu16(low, term[0]), low);  // -1 where nothing is carried
      high = _mm256_add_epi16(_mm256_add_epi16(high, term[1]), kept);
    }
    const __m256i bytes = _mm256_add_epi16(_mm256_maddubs_epi16(low, ones), _mm256_maddubs_epi16(high, ones));
    return _mm256_sub_epi16(bytes, middle);
  }
};

// States at bit OFFSET of V, right-aligned; HALF begins at bit 8 and AFTER at bit 16. SHORT: at most 12 bits.
template <int OFFSET, bool SHORT>
VQ_INLINE __m256i state(__m256i v, __m256i half, __m256i after, __m128i right) {
  constexpr int rest = SHORT ? OFFSET % 8 : OFFSET;
  const __m256i from = rest == OFFSET ? v : half;
  if constexpr (rest == 0) return _mm256_srl_epi16(from, right);
  if constexpr (SHORT && rest <= 4) return _mm256_srl_epi16(_mm256_slli_epi16(from, rest), right);
  return _mm256_srl_epi16(_mm256_or_si256(_mm256_slli_epi16(v, OFFSET), _mm256_srli_epi16(after, 16 - OFFSET)), right);
}

// Four tiles whose words are side by side: a 16-bit part of a word is 16 / (4 S) rows. Quads of rows are stored.
template <int S, bool SHORT, typename Sums>
VQ_INLINE void four_tiles(const Sums& sums, const uint8_t* at, __m128i right, int16_t* out) {
  constexpr int words = 4 * S, rows = 4 / S;
  __m256i v = load(at);
  for (int j = 0; j < words; ++j) {
    const __m256i next = load(at + (j + 1) % words * 64), half = Rows::half(v, next), after = Rows::after(v, next);
    unroll(std::make_integer_sequence<int, 2 * rows>{}, [&](auto i) {  // row i / 2, columns of pair i % 2
      const __m256i a = sums(state<2 * S * i, SHORT>(v, half, after, right));
      const __m256i b = sums(state<2 * S * i + S, SHORT>(v, half, after, right));
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

template <int S, bool TERM>
void byte_sums(const Trellis& w, const Steps& s, long band, long first, long count, int16_t* out) {
  const Band here(w, band);
  const Sums<TERM> sums(*s.sums);
  const __m128i right = _mm_cvtsi32_si128(16 - w.memory);
  const auto blocks = [&](auto brief) {
    each_group(w, band, first, count, out, [&](long g, int16_t* to) {
      four_tiles<S, brief>(sums, here.group(g), right, to);
      four_tiles<S, brief>(sums, here.group(g) + 32, right, to + 4 * 2 * 64);
    });
  };
  w.memory <= 12 ? blocks(std::true_type{}) : blocks(std::false_type{});
}

// Bits of a step for which states of byte sums come out of 16-bit words in order.
inline bool in_order(const Steps& s) { return s.sums && (s.step_bits == 1 || s.step_bits == 2 || s.step_bits == 4); }

void decode(const Trellis& w, const Steps& s, long band, long first, long count, int16_t* out) {
  if (in_order(s)) {
    constexpr decltype(&byte_sums<1, false>) known[3][2] = {
        {byte_sums<1, false>, byte_sums<1, true>}, {byte_sums<2, false>, byte_sums<2, true>}, {byte_sums<4, false>, byte_sums<4, true>}};
    return known[s.step_bits / 2][s.sums->term != 0](w, s, band, first, count, out);
  }
  const Expand expand = expand_for(s);
  Streams streams;
  each_group(w, band, first, count, out, [&](long g, int16_t* to) {
    const long tiles = std::min(8L, w.blocks - g * 8);
    tiles == 8 ? open_tiles(w, band, g, streams) : open_group(w, band, g, streams);
    for (long t = 0; t < tiles; ++t) expand(s, streams.bytes[t] + w.words * 8, to + t * 2 * 64);
  });
}

int row_at(const Steps& s, int place) {
  if (!in_order(s)) return place;
  const int rows = 4 / s.step_bits, quad = place / 4;  // parts of a word stand in it from the last to the first
  return (quad / rows * 4 + 3 - place % 4) * rows + quad % rows;
}

}  // namespace

const StepKernels avx2_steps = {decode, row_at};

}  // namespace vq
