// AVX-512 table kernels of one row: tables of inner products in registers of 64 bytes, looked up by vpermb and vpermi2b.
#include "vq/tables_bytes.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace vq {
namespace {

#define VQ_INLINE inline __attribute__((always_inline))

VQ_INLINE __m512i load(const void* at) { return _mm512_loadu_si512(at); }
VQ_INLINE void store(void* at, __m512i v) { _mm512_storeu_si512(at, v); }

// Table of 256 bytes in four registers.
struct Table256 {
  __m512i part[4];

  VQ_INLINE explicit Table256(const uint8_t* at) : part{load(at), load(at + 64), load(at + 128), load(at + 192)} {}

  VQ_INLINE __m512i operator()(__m512i index, __mmask64 upper) const {
    const __m512i low = _mm512_permutex2var_epi8(part[0], index, part[1]);
    return _mm512_mask_blend_epi8(upper, low, _mm512_permutex2var_epi8(part[2], index, part[3]));
  }
};

// Sums of unsigned bytes as 16 bits: even rows, odd rows.
struct ByteSums {
  __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();

  VQ_INLINE void add(__m512i bytes) {
    even = _mm512_add_epi16(even, _mm512_and_si512(bytes, _mm512_set1_epi16(255)));
    odd = _mm512_add_epi16(odd, _mm512_srli_epi16(bytes, 8));
  }

  // Rows 4 j + K as 32 bits.
  template <int K>
  VQ_INLINE __m512i rows() const {
    const __m512i words = K % 2 ? odd : even;
    return K < 2 ? _mm512_and_si512(words, _mm512_set1_epi32(65535)) : _mm512_srli_epi32(words, 16);
  }
};

// E8P ---------------------------------------------------------------------------------------------------------------

constexpr int kMove = 1524;  // the largest |6 x + 6 x|

// Values of the first and the second column of a pair for 32 of the 64 symbols, from `first` on.
void pair_values(int first, int16_t* a, int16_t* b) {
  for (int i = 0; i < 32; ++i) {
    const int symbol = first + i, low = (symbol & 3) + 4, high = (symbol >> 2 & 3) + 4;
    a[i] = static_cast<int16_t>(symbol & 16 ? 7 - low : low);
    b[i] = static_cast<int16_t>(symbol & 32 ? 7 - high : high);
  }
}

void e8p_lut(const int8_t* x, long units, uint8_t* lut) {
  alignas(64) int16_t a[2][32], b[2][32];
  pair_values(0, a[0], b[0]);
  pair_values(32, a[1], b[1]);
  const __m512i six = _mm512_set1_epi16(63), move = _mm512_set1_epi16(kMove);
  for (long p = 0; p < units * 4; ++p) {
    const __m512i first = _mm512_set1_epi16(x[2 * p]), second = _mm512_set1_epi16(x[2 * p + 1]);
    for (int h = 0; h < 2; ++h) {
      const __m512i sum = _mm512_add_epi16(_mm512_mullo_epi16(first, load(a[h])), _mm512_mullo_epi16(second, load(b[h])));
      const __m512i entry = _mm512_add_epi16(sum, move);  // digit 3 does not occur
      uint8_t* to = lut + p * 128 + h * 32;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(_mm512_and_si512(entry, six)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64),
                          _mm512_cvtepi16_epi8(_mm512_and_si512(_mm512_srli_epi16(entry, 6), six)));
    }
  }
}

// Symbols of the four pairs of 64 rows: digits of two columns in bits 0 to 3, signs in bits 4 and 5, anything above.
VQ_INLINE void symbols(__m512i a, __m512i b, __m512i signs, __m512i parity, __m512i* index) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i pairs = _mm512_set1_epi8(0x55), seven = _mm512_set1_epi8(0x7f), sixth = _mm512_set1_epi8(0x10);
  // the eighth sign: the parity of seven signs and the odd digits
  const __m512i digits = _mm512_ternarylogic_epi32(a, b, pairs, 0x28);        // (a ^ b) & pairs
  const __m512i bits = _mm512_ternarylogic_epi32(signs, seven, digits, 0x6a);  // (signs & seven) ^ digits
  const __m512i folded = _mm512_xor_si512(bits, _mm512_srli_epi16(bits, 4));
  const __m512i last = _mm512_permutexvar_epi8(folded, parity);
  const __m512i top = _mm512_ternarylogic_epi32(_mm512_srli_epi16(signs, 2), sixth, last, 0xea);  // (signs & sixth) | last
  index[0] = _mm512_ternarylogic_epi32(low, a, _mm512_slli_epi16(signs, 4), 0xca);                // low ? a : signs
  index[1] = _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(a, 4), _mm512_slli_epi16(signs, 2), 0xca);
  index[2] = _mm512_ternarylogic_epi32(low, b, signs, 0xca);
  index[3] = _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(b, 4), top, 0xca);
}

