// AVX2 table kernels. Rows of a panel are lanes; tables of 16 are looked up by vpshufb, vectors come from tables in the
// first cache and go straight into a multiply-add.
#include "vq/tables.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace vq {
namespace {

#include "vq/tables_body.inc"

#define VQ_INLINE inline __attribute__((always_inline))
#define VQ_INLINE_LAMBDA __attribute__((always_inline))

constexpr long kAhead = 4096;  // bytes of packed codes fetched before they are needed

VQ_INLINE __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
VQ_INLINE __m256i both(const int8_t* at) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
VQ_INLINE void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at) + kAhead, _MM_HINT_T0); }

// Tables of scalars, the common case: symbols of `fold` levels, the same for all units. The largest sum of a block is at
// most the sum of |x| times the largest level.
void scalar_lut(const Tables& w, const float* x, long block, int8_t* lut, float* scale) {
  const Symbols symbols(w);
  const int fold = symbols.fold;
  float top = 0.0f;
  for (long c = 0; c < w.entries; ++c) top = std::max(top, std::fabs(w.table[c]));
  const __m256i byte = _mm256_set1_epi16(255);
  for (long u = 0; u < lookups(w); u += block) {
    const long count = std::min(block, lookups(w) - u);
    const float* own = x + u * fold;
    float sum[8] = {};
    for (long i = 0; i < count * fold; ++i) sum[i & 7] += std::fabs(own[i]);
    const float largest = top * ((sum[0] + sum[1]) + (sum[2] + sum[3]) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
    const bool finite = std::isfinite(largest), usable = finite && largest > 1e-30f;
    const float most = 32767.0f - static_cast<float>(kMostBlock);
    scale[u / block] = usable ? largest / most : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    if (!usable) {
      std::memset(lut + u * 32, 0, count * 32);
      continue;
    }
    const __m256 factor = _mm256_set1_ps(most / largest);
    for (long i = 0; i < count; ++i) {
      __m256 a = _mm256_setzero_ps(), b = a;
      for (int k = 0; k < fold; ++k) {
        const __m256 v = _mm256_mul_ps(_mm256_set1_ps(own[i * fold + k]), factor);
        a = _mm256_fmadd_ps(v, _mm256_loadu_ps(symbols.of(0, k)), a);
        b = _mm256_fmadd_ps(v, _mm256_loadu_ps(symbols.of(0, k) + 8), b);
      }
      const __m256i words =
          _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)), 0xd8);
      const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(words, byte), _mm256_srli_epi16(words, 8));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(lut + (u + i) * 32), _mm256_permute4x64_epi64(bytes, 0xd8));
    }
  }
}

void any_lut(const Tables& w, const float* x, long block, int8_t* lut, float* scale) {
  if (w.width == 1 && w.parts == 1) return scalar_lut(w, x, block, lut, scale);
  integer_lut(w, x, block, lut, scale);
}

// 16-bit sums of 64 rows: registers hold rows 0-7 and 16-23, 8-15 and 24-31, and the same 32 rows on.
struct Sums {
  __m256i s[4];

  VQ_INLINE void clear() {
    for (auto& v : s) v = _mm256_setzero_si256();
  }

  template <int HALF>
  VQ_INLINE void add(__m256i index, __m256i low, __m256i high) {
    const __m256i a = _mm256_shuffle_epi8(low, index), b = _mm256_shuffle_epi8(high, index);
    s[2 * HALF] = _mm256_add_epi16(s[2 * HALF], _mm256_unpacklo_epi8(a, b));
    s[2 * HALF + 1] = _mm256_add_epi16(s[2 * HALF + 1], _mm256_unpackhi_epi8(a, b));
  }

  VQ_INLINE void flush(float scale, float* y) const {
    const __m256 unit = _mm256_set1_ps(scale);
    for (int i = 0; i < 4; ++i)
      for (int lane = 0; lane < 2; ++lane) {
        const __m128i words = lane ? _mm256_extracti128_si256(s[i], 1) : _mm256_castsi256_si128(s[i]);
        float* at = y + i / 2 * 32 + i % 2 * 8 + lane * 16;
        const __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words));
        _mm256_storeu_ps(at, _mm256_fmadd_ps(value, unit, _mm256_loadu_ps(at)));
      }
  }
};

