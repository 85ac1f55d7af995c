// AVX-512 with VBMI, VBMI2 and VNNI.
//
// 32 windows of 16 bits make a register: two multiplications hash them to 64 indices, one vpermb looks the levels up, one
// vpdpbusd takes the products. Levels are unsigned with an offset of 128, corrected by the sum of the activations. Few rows
// of x go through `fused`, many through `wide`.
#include "vq/linear.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace vq {
namespace {

#define VQ_INLINE inline __attribute__((always_inline))

constexpr int kBlocks = 32;         // of two rows, in a band
constexpr int kChunk = 2;           // pairs of groups that stay in the first cache while a band's words take turns
constexpr long kAhead = 4096;       // bytes of packed words fetched before they are needed

template <int... I, typename F>
VQ_INLINE void unroll(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}

// Bit positions of the bytes of four windows, `step` apart, the first of them `offset` bits below the top.
VQ_INLINE __m512i positions(int offset, int step) {
  uint64_t control = 0;
  for (int j = 0; j < 4; ++j) {
    const uint64_t low = 48 - offset - j * step;
    control |= (low | (low + 8) << 8) << (16 * j);
  }
  return _mm512_set1_epi64(static_cast<long long>(control));
}

struct Hash {
  __m512i table, constant, mask, select;

  explicit Hash(const Trellis& w)
      : table(_mm512_xor_si512(_mm512_loadu_si512(w.table), _mm512_set1_epi8(static_cast<char>(0x80)))),
        constant(_mm512_set1_epi16(static_cast<short>(w.constant))),
        mask(_mm512_set1_epi16(static_cast<short>(0xffffu << (16 - w.memory)))),
        select(_mm512_set1_epi16(0x00ff)) {}

  // Levels of left-aligned windows; those whose lower bits are zero need no mask.
  VQ_INLINE __m512i levels(__m512i windows) const { return masked(_mm512_and_si512(windows, mask)); }

  VQ_INLINE __m512i masked(__m512i s) const {
    const __m512i low = _mm512_mullo_epi16(s, constant), high = _mm512_mulhi_epu16(s, constant);
    return _mm512_permutexvar_epi8(_mm512_ternarylogic_epi32(high, low, select, 0xe4), table);
  }
};

// One group of tiles: where its words are, and which lanes exist.
struct Group {
  const uint8_t* at;
  long stride;
  __mmask8 lanes;