VQ_INLINE __m512i four_lookups(const __m512i* index, const uint8_t* lut) {
  const __m512i a = _mm512_add_epi8(_mm512_permutexvar_epi8(index[0], load(lut)), _mm512_permutexvar_epi8(index[1], load(lut + 128)));
  const __m512i b = _mm512_add_epi8(_mm512_permutexvar_epi8(index[2], load(lut + 256)), _mm512_permutexvar_epi8(index[3], load(lut + 384)));
  return _mm512_add_epi8(a, b);
}

// Sums of x where the move bit is set: even rows, odd rows.
struct MoveSums {
  __m512i even = _mm512_setzero_si512(), odd = _mm512_setzero_si512();

  VQ_INLINE void add(__mmask32 even_rows, __mmask32 odd_rows, int16_t x) {
    even = _mm512_mask_add_epi16(even, even_rows, even, _mm512_set1_epi16(x));
    odd = _mm512_mask_add_epi16(odd, odd_rows, odd, _mm512_set1_epi16(x));
  }

  template <int K>
  VQ_INLINE __m512i rows() const {
    const __m512i words = K % 2 ? odd : even;
    return _mm512_srai_epi32(K < 2 ? _mm512_slli_epi32(words, 16) : words, 16);
  }
};

template <int K>
VQ_INLINE void flush(const ByteSums& low, const ByteSums& high, const MoveSums& moves, int32_t* sums) {
  int32_t* at = sums + K * 16;
  const __m512i value = _mm512_add_epi32(low.rows<K>(), _mm512_slli_epi32(high.rows<K>(), 6));
  store(at, _mm512_add_epi32(load(at), value));
  store(at + kPanelRows, _mm512_add_epi32(load(at + kPanelRows), moves.rows<K>()));
}

template <int PLANES>
VQ_INLINE void e8p_block(const uint8_t* codes, long units, const uint8_t* digits, const uint8_t* lut, long lut_stride,
                         const int16_t* x_sums, long units_stride, int32_t* sums) {
  alignas(64) uint8_t odd[64];
  for (int i = 0; i < 64; ++i) odd[i] = __builtin_parity(i & 15) ? 32 : 0;
  const Table256 first(digits), second(digits + 256);
  const __m512i parity = load(odd);
  ByteSums low[PLANES], high[PLANES];
  MoveSums moves[PLANES];
  for (long u = 0; u < units; ++u) {
    const __m512i pattern = load(codes + u * 128), signs = load(codes + u * 128 + 64);
    const __mmask64 upper = _mm512_movepi8_mask(pattern);
    __m512i index[4];
    symbols(first(pattern, upper), second(pattern, upper), signs, parity, index);
    const __mmask32 odd_rows = _mm512_movepi16_mask(signs), even_rows = _mm512_movepi16_mask(_mm512_slli_epi16(signs, 8));
    for (int p = 0; p < PLANES; ++p) {
      const uint8_t* own = lut + p * lut_stride + u * 512;
      low[p].add(four_lookups(index, own));
      high[p].add(four_lookups(index, own + 64));
      moves[p].add(even_rows, odd_rows, x_sums[p * units_stride + u]);
    }
  }
  for (int p = 0; p < PLANES; ++p) {
    int32_t* to = sums + 2 * p * kPanelRows;
    flush<0>(low[p], high[p], moves[p], to);
    flush<1>(low[p], high[p], moves[p], to);
    flush<2>(low[p], high[p], moves[p], to);
    flush<3>(low[p], high[p], moves[p], to);
  }
}