void nibbles(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  alignas(32) float total[kPanelRows] = {};
  const __m256i mask = _mm256_set1_epi8(15);
  for (long u = 0; u < units; u += block) {
    Sums sums;
    sums.clear();
    const long end = std::min(units, u + block);
    for (long i = u; i < end; ++i) {
      const uint8_t* at = codes + i * 32;
      if (!(i & 1)) prefetch(at);
      const __m256i c = load(at), low = both(lut + i * 32), high = both(lut + i * 32 + 16);
      sums.add<0>(_mm256_and_si256(c, mask), low, high);
      sums.add<1>(_mm256_and_si256(_mm256_srli_epi16(c, 4), mask), low, high);
    }
    sums.flush(scale[u / block], total);
  }
  std::memcpy(y, total, sizeof total);
}

// Index vectors of code K of a unit of 3-bit codes, for the first and the second 32 rows.
template <int K>
VQ_INLINE void three_indices(__m256i first, __m256i second, __m256i top, __m256i* a, __m256i* b) {
  const __m256i two = _mm256_set1_epi8(3), one = _mm256_set1_epi8(4);
  const __m256i low = K < 2 ? _mm256_slli_epi16(top, 2 - K) : _mm256_srli_epi16(top, K - 2);
  *a = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(first, 2 * K), two), _mm256_and_si256(low, one));
  *b = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(second, 2 * K), two),
                       _mm256_and_si256(_mm256_srli_epi16(top, 2 + K), one));
}

template <int K>
VQ_INLINE void three(Sums& sums, __m256i first, __m256i second, __m256i top, const int8_t* lut) {
  __m256i a, b;
  three_indices<K>(first, second, top, &a, &b);
  const __m256i low = both(lut + K * 32), high = both(lut + K * 32 + 16);
  sums.add<0>(a, low, high);
  sums.add<1>(b, low, high);
}

void threes(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  alignas(32) float total[kPanelRows] = {};
  block /= 4;
  for (long u = 0; u < units; u += block) {
    Sums sums;
    sums.clear();
    const long end = std::min(units, u + block);
    for (long i = u; i < end; ++i) {
      const uint8_t* at = codes + i * 96;
      prefetch(at);
      prefetch(at + 64);
      const __m256i first = load(at), second = load(at + 32), top = load(at + 64);
      const int8_t* own = lut + i * 128;
      three<0>(sums, first, second, top, own);
      three<1>(sums, first, second, top, own);
      three<2>(sums, first, second, top, own);
      three<3>(sums, first, second, top, own);
    }
    sums.flush(scale[u / block], total);
  }
  std::memcpy(y, total, sizeof total);
}

// Adds table[index] of 8 rows; the 16 floats are two registers.
VQ_INLINE __m256 pick(__m256i index, __m256 low, __m256 high) {
  const __m256 a = _mm256_permutevar8x32_ps(low, index), b = _mm256_permutevar8x32_ps(high, index);
  return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

VQ_INLINE __m256i widen(__m256i bytes, int part) {
  const __m128i half = part / 2 ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes);
  return _mm256_cvtepu8_epi32(part % 2 ? _mm_unpackhi_epi64(half, half) : half);
}

void nibbles_float(const uint8_t* codes, long units, const float* lut, float* y) {
  __m256 sum[8] = {};
  const __m256i mask = _mm256_set1_epi8(15);
  for (long u = 0; u < units; ++u) {
    prefetch(codes + u * 32);
    const __m256i c = load(codes + u * 32);
    const __m256i half[2] = {_mm256_and_si256(c, mask), _mm256_and_si256(_mm256_srli_epi16(c, 4), mask)};
    const __m256 low = _mm256_loadu_ps(lut + u * 16), high = _mm256_loadu_ps(lut + u * 16 + 8);
    for (int i = 0; i < 8; ++i) sum[i] = _mm256_add_ps(sum[i], pick(widen(half[i / 4], i % 4), low, high));
  }
  for (int i = 0; i < 8; ++i) _mm256_storeu_ps(y + 8 * i, sum[i]);
}

