// AVX2: a register holds two rows of 4 tiles (half a group).
#include "vq/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace vq {
namespace {

#define VQ_INLINE inline __attribute__((always_inline))

constexpr int kBlocks = 32;         // of two rows, in a band
constexpr int kChunk = 4;           // groups that stay in the first cache while a band's rows take turns
constexpr long kAhead = 4096;       // bytes of packed words fetched before they are needed

template <int... I, typename F>
VQ_INLINE void unroll(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}

template <int R>
VQ_INLINE __m256i right(__m256i v) {
  if constexpr (R > 0) return _mm256_srli_epi64(v, R);
  if constexpr (R < 0) return _mm256_slli_epi64(v, -R);
  return v;
}

VQ_INLINE __m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// The four 16-bit windows of rows 2K and 2K + 1; words of the half group are `stride` bytes apart.
template <int S, int K>
VQ_INLINE __m256i windows(const uint8_t* at, long stride) {
  constexpr int bit = K * 4 * S, index = bit / 64, offset = bit % 64, words = 2 * S;
  constexpr bool inside = offset + 3 * S + 16 <= 64;
  constexpr int o = inside ? offset : 0;
  __m256i v = load(at + index * stride);
  if constexpr (!inside)
    v = _mm256_or_si256(_mm256_slli_epi64(v, offset),
                        _mm256_srli_epi64(load(at + (index + 1) % words * stride), 64 - offset));
  const __m256i low = _mm256_blend_epi16(right<48 - o>(v), right<32 - o - S>(v), 0x22);
  const __m256i high = _mm256_blend_epi16(right<16 - o - 2 * S>(v), right<-o - 3 * S>(v), 0x88);
  return _mm256_blend_epi16(low, high, 0xcc);
}

struct Hash {
  __m256i table[4], constant, mask, low_byte, high_byte;

  explicit Hash(const Trellis& w)
      : constant(_mm256_set1_epi16(static_cast<short>(w.constant))),
        mask(_mm256_set1_epi16(static_cast<short>(0xffffu << (16 - w.memory)))),
        low_byte(_mm256_set1_epi16(0x003f)),
        high_byte(_mm256_set1_epi16(0x3f00)) {
    for (int i = 0; i < 4; ++i)
      table[i] = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const int8_t*>(w.table) + 16 * i)));
  }

  VQ_INLINE __m256i levels(__m256i v) const {
    const __m256i s = _mm256_and_si256(v, mask);
    const __m256i index = _mm256_or_si256(_mm256_and_si256(_mm256_mulhi_epu16(s, constant), low_byte),
                                          _mm256_and_si256(_mm256_mullo_epi16(s, constant), high_byte));
    const __m256i bit4 = _mm256_slli_epi16(index, 3), bit5 = _mm256_slli_epi16(index, 2);
    const __m256i a = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[0], index), _mm256_shuffle_epi8(table[1], index), bit4);
    const __m256i b = _mm256_blendv_epi8(_mm256_shuffle_epi8(table[2], index), _mm256_shuffle_epi8(table[3], index), bit4);
    return _mm256_blendv_epi8(a, b, bit5);
  }
};

// Adds the products of signed bytes, four to a sum: |level| times the activation with the level's sign never saturates.
VQ_INLINE __m256i multiply(__m256i acc, __m256i level, __m256i magnitude, __m256i x) {
  const __m256i two = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, level));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
}

// Groups of a band; the last one is copied where it has fewer than 8 tiles.
struct Band {
  const uint8_t* base;
  long bytes;
  alignas(32) uint8_t tail[16 * 64];

  Band(const Trellis& w, long band) : base(w.band(band)), bytes(w.words * 64L) {
    const long lanes = w.blocks - (w.groups - 1) * 8;
    std::memset(tail, 0, sizeof tail);
    for (int i = 0; i < w.words; ++i)
      std::memcpy(tail + i * 64, base + (w.groups - 1) * bytes + i * lanes * 8, lanes * 8);
  }

  const uint8_t* group(const Trellis& w, long g) const { return g == w.groups - 1 ? tail : base + g * bytes; }
};

template <int S, int P, int FIRST, int N>
void pass(const Trellis& w, const Hash& hash, const Band& band, long begin, long end, const int8_t* acts,
          __m256i* sums) {
  __m256i acc[N * P];
  for (int i = 0; i < N * P; ++i) acc[i] = _mm256_load_si256(sums + FIRST * P + i);
  for (long g = begin; g < end; ++g) {
    const uint8_t* group = band.group(w, g);
    _mm_prefetch(reinterpret_cast<const char*>(band.base) + (g * band.bytes + kAhead + FIRST * S * 4), _MM_HINT_T0);
    for (int half = 0; half < 2; ++half) {
      __m256i x[P];
      for (int p = 0; p < P; ++p)
        x[p] = load(reinterpret_cast<const uint8_t*>(acts) + (p * w.groups + g) * 64 + half * 32);
      unroll(std::make_integer_sequence<int, N>{}, [&](auto i) {
        const __m256i level = hash.levels(windows<S, FIRST + i>(group + half * 32, 64));
        const __m256i magnitude = _mm256_abs_epi8(level);
        for (int p = 0; p < P; ++p) acc[i * P + p] = multiply(acc[i * P + p], level, magnitude, x[p]);
      });
    }
  }
  for (int i = 0; i < N * P; ++i) _mm256_store_si256(sums + FIRST * P + i, acc[i]);
}