  VQ_INLINE __m512i word(int index) const { return _mm512_maskz_loadu_epi64(lanes, at + index * stride); }
};

template <int S, int K>
VQ_INLINE __m512i windows(const Group& g) {
  constexpr int bit = K * 4 * S, index = bit / 64, offset = bit % 64, words = 2 * S;
  if constexpr (offset + 3 * S + 16 <= 64) {
    return _mm512_multishift_epi64_epi8(positions(offset, S), g.word(index));
  } else {
    const __m512i joined = _mm512_shldi_epi64(g.word(index), g.word((index + 1) % words), offset);
    return _mm512_multishift_epi64_epi8(positions(0, S), joined);
  }
}

VQ_INLINE Group group_at(const Trellis& w, const uint8_t* band, long g) {
  const long lanes = std::min(8L, w.blocks - g * 8);
  return {band + g * 64 * w.words, lanes * 8, static_cast<__mmask8>((1u << lanes) - 1)};
}

#include "vq/zmm_fused.inc"

// Activations of a group, each tile's four columns twice.
VQ_INLINE __m512i doubled(const int8_t* at) {
  const __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_epi32(order, _mm512_loadu_si512(at));
}

// sums[r] of one plane from 32 accumulators `stride` apart.
void reduce(const __m512i* acc, long stride, int32_t act_sum, int64_t* sums) {
  for (int k = 0; k < kBlocks; k += 2) {
    const __m512i a = acc[k * stride], b = acc[(k + 1) * stride];
    const __m256i u = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m256i v = _mm256_add_epi32(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
    const __m256i both = _mm256_add_epi32(_mm256_unpacklo_epi64(u, v), _mm256_unpackhi_epi64(u, v));
    const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    alignas(16) int32_t lane[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(lane), total);
    for (int i = 0; i < 4; ++i) sums[2 * k + i] = lane[i] - int64_t{128} * act_sum;
  }
}

constexpr int kPanel = 32;  // groups that `wide` decodes at once: 64 KiB of levels, in the second cache

// Levels of all blocks of one group, two rows to a register: four blocks side by side, then the next group's four.
template <int S>
VQ_INLINE void levels_of(const Hash& hash, const Group& group, __m512i* levels) {
  unroll(std::make_integer_sequence<int, kBlocks>{}, [&](auto k) {
    _mm512_store_si512(levels + k / 4 * 4 * kPanel + k % 4, hash.levels(windows<S, k>(group)));
  });
}

// 4 blocks x 4 planes over the groups of a panel.
void tile_product(const __m512i* levels, long groups, const int8_t* acts, long plane, __m512i* sums, long stride) {
  __m512i acc[16];
  for (int i = 0; i < 16; ++i) acc[i] = _mm512_load_si512(sums + i / 4 * stride + i % 4);
  for (long g = 0; g < groups; ++g) {
    __m512i x[4];
    for (int p = 0; p < 4; ++p) x[p] = doubled(acts + p * plane + g * 32);
    for (int k = 0; k < 4; ++k) {
      const __m512i level = _mm512_load_si512(levels + g * 4 + k);
      for (int p = 0; p < 4; ++p) acc[k * 4 + p] = _mm512_dpbusd_epi32(acc[k * 4 + p], level, x[p]);
    }
  }
  for (int i = 0; i < 16; ++i) _mm512_store_si512(sums + i / 4 * stride + i % 4, acc[i]);
}

// One to three planes where S does not divide 16: blocks of a group one after the other.
template <int S, int P>
void blocks(const Trellis& w, const Hash& hash, long band, const int8_t* acts, const int32_t* act_sums, long stride,
            int64_t* sums) {
  constexpr int N = 16 / P;
  alignas(64) __m512i acc[kBlocks * P];
  for (auto& a : acc) a = _mm512_setzero_si512();
  const uint8_t* base = w.band(band);
  for (long begin = 0; begin < w.groups; begin += 2 * kChunk) {
    const long end = std::min<long>(w.groups, begin + 2 * kChunk);
    unroll(std::make_integer_sequence<int, kBlocks / N>{}, [&](auto part) {
      __m512i own[N * P];
      for (int i = 0; i < N * P; ++i) own[i] = _mm512_load_si512(acc + part * N * P + i);
      for (long g = begin; g < end; ++g) {
        const Group group = group_at(w, base, g);
        for (int i = 0; i < S; ++i)
          _mm_prefetch(reinterpret_cast<const char*>(group.at) + kAhead + (part % 2 * S + i) * 64, _MM_HINT_T0);
        __m512i x[P];
        for (int p = 0; p < P; ++p) x[p] = doubled(acts + p * stride + g * 32);
        unroll(std::make_integer_sequence<int, N>{}, [&](auto i) {
          const __m512i level = hash.levels(windows<S, part * N + i>(group));
          for (int p = 0; p < P; ++p) own[i * P + p] = _mm512_dpbusd_epi32(own[i * P + p], level, x[p]);
        });
      }
      for (int i = 0; i < N * P; ++i) _mm512_store_si512(acc + part * N * P + i, own[i]);
    });
  }
  for (int p = 0; p < P; ++p) reduce(acc + p, P, act_sums[p], sums + p * 64);
}

template <int S>
void rows_only(const Trellis& w, const Hash& hash, long band, const int8_t* acts, const int32_t* act_sums, long stride,
               long planes, int64_t* sums) {
  if (planes >= 2) blocks<S, 2>(w, hash, band, acts, act_sums, stride, sums);
  const long done = planes / 2 * 2;
  if (planes % 2) blocks<S, 1>(w, hash, band, acts + done * stride, act_sums + done, stride, sums + done * 64);
}

// Planes in fours: decode a panel once, use it for all of them.
template <int S>
void wide(const Trellis& w, const Hash& hash, long band, const int8_t* acts, const int32_t* act_sums, long stride,
          long planes, int64_t* sums) {
  alignas(64) __m512i levels[kPanel * kBlocks];
  __m512i* acc = static_cast<__m512i*>(_mm_malloc(kBlocks * planes * 64, 64));
  std::memset(static_cast<void*>(acc), 0, kBlocks * planes * 64);
  const uint8_t* base = w.band(band);
  for (long begin = 0; begin < w.groups; begin += kPanel) {
    const long count = std::min<long>(kPanel, w.groups - begin);
    for (long g = 0; g < count; ++g) {
      const Group group = group_at(w, base, begin + g);
      for (int i = 0; i < 2 * S; ++i)
        _mm_prefetch(reinterpret_cast<const char*>(group.at) + kAhead + i * 64, _MM_HINT_T0);
      levels_of<S>(hash, group, levels + g * 4);
    }
    for (long p = 0; p < planes; p += 4)
      for (int k = 0; k < kBlocks; k += 4)
        tile_product(levels + k * kPanel, count, acts + p * stride + begin * 32, stride, acc + k * planes + p, planes);
  }
  for (long p = 0; p < planes; ++p) reduce(acc + p, planes, act_sums[p], sums + p * 64);
  _mm_free(acc);
}

// sums[plane][64] of `planes` planes.
template <int S>
void dot_planes(const Trellis& w, long band, const int8_t* acts, const int32_t* act_sums, long stride, long planes,
                int64_t* sums) {
  const Hash hash(w);
  constexpr bool aligned = 16 % S == 0;
  const long many = planes >= 8 || !aligned ? planes / 4 * 4 : 0;
  if (many) wide<S>(w, hash, band, acts, act_sums, stride, many, sums);
  long p = many;
  if constexpr (aligned) {
    const Pairs pairs(w, band);
    while (p < planes) {
      const long left = planes - p;
      const int take = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const int8_t* x = acts + p * stride;
      if (take == 4) fused<S, 4>(w, hash, pairs, x, act_sums + p, stride, sums + p * 64);
      if (take == 2) fused<S, 2>(w, hash, pairs, x, act_sums + p, stride, sums + p * 64);
      if (take == 1) fused<S, 1>(w, hash, pairs, x, act_sums + p, stride, sums + p * 64);
      p += take;
    }
  } else if (p < planes) {
    rows_only<S>(w, hash, band, acts + p * stride, act_sums + p, stride, planes - p, sums + p * 64);
  }
}

template <int S>
void dot_bits(const Trellis& w, long band, const Activations& x, int64_t* totals) {
  if (x.planes == 1) return dot_planes<S>(w, band, x.bytes, x.sums, x.stride, x.rows, totals);
  int64_t* sums = static_cast<int64_t*>(_mm_malloc(x.rows * 2 * 64 * 8, 64));
  dot_planes<S>(w, band, x.bytes, x.sums, x.stride, x.rows * 2, sums);
  for (long i = 0; i < x.rows; ++i)
    for (int r = 0; r < 64; ++r) totals[i * 64 + r] = sums[i * 128 + r] * 128 + sums[i * 128 + 64 + r];
  _mm_free(sums);
}

void dot(const Trellis& w, const Levels& levels, long band, const Activations& x, int64_t* totals) {
  switch (w.step_bits) {
    case 2: return dot_bits<2>(w, band, x, totals);
    case 3: return dot_bits<3>(w, band, x, totals);
    case 4: return dot_bits<4>(w, band, x, totals);
    case 5: return dot_bits<5>(w, band, x, totals);
    case 6: return dot_bits<6>(w, band, x, totals);
    case 7: return dot_bits<7>(w, band, x, totals);
    case 8: return dot_bits<8>(w, band, x, totals);
    default: return portable_linear.dot(w, levels, band, x, totals);
  }
}

template <int S>
void decode_bits(const Trellis& w, long band, float* out, long stride) {
  const Hash hash(w);
  const __m512 step = _mm512_set1_ps(w.step);
  const __m512i rows = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(0x80));
  for (long g = 0; g < w.groups; ++g) {
    const Group group = group_at(w, w.band(band), g);
    unroll(std::make_integer_sequence<int, kBlocks>{}, [&](auto k) {
      const __m512i level = _mm512_xor_si512(hash.levels(windows<S, k>(group)), offset);
      const __m512i sorted = _mm512_permutexvar_epi32(rows, level);
      float* y = out + 2 * k * stride + g * 32;
      const __m128i part[4] = {_mm512_castsi512_si128(sorted), _mm512_extracti32x4_epi32(sorted, 1),
                               _mm512_extracti32x4_epi32(sorted, 2), _mm512_extracti32x4_epi32(sorted, 3)};
      for (int i = 0; i < 4; ++i)
        _mm512_storeu_ps(y + i / 2 * stride + i % 2 * 16,
                         _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(part[i])), step));
    });
  }
}

#include "vq/trellis_values.inc"

void decode(const Trellis& w, long band, float* out, long stride) {
  if (!w.hash && values_decode(w, band, out, stride)) return;
  switch (w.hash ? w.step_bits : 0) {
    case 2: return decode_bits<2>(w, band, out, stride);
    case 3: return decode_bits<3>(w, band, out, stride);
    case 4: return decode_bits<4>(w, band, out, stride);
    case 5: return decode_bits<5>(w, band, out, stride);
    case 6: return decode_bits<6>(w, band, out, stride);
    case 7: return decode_bits<7>(w, band, out, stride);
    case 8: return decode_bits<8>(w, band, out, stride);
    default: return portable_linear.decode(w, band, out, stride);
  }
}

}  // namespace

void hadamard_avx512(float* x, long n);
void quantize_avx512(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit);

const LinearKernels avx512_linear = {false, 1L << 60, hadamard_avx512, quantize_avx512, nullptr, dot, decode, values_dot};

}  // namespace vq