void threes_float(const uint8_t* codes, long units, const float* lut, float* y) {
  __m256 sum[8] = {};
  for (long u = 0; u < units; ++u) {
    const uint8_t* at = codes + u * 96;
    prefetch(at);
    const __m256i first = load(at), second = load(at + 32), top = load(at + 64);
    __m256i half[4][2];
    three_indices<0>(first, second, top, &half[0][0], &half[0][1]);
    three_indices<1>(first, second, top, &half[1][0], &half[1][1]);
    three_indices<2>(first, second, top, &half[2][0], &half[2][1]);
    three_indices<3>(first, second, top, &half[3][0], &half[3][1]);
    for (int k = 0; k < 4; ++k) {
      const __m256 table = _mm256_loadu_ps(lut + (u * 4 + k) * 16);
      for (int i = 0; i < 8; ++i)
        sum[i] = _mm256_add_ps(sum[i], _mm256_permutevar8x32_ps(table, widen(half[k][i / 4], i % 4)));
    }
  }
  for (int i = 0; i < 8; ++i) _mm256_storeu_ps(y + 8 * i, sum[i]);
}

// Pairs of columns; 255 * 16319 * 2 * 128 stays below 2^31.
void levels(const uint8_t* codes, long units, const int16_t* x, int64_t* sums) {
  std::fill(sums, sums + kPanelRows, int64_t{0});
  const __m256i zero = _mm256_setzero_si256();
  for (long u = 0; u < units; u += 256) {
    __m256i acc[8] = {};
    const long end = std::min(units, u + 256);
    for (long i = u; i < end; i += 2) {
      const bool pair = i + 1 < end;
      prefetch(codes + i * 64);
      prefetch(codes + i * 64 + 64);
      int32_t factor = static_cast<uint16_t>(x[i]);
      if (pair) factor |= static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint16_t>(x[i + 1])) << 16);
      const __m256i two = _mm256_set1_epi32(factor);
      for (int h = 0; h < 2; ++h) {
        const __m256i a = load(codes + i * 64 + h * 32), b = pair ? load(codes + i * 64 + 64 + h * 32) : zero;
        const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        const __m256i part[4] = {_mm256_unpacklo_epi8(low, zero), _mm256_unpackhi_epi8(low, zero),
                                 _mm256_unpacklo_epi8(high, zero), _mm256_unpackhi_epi8(high, zero)};
        for (int k = 0; k < 4; ++k) acc[h * 4 + k] = _mm256_add_epi32(acc[h * 4 + k], _mm256_madd_epi16(part[k], two));
      }
    }
    for (int k = 0; k < 8; ++k) {  // rows 4 k.. and 16 on of a half
      alignas(32) int32_t four[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(four), acc[k]);
      for (int i = 0; i < 8; ++i) sums[k / 4 * 32 + k % 4 * 4 + i / 4 * 16 + i % 4] += four[i];
    }
  }
}

// The eight horizontal sums of eight registers.
VQ_INLINE __m256 across(const __m256* a) {
  const __m256 s0 = _mm256_hadd_ps(a[0], a[1]), s1 = _mm256_hadd_ps(a[2], a[3]);
  const __m256 s2 = _mm256_hadd_ps(a[4], a[5]), s3 = _mm256_hadd_ps(a[6], a[7]);
  const __m256 t0 = _mm256_hadd_ps(s0, s1), t1 = _mm256_hadd_ps(s2, s3);
  return _mm256_add_ps(_mm256_permute2f128_ps(t0, t1, 0x20), _mm256_permute2f128_ps(t0, t1, 0x31));
}

template <int LANES>
struct Lanes;
template <>
struct Lanes<4> {
  using V = __m128;
  static VQ_INLINE V load(const float* at) { return _mm_loadu_ps(at); }
  static VQ_INLINE V add(V acc, V x, const float* at) { return _mm_fmadd_ps(x, _mm_loadu_ps(at), acc); }
  static VQ_INLINE V zero() { return _mm_setzero_ps(); }
  static VQ_INLINE __m256 wide(V v) { return _mm256_zextps128_ps256(v); }
};
template <>
struct Lanes<8> {
  using V = __m256;
  static VQ_INLINE V load(const float* at) { return _mm256_loadu_ps(at); }
  static VQ_INLINE V add(V acc, V x, const float* at) { return _mm256_fmadd_ps(x, _mm256_loadu_ps(at), acc); }
  static VQ_INLINE V zero() { return _mm256_setzero_ps(); }
  static VQ_INLINE __m256 wide(V v) { return v; }
};

