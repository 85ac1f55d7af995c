// NEON wide table kernels: nibbles and 8-bit levels decoded by tbl and zip, products by widening multiply-add.
#include "vq/tables_wide.h"

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

namespace vq {
namespace {

// 16 rows of two columns, each as two bytes a row.
inline void pair_of_bytes(uint8x16_t low, uint8x16_t high, uint8x16_t next_low, uint8x16_t next_high, int16_t* to) {
  const int16x8_t a[2] = {vreinterpretq_s16_u8(vzip1q_u8(low, high)), vreinterpretq_s16_u8(vzip2q_u8(low, high))};
  const int16x8_t b[2] = {vreinterpretq_s16_u8(vzip1q_u8(next_low, next_high)), vreinterpretq_s16_u8(vzip2q_u8(next_low, next_high))};
  for (int i = 0; i < 2; ++i) {
    vst1q_s16(to + 16 * i, vzip1q_s16(a[i], b[i]));
    vst1q_s16(to + 16 * i + 8, vzip2q_s16(a[i], b[i]));
  }
}

inline void pair_of_symbols(uint8x16_t first, uint8x16_t second, const int8_t* lut, const int8_t* next, int16_t* to) {
  const uint8_t* a = reinterpret_cast<const uint8_t*>(lut);
  const uint8_t* b = reinterpret_cast<const uint8_t*>(next);
  pair_of_bytes(vqtbl1q_u8(vld1q_u8(a), first), vqtbl1q_u8(vld1q_u8(a + 16), first), vqtbl1q_u8(vld1q_u8(b), second),
                vqtbl1q_u8(vld1q_u8(b + 16), second), to);
}

void nibbles(const uint8_t* codes, long units, int columns, const int8_t* lut, int16_t* block, long half) {
  const uint8x16_t mask = vdupq_n_u8(15);
  const int step = columns == 1 ? 2 : 1;
  for (long u = 0; u < units; u += step)
    for (int h = 0; h < 2; ++h) {
      const uint8x16_t c = vld1q_u8(codes + u * 32 + h * 16);
      const uint8x16_t next = vld1q_u8(codes + std::min(units - 1, u + step - 1) * 32 + h * 16);
      int16_t* to = block + u * columns * 32 + h * 32;
      for (int k = 0; k < columns; k += 2) {
        const int8_t* second = columns == 1 ? lut : lut + k * 32 + 32;
        pair_of_symbols(vandq_u8(c, mask), vandq_u8(next, mask), lut + k * 32, second, to + k * 32);
        pair_of_symbols(vshrq_n_u8(c, 4), vshrq_n_u8(next, 4), lut + k * 32, second, to + k * 32 + half);
      }
    }
}

void bytes(const uint8_t* codes, long units, int16_t* block, long half) {
  const uint8x16_t zero = vdupq_n_u8(0);
  for (long u = 0; u < units; u += 2) {
    const uint8_t* next = codes + std::min(units - 1, u + 1) * kPanelRows;
    for (int q = 0; q < 4; ++q)
      pair_of_bytes(vld1q_u8(codes + u * kPanelRows + 16 * q), zero, vld1q_u8(next + 16 * q), zero,
                    block + u * 32 + q % 2 * 32 + q / 2 * half);
  }
}

// 16 places of a block times P rows of x: sums of the first and of the second columns stand side by side.
template <int P>
inline void product(const int16_t* block, long pairs, const int16_t* x, long stride, float* all) {
  int32x4_t acc[P][8];
  for (auto& row : acc)
    for (auto& v : row) v = vdupq_n_s32(0);
  for (long t = 0; t < pairs; ++t) {
    int16x8_t two[P];
    for (int p = 0; p < P; ++p) {
      int32_t both;
      std::memcpy(&both, x + p * stride + 2 * t, 4);
      two[p] = vreinterpretq_s16_s32(vdupq_n_s32(both));
    }
    for (int i = 0; i < 4; ++i) {
      const int16x8_t level = vld1q_s16(block + t * 64 + 8 * i);
      for (int p = 0; p < P; ++p) {
        acc[p][2 * i] = vmlal_s16(acc[p][2 * i], vget_low_s16(level), vget_low_s16(two[p]));
        acc[p][2 * i + 1] = vmlal_high_s16(acc[p][2 * i + 1], level, two[p]);
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int i = 0; i < 4; ++i) {
      const float32x4_t sum = vcvtq_f32_s32(vpaddq_s32(acc[p][2 * i], acc[p][2 * i + 1]));
      vst1q_f32(all + p * 16 + 4 * i, vaddq_f32(vld1q_f32(all + p * 16 + 4 * i), sum));
    }
}

template <int P>
void products(const int16_t* block, long blocks, long pairs, const int16_t* x, float* totals) {
  for (int q = 0; q < 4; ++q) {
    float all[P * 16] = {};
    for (long b = 0; b < blocks; ++b)
      product<P>(block + (b * 2 + q / 2) * pairs * 64 + q % 2 * 32, pairs, x + b * pairs * 2, blocks * pairs * 2, all);
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < 16; ++i) totals[p * kPanelRows + q * 16 + i] += all[p * 16 + i];
  }
}

void multiply(const int16_t* block, long blocks, long pairs, const int16_t* x, long rows, float* totals) {
  const long stride = blocks * pairs * 2;
  long i = 0;
  for (; i + 2 <= rows; i += 2) products<2>(block, blocks, pairs, x + i * stride, totals + i * kPanelRows);
  if (i < rows) products<1>(block, blocks, pairs, x + i * stride, totals + i * kPanelRows);
}

}  // namespace

void use_neon(WideKernels* k) {
  k->nibbles = nibbles;
  k->bytes = bytes;
  k->multiply = multiply;
}

}  // namespace vq