// sums[r] of one plane from 32 accumulators `stride` apart.
void reduce(const __m256i* acc, long stride, int32_t* sums) {
  for (int k = 0; k < kBlocks; ++k) {
    const __m256i a = acc[k * stride];
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(sums + 2 * k), two);
  }
}

template <int S, int P>
void fused(const Trellis& w, const Hash& hash, const Band& band, const int8_t* acts, int32_t* sums) {
  constexpr int N = 4 / P;
  alignas(32) __m256i acc[kBlocks * P];
  for (auto& a : acc) a = _mm256_setzero_si256();
  for (long begin = 0; begin < w.groups; begin += kChunk) {
    const long end = std::min(w.groups, begin + kChunk);
    unroll(std::make_integer_sequence<int, kBlocks / N>{},
           [&](auto i) { pass<S, P, i * N, N>(w, hash, band, begin, end, acts, acc); });
  }
  for (int p = 0; p < P; ++p) reduce(acc + p, P, sums + p * 64);
}

constexpr int kPanel = 32;  // groups that `wide` decodes at once: 64 KiB of levels, in the second cache

// 4 blocks x 2 planes over half groups; `levels` holds four blocks side by side.
void tile_product(const __m256i* levels, long halves, const int8_t* acts, long plane, __m256i* sums, long stride) {
  __m256i acc[8];
  for (int i = 0; i < 8; ++i) acc[i] = _mm256_load_si256(sums + i / 2 * stride + i % 2);
  for (long h = 0; h < halves; ++h) {
    const __m256i x = load(reinterpret_cast<const uint8_t*>(acts) + h * 32);
    const __m256i y = load(reinterpret_cast<const uint8_t*>(acts) + plane + h * 32);
    for (int k = 0; k < 4; ++k) {
      const __m256i level = _mm256_load_si256(levels + h * 4 + k), magnitude = _mm256_abs_epi8(level);
      acc[k * 2] = multiply(acc[k * 2], level, magnitude, x);
      acc[k * 2 + 1] = multiply(acc[k * 2 + 1], level, magnitude, y);
    }
  }
  for (int i = 0; i < 8; ++i) _mm256_store_si256(sums + i / 2 * stride + i % 2, acc[i]);
}

// Many planes (a multiple of 2): decode a panel once, use it for all of them.
template <int S>
void wide(const Trellis& w, const Hash& hash, const Band& band, const int8_t* acts, long planes, int32_t* sums) {
  alignas(32) __m256i levels[kPanel * 2 * kBlocks];
  const long plane = w.groups * 64;
  __m256i* acc = static_cast<__m256i*>(_mm_malloc(kBlocks * planes * 32, 32));
  std::memset(static_cast<void*>(acc), 0, kBlocks * planes * 32);
  for (long begin = 0; begin < w.groups; begin += kPanel) {
    const long halves = std::min<long>(kPanel, w.groups - begin) * 2;
    for (long h = 0; h < halves; ++h) {
      const uint8_t* at = band.group(w, begin + h / 2) + h % 2 * 32;
      unroll(std::make_integer_sequence<int, kBlocks>{}, [&](auto k) {
        _mm256_store_si256(levels + k / 4 * 8 * kPanel + h * 4 + k % 4, hash.levels(windows<S, k>(at, 64)));
      });
    }
    for (long p = 0; p < planes; p += 2)
      for (int k = 0; k < kBlocks; k += 4)
        tile_product(levels + k * 2 * kPanel, halves, acts + p * plane + begin * 64, plane, acc + k * planes + p, planes);
  }
  for (long p = 0; p < planes; ++p) reduce(acc + p, planes, sums + p * 64);
  _mm_free(acc);
}

template <int S>
void dot_bits(const Trellis& w, long band, const int8_t* acts, long planes, int32_t* sums) {
  const Hash hash(w);
  const Band here(w, band);
  const long many = planes >= 4 ? planes / 2 * 2 : 0;
  if (many) wide<S>(w, hash, here, acts, many, sums);
  for (long p = many; p < planes;) {
    const int8_t* x = acts + p * w.groups * 64;
    const long left = planes - p;
    if (left >= 2) {
      fused<S, 2>(w, hash, here, x, sums + p * 64);
      p += 2;
    } else {
      fused<S, 1>(w, hash, here, x, sums + p * 64);
      p += 1;
    }
  }
}

void dot(const Trellis& w, long band, const int8_t* acts, const int32_t* act_sums, long planes, int32_t* sums) {
  switch (w.step_bits) {
    case 2: return dot_bits<2>(w, band, acts, planes, sums);
    case 3: return dot_bits<3>(w, band, acts, planes, sums);
    case 4: return dot_bits<4>(w, band, acts, planes, sums);
    case 5: return dot_bits<5>(w, band, acts, planes, sums);
    case 6: return dot_bits<6>(w, band, acts, planes, sums);
    case 7: return dot_bits<7>(w, band, acts, planes, sums);
    case 8: return dot_bits<8>(w, band, acts, planes, sums);
    default: return portable_linear.dot(w, band, acts, act_sums, planes, sums);
  }
}

void hadamard(float* x, long n) { portable_linear.hadamard(x, n); }

void quantize(const float* x, long n, int planes, long plane_bytes, int8_t* acts, int32_t* sums, float* unit) {
  portable_linear.quantize(x, n, planes, plane_bytes, acts, sums, unit);
}

void decode(const Trellis& w, long band, float* out, long stride) { portable_linear.decode(w, band, out, stride); }

}  // namespace

const LinearKernels avx2_linear = {true, hadamard, quantize, dot, decode};

}  // namespace vq