VQ_INLINE uint64_t word64(const uint16_t* at) {
  uint64_t v;
  std::memcpy(&v, at, 8);
  return v;
}

// Eight rows at a time; `entry(u, code)` is where a vector begins. Codes are cut out of 64-bit words: loads are what limits.
template <int LANES, bool ONE, typename Entry>
VQ_INLINE void vectors_of(const uint16_t* codes, long units, int lanes, const float* x, float* y, Entry entry) {
  using L = Lanes<LANES>;
  for (int r = 0; r < kPanelRows; r += 8) {
    typename L::V acc[8];
    for (auto& a : acc) a = L::zero();
    for (long u = 0; u < units; ++u) {
      const uint64_t low = word64(codes + u * kPanelRows + r), high = word64(codes + u * kPanelRows + r + 4);
      for (int part = 0; part < (ONE ? LANES : lanes); part += LANES) {
        const typename L::V xs = L::load(x + u * (ONE ? LANES : lanes) + part);
        acc[0] = L::add(acc[0], xs, entry(u, low & 65535) + part);
        acc[1] = L::add(acc[1], xs, entry(u, low >> 16 & 65535) + part);
        acc[2] = L::add(acc[2], xs, entry(u, low >> 32 & 65535) + part);
        acc[3] = L::add(acc[3], xs, entry(u, low >> 48) + part);
        acc[4] = L::add(acc[4], xs, entry(u, high & 65535) + part);
        acc[5] = L::add(acc[5], xs, entry(u, high >> 16 & 65535) + part);
        acc[6] = L::add(acc[6], xs, entry(u, high >> 32 & 65535) + part);
        acc[7] = L::add(acc[7], xs, entry(u, high >> 48) + part);
      }
    }
    __m256 all[8];
    for (int i = 0; i < 8; ++i) all[i] = L::wide(acc[i]);
    _mm256_storeu_ps(y + r, _mm256_add_ps(_mm256_loadu_ps(y + r), across(all)));
  }
}

template <typename Entry>
VQ_INLINE void vectors_any(const uint16_t* codes, long units, int lanes, const float* x, float* y, Entry entry) {
  if (lanes == 4) return vectors_of<4, true>(codes, units, lanes, x, y, entry);
  if (lanes == 8) return vectors_of<8, true>(codes, units, lanes, x, y, entry);
  vectors_of<8, false>(codes, units, lanes, x, y, entry);
}

void places(const uint8_t* codes, long units, const uint16_t* offset, int stride, uint16_t* index) {
  const __m256i factor = _mm256_set1_epi16(static_cast<short>(stride / 2));
  for (long u = 0; u < units; ++u) {
    const __m256i begin = _mm256_set1_epi16(static_cast<short>(offset[u]));
    prefetch(codes + u * kPanelRows);
    for (int r = 0; r < kPanelRows; r += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + u * kPanelRows + r));
      const __m256i words = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_cvtepu8_epi16(bytes), factor), begin);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + u * kPanelRows + r), words);
    }
  }
}

void vectors(const uint16_t* index, long units, const float* table, int lanes, const float* x, float* y) {
  vectors_any(index, units, lanes, x, y, [=](long, uint64_t place) VQ_INLINE_LAMBDA { return table + 2 * place; });
}

void long_vectors(const uint16_t* codes, long units, const float* table, const int32_t* offset, int stride, int lanes,
                  const float* x, float* y) {
  if (stride == 8)
    return vectors_any(codes, units, lanes, x, y, [=](long u, uint64_t code) VQ_INLINE_LAMBDA {
      return table + offset[u] + code * 8;
    });
  vectors_any(codes, units, lanes, x, y, [=](long u, uint64_t code) VQ_INLINE_LAMBDA {
    return table + offset[u] + code * stride;
  });
}

