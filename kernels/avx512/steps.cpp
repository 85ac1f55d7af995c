// AVX-512 kernels of trellises whose values stand in a table: 16 rows at once, indices by byte permutation, entries by gather
// or byte sums by vpdpbusd.
#include "vq/steps.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace vq {
namespace {

#include "vq/steps_body.inc"

#define VQ_INLINE inline __attribute__((always_inline))

constexpr int kRows = 4;  // registers of 16 rows

// Where the indices of 16 rows are in the bits of a tile: the four bytes that begin with the first bit's, and how far to the
// right an index is moved then. Bytes are counted from the end of the last word, circularly.
struct Places {
  alignas(64) uint8_t byte[kRows * 4][64];
  alignas(64) int32_t right[kRows * 4][16];

  Places(const Steps& s, int words) {
    const int columns = s.columns(), bytes = words * 8;
    for (int r = 0; r < 64; ++r)
      for (int c = 0; c < columns; ++c) {
        const int bit = (r * columns + c) * s.stride, n = r / 16 * columns + c;
        right[n][r % 16] = 32 - s.window - bit % 8;
        for (int i = 0; i < 4; ++i) byte[n][r % 16 * 4 + i] = static_cast<uint8_t>((2 * bytes - bit / 8 - 4 + i) % bytes);
      }
  }
};

struct Tile {
  __m512i low, high;  // the bits, up to 128 bytes
  const Places& places;
  __m512i mask;

  VQ_INLINE __m512i index(int n) const {
    const __m512i order = _mm512_load_si512(places.byte[n]), right = _mm512_load_si512(places.right[n]);
    return _mm512_and_si512(_mm512_srlv_epi32(_mm512_permutex2var_epi8(low, order, high), right), mask);
  }
};

// 32 bits at each index; `size` bytes an entry.
template <int SIZE>
VQ_INLINE __m512i entries(const Steps& s, __m512i index) {
  return _mm512_i32gather_epi32(index, s.entry.data(), SIZE);
}

// The weights of 16 states of a code of byte sums in 32 bits each.
VQ_INLINE __m512i sums_of(const ByteSum& sum, __m512i state) {
  const __m512i product = _mm512_mullo_epi32(state, _mm512_set1_epi32(static_cast<int>(sum.factor)));
  const __m512i bytes = _mm512_add_epi32(product, _mm512_set1_epi32(static_cast<int>(sum.term)));
  return _mm512_dpbusd_epi32(_mm512_set1_epi32(-kSumMiddle), bytes, _mm512_set1_epi8(1));
}

// The lower halves of two registers side by side.
VQ_INLINE __m512i join(__m512i first, __m512i second) {
  return _mm512_mask_blend_epi16(0xaaaaaaaa, first, _mm512_slli_epi32(second, 16));
}

VQ_INLINE void tile(const Steps& s, const Tile& t, int16_t* out) {
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < 2; ++p) {
      __m512i both;
      if (s.twos) {
        both = entries<4>(s, t.index(2 * r + p));
      } else {
        const __m512i a = t.index(4 * r + 2 * p), b = t.index(4 * r + 2 * p + 1);
        both = s.sums ? join(sums_of(*s.sums, a), sums_of(*s.sums, b)) : join(entries<2>(s, a), entries<2>(s, b));
      }
      _mm512_storeu_si512(out + r / 2 * kStepHalf + p * 64 + r % 2 * 32, both);
    }
}

void decode(const Trellis& w, const Steps& s, long band, long first, long count, int16_t* out) {
  if (w.words > 16) return portable_steps.decode(w, s, band, first, count, out);
  const Places places(s, w.words);
  const __m512i mask = _mm512_set1_epi32((1 << s.window) - 1);
  const __mmask64 some = ~uint64_t{0} >> (64 - std::min(64, w.words * 8)), more = w.words > 8 ? ~uint64_t{0} >> (128 - w.words * 8) : 0;
  each_tile(w, band, first, count, out, [&](const uint8_t* bits, int16_t* to) {
    const uint8_t* last = bits + 8 - w.words * 8;
    tile(s, {_mm512_maskz_loadu_epi8(some, last), _mm512_maskz_loadu_epi8(more, last + 64), places, mask}, to);
  });
}

int row_at(const Steps&, int place) { return place; }

}  // namespace

const StepKernels avx512_steps = {decode, row_at};

}  // namespace vq