void e8p(const uint8_t* codes, long units, const uint8_t* digits, const uint8_t* lut, long lut_stride, const int16_t* x_sums,
         long units_stride, int planes, int32_t* sums) {
  if (planes == 2) return e8p_block<2>(codes, units, digits, lut, lut_stride, x_sums, units_stride, sums);
  e8p_block<1>(codes, units, digits, lut, lut_stride, x_sums, units_stride, sums);
}

// Codes of 8 bits ---------------------------------------------------------------------------------------------------

// 256 inner products of a unit; returns the largest magnitudes.
VQ_INLINE __m512 inner_products(const float* columns, int width, const float* x, float* out) {
  __m512 largest = _mm512_setzero_ps();
  for (int c = 0; c < 256; c += 128) {
    __m512 sum[8];
    for (auto& v : sum) v = _mm512_setzero_ps();
    for (int i = 0; i < width; ++i) {
      const __m512 factor = _mm512_set1_ps(x[i]);
      for (int k = 0; k < 8; ++k) sum[k] = _mm512_fmadd_ps(factor, _mm512_loadu_ps(columns + i * 256 + c + 16 * k), sum[k]);
    }
    for (int k = 0; k < 8; ++k) {
      _mm512_storeu_ps(out + c + 16 * k, sum[k]);
      largest = _mm512_max_ps(largest, _mm512_abs_ps(sum[k]));
    }
  }
  return largest;
}

float lut(const Tables& w, const float* columns, const float* x, long first, long count, uint8_t* lut) {
  alignas(64) float product[kByteBlock * 256];
  __m512 largest = _mm512_setzero_ps();
  float check = 0.0f;  // NaN where a number is not finite
  for (long u = 0; u < count; ++u) {
    const float* own = x + w.column(first + u);
    for (int i = 0; i < w.width; ++i) check += own[i] * 0.0f;
    const float* entries = columns + static_cast<long>((first + u) % w.parts) * w.width * 256;
    largest = _mm512_max_ps(largest, inner_products(entries, w.width, own, product + u * 256));
  }
  alignas(64) float lanes[16];
  _mm512_store_ps(lanes, largest);
  const float top = *std::max_element(lanes, lanes + 16);
  const bool finite = check == 0.0f && std::isfinite(top), usable = finite && top > 1e-30f;
  const __m512 factor = _mm512_set1_ps(usable ? 32767.0f / top : 0.0f);
  const __m512i move = _mm512_set1_epi32(32768);
  for (long i = 0; i < count * 256; i += 16) {
    const __m512i q = usable ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(product + i), factor)) : _mm512_setzero_si512();
    const __m512i entry = _mm512_add_epi32(q, move);
    uint8_t* to = lut + i / 256 * 512 + i % 256;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(entry));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 256), _mm512_cvtepi32_epi8(_mm512_srli_epi32(entry, 8)));
  }
  return usable ? top / 32767.0f : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
}

template <int K>
VQ_INLINE void flush(const ByteSums& low, const ByteSums& high, __m512i move, __m512 scale, float* totals) {
  const __m512i sum = _mm512_add_epi32(low.rows<K>(), _mm512_slli_epi32(high.rows<K>(), 8));
  float* at = totals + K * 16;
  _mm512_storeu_ps(at, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, move)), scale, _mm512_loadu_ps(at)));
}

void lookups(const uint8_t* codes, long units, const uint8_t* lut, float scale, float* totals) {
  ByteSums low, high;
  for (long u = 0; u < units; ++u) {
    const __m512i code = load(codes + u * kPanelRows);
    const __mmask64 upper = _mm512_movepi8_mask(code);
    low.add(Table256(lut + u * 512)(code, upper));
    high.add(Table256(lut + u * 512 + 256)(code, upper));
  }
  const __m512i move = _mm512_set1_epi32(static_cast<int>(units) * 32768);
  const __m512 unit = _mm512_set1_ps(scale);
  flush<0>(low, high, move, unit, totals);
  flush<1>(low, high, move, unit, totals);
  flush<2>(low, high, move, unit, totals);
  flush<3>(low, high, move, unit, totals);
}

}  // namespace

const ByteKernels avx512_bytes = {e8p_lut, e8p, lut, lookups};

}  // namespace vq