// E8P ---------------------------------------------------------------------------------------------------------------

constexpr long kE8Units = 21;  // 21 * 2 * 6 * 127 < 2^15

// Bytes of signs with the eighth sign, the parity of the others, in place of the move bit.
VQ_INLINE __m256i with_parity(__m256i s) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
  const __m256i low = _mm256_and_si256(s, _mm256_set1_epi8(15));
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(s, 4), _mm256_set1_epi8(7));
  const __m256i parity = _mm256_xor_si256(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
  return _mm256_or_si256(_mm256_and_si256(s, _mm256_set1_epi8(127)), parity);
}

VQ_INLINE __m128i two_entries(const uint8_t* magnitude, uint64_t a, uint64_t b) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(magnitude + 8 * a));
  return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(magnitude + 8 * b)));
}

// QUADS x 4 rows from row r on, P planes, up to kE8Units units.
template <int QUADS, int P>
VQ_INLINE void e8p_rows(const uint8_t* codes, const uint8_t* signs, long units, const uint8_t* magnitude, const int8_t* x,
                        long plane, int r, int32_t* sums) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3,
                                          3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  const __m256i seven = _mm256_set1_epi8(7);
  __m256i acc[QUADS * P];
  for (auto& a : acc) a = _mm256_setzero_si256();
  for (long u = 0; u < units; ++u) {
    const uint8_t* at = codes + u * 128 + r;
    __m256i xs[P];
    for (int p = 0; p < P; ++p) {
      int64_t eight;
      std::memcpy(&eight, x + p * plane + u * 8, 8);
      xs[p] = _mm256_set1_epi64x(eight);
    }
    for (int q = 0; q < QUADS; ++q) {
      const uint8_t* c = at + 4 * q;
      const __m256i a = _mm256_inserti128_si256(_mm256_castsi128_si256(two_entries(magnitude, c[0], c[1])),
                                                two_entries(magnitude, c[2], c[3]), 1);
      int32_t four;
      std::memcpy(&four, signs + u * kPanelRows + r + 4 * q, 4);
      const __m256i s = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(four), spread), bit);
      const __m256i value = _mm256_xor_si256(a, _mm256_and_si256(_mm256_cmpeq_epi8(s, bit), seven));
      for (int p = 0; p < P; ++p)
        acc[q * P + p] = _mm256_add_epi16(acc[q * P + p], _mm256_maddubs_epi16(value, xs[p]));
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
  for (int q = 0; q < QUADS; ++q)
    for (int p = 0; p < P; ++p) {
      const __m256i pairs = _mm256_madd_epi16(acc[q * P + p], ones);
      const __m256i both_halves = _mm256_hadd_epi32(pairs, pairs);
      int32_t* y = sums + 2 * p * kPanelRows + r + 4 * q;
      const __m128i row = _mm_unpacklo_epi64(_mm256_castsi256_si128(both_halves), _mm256_extracti128_si256(both_halves, 1));
      __m128i* out = reinterpret_cast<__m128i*>(y);
      _mm_storeu_si128(out, _mm_add_epi32(_mm_loadu_si128(out), row));
    }
}

// Adds x_sums of the units whose move bit is set.
void e8p_moves(const uint8_t* codes, long units, const int16_t* x_sums, int32_t* sums) {
  __m256i acc[4] = {};
  const __m256i zero = _mm256_setzero_si256();
  for (long u = 0; u < units; ++u) {
    const __m256i x = _mm256_set1_epi16(x_sums[u]);
    for (int h = 0; h < 2; ++h) {
      const __m256i s = load(codes + u * 128 + 64 + h * 32);
      const __m256i low = _mm256_srai_epi16(_mm256_unpacklo_epi8(zero, s), 15);
      const __m256i high = _mm256_srai_epi16(_mm256_unpackhi_epi8(zero, s), 15);
      acc[2 * h] = _mm256_add_epi16(acc[2 * h], _mm256_and_si256(low, x));
      acc[2 * h + 1] = _mm256_add_epi16(acc[2 * h + 1], _mm256_and_si256(high, x));
    }
  }
  for (int i = 0; i < 4; ++i)
    for (int lane = 0; lane < 2; ++lane) {
      const __m128i words = lane ? _mm256_extracti128_si256(acc[i], 1) : _mm256_castsi256_si128(acc[i]);
      __m256i* at = reinterpret_cast<__m256i*>(sums + i / 2 * 32 + i % 2 * 8 + lane * 16);
      _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), _mm256_cvtepi16_epi32(words)));
    }
}

