// NEON table kernels of one row: tables of 16 looked up by tbl, rows of a panel are lanes.
#include "vq/tables.h"

#include <arm_neon.h>

#include <algorithm>

namespace vq {
namespace {

// 16-bit sums of 16 rows.
struct Sums {
  int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0);

  inline void add(uint8x16_t index, uint8x16_t low_bytes, uint8x16_t high_bytes) {
    const uint8x16_t a = vqtbl1q_u8(low_bytes, index), b = vqtbl1q_u8(high_bytes, index);
    low = vaddq_s16(low, vreinterpretq_s16_u8(vzip1q_u8(a, b)));
    high = vaddq_s16(high, vreinterpretq_s16_u8(vzip2q_u8(a, b)));
  }

  inline void flush(float scale, float* y) const {
    const int32x4_t four[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
                               vmovl_high_s16(high)};
    for (int i = 0; i < 4; ++i) vst1q_f32(y + 4 * i, vfmaq_n_f32(vld1q_f32(y + 4 * i), vcvtq_f32_s32(four[i]), scale));
  }
};

void nibbles(const uint8_t* codes, long units, long block, const int8_t* lut, const float* scale, float* y) {
  std::fill(y, y + kPanelRows, 0.0f);
  const uint8x16_t mask = vdupq_n_u8(15);
  for (long u = 0; u < units; u += block) {
    Sums sums[4];
    for (long i = u; i < std::min(units, u + block); ++i) {
      const uint8_t* table = reinterpret_cast<const uint8_t*>(lut + i * 32);
      const uint8x16_t low = vld1q_u8(table), high = vld1q_u8(table + 16);
      for (int h = 0; h < 2; ++h) {
        const uint8x16_t two = vld1q_u8(codes + i * 32 + h * 16);
        sums[h].add(vandq_u8(two, mask), low, high);
        sums[2 + h].add(vshrq_n_u8(two, 4), low, high);
      }
    }
    for (int k = 0; k < 4; ++k) sums[k].flush(scale[u / block], y + 16 * k);
  }
}

}  // namespace

void use_neon(TablesKernels* k) { k->nibbles = nibbles; }

}  // namespace vq