void e8p(const uint8_t* codes, long units, const uint8_t* magnitude, const int8_t* x, const int16_t* x_sums, int planes,
         int32_t* sums) {
  std::fill(sums, sums + 2 * planes * kPanelRows, 0);
  alignas(32) uint8_t signs[kE8Units * kPanelRows];
  const long plane = units * 8;
  for (long u = 0; u < units; u += kE8Units) {
    const long count = std::min(kE8Units, units - u);
    const uint8_t* at = codes + u * 128;
    for (long i = 0; i < count; ++i) {
      prefetch(at + i * 128);
      prefetch(at + i * 128 + 64);
      for (int h = 0; h < 2; ++h)
        _mm256_store_si256(reinterpret_cast<__m256i*>(signs + i * kPanelRows + h * 32),
                           with_parity(load(at + i * 128 + 64 + h * 32)));
    }
    int p = 0;
    for (; p + 2 <= planes; p += 2)
      for (int r = 0; r < kPanelRows; r += 16)
        e8p_rows<4, 2>(at, signs, count, magnitude, x + p * plane + u * 8, plane, r, sums + 2 * p * kPanelRows);
    if (p < planes)
      for (int r = 0; r < kPanelRows; r += 32)
        e8p_rows<8, 1>(at, signs, count, magnitude, x + p * plane + u * 8, plane, r, sums + 2 * p * kPanelRows);
    for (p = 0; p < planes; ++p) e8p_moves(at, count, x_sums + p * units + u, sums + (2 * p + 1) * kPanelRows);
  }
}

// Scales of eight rows and eight groups, halves (8, groups), to floats (groups, 64).
VQ_INLINE void eight_scales(const uint16_t* from, long groups, float* to) {
  __m128i a[8], b[8];
  for (int r = 0; r < 8; ++r) a[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * groups));
  for (int i = 0; i < 4; ++i) {  // pairs of rows, then fours, then eights
    b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 2; ++i) {
      a[4 * half + 2 * i] = _mm_unpacklo_epi32(b[4 * half + i], b[4 * half + 2 + i]);
      a[4 * half + 2 * i + 1] = _mm_unpackhi_epi32(b[4 * half + i], b[4 * half + 2 + i]);
    }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + 2 * i * kPanelRows, _mm256_cvtph_ps(_mm_unpacklo_epi64(a[i], a[4 + i])));
    _mm256_storeu_ps(to + (2 * i + 1) * kPanelRows, _mm256_cvtph_ps(_mm_unpackhi_epi64(a[i], a[4 + i])));
  }
}

void scales(const uint16_t* from, long groups, float* to) {
  for (long r = 0; r < kPanelRows; r += 8) {
    const uint16_t* rows = from + r * groups;
    long g = 0;
    for (; g + 8 <= groups; g += 8) eight_scales(rows + g, groups, to + g * kPanelRows + r);
    for (; g < groups; ++g) {
      alignas(16) uint16_t one[8];
      for (int i = 0; i < 8; ++i) one[i] = rows[i * groups + g];
      _mm256_storeu_ps(to + g * kPanelRows + r, _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(one))));
    }
  }
}

void add_scaled(const float* part, const float* scale, float* y) {
  for (long r = 0; r < kPanelRows; r += 8)
    _mm256_storeu_ps(y + r, _mm256_fmadd_ps(_mm256_loadu_ps(part + r), _mm256_loadu_ps(scale + r), _mm256_loadu_ps(y + r)));
}

}  // namespace

const TablesKernels avx2_tables = {any_lut, float_lut, nibbles, nibbles_float, threes, threes_float, levels,
                                   places, vectors, long_vectors, e8p, quantize_row, scales, add_scaled};

}  // namespace vq
