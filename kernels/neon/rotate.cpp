// NEON: block Walsh-Hadamard transform and quantization of activations.
#include "vq/linear.h"

#include <arm_neon.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace vq {
namespace {

// Both stages inside a register: low + high and low - high of neighbours, then of neighbouring twos.
inline float32x4_t within(float32x4_t v) {
  const float32x4_t even = vtrn1q_f32(v, v), odd = vtrn2q_f32(v, v);
  v = vtrn1q_f32(vaddq_f32(even, odd), vsubq_f32(even, odd));
  const float32x4_t low = vcombine_f32(vget_low_f32(v), vget_low_f32(v)), high = vcombine_f32(vget_high_f32(v), vget_high_f32(v));
  return vcombine_f32(vget_low_f32(vaddq_f32(low, high)), vget_low_f32(vsubq_f32(low, high)));
}

constexpr long kLanes = 4;
using Floats = float32x4_t;
inline Floats load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Floats v) { vst1q_f32(to, v); }
inline Floats plus(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats minus(Floats a, Floats b) { return vsubq_f32(a, b); }

#include "vq/hadamard_body.inc"

// Largest magnitude; NaN or infinity wherever there is one, as their bits are the largest.
float peak(const float* x, long n) {
  uint32x4_t top = vdupq_n_u32(0);
  const uint32x4_t magnitude = vdupq_n_u32(0x7fffffffu);
  long i = 0;
  for (; i + 4 <= n; i += 4) top = vmaxq_u32(top, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), magnitude));
  uint32_t largest = vmaxvq_u32(top);
  for (; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  float value;
  std::memcpy(&value, &largest, 4);
  return value;
}

// 8 columns as integers of 16 bits: the product is rounded, then rounded half to even.
inline int16x8_t rounded(const float* x, float factor) {
  const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), factor));
  return vcombine_s16(vmovn_s32(low), vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), factor))));
}

// 16 columns of each plane; adds to the planes' sums.
inline void columns(const float* x, float factor, int planes, long stride, int8_t* acts, int32x4_t* sums) {
  int16x8_t high[2], low[2];
  for (int i = 0; i < 2; ++i) {
    const int16x8_t q = rounded(x + 8 * i, factor), half = vdupq_n_s16(64);
    low[i] = vsubq_s16(vandq_s16(vaddq_s16(q, half), vdupq_n_s16(127)), half);
    high[i] = planes == 2 ? vshrq_n_s16(vsubq_s16(q, low[i]), 7) : q;
    sums[0] = vpadalq_s16(sums[0], high[i]);
    sums[1] = vpadalq_s16(sums[1], low[i]);
  }
  vst1q_s8(acts, vcombine_s8(vmovn_s16(high[0]), vmovn_s16(high[1])));
  if (planes == 2) vst1q_s8(acts + stride, vcombine_s8(vmovn_s16(low[0]), vmovn_s16(low[1])));
}

}  // namespace

void hadamard_neon(float* x, long n) { hadamard_blocks(x, n); }

void quantize_neon(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit) {
  const float largest = peak(x, n), top = planes == 2 ? 16319.0f : 127.0f;
  std::fill(sums, sums + planes, 0);
  std::memset(acts, 0, planes * stride);
  if (!(largest > 1e-30f) || !std::isfinite(largest)) {
    *unit = std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *unit = largest / top;
  const float factor = top / largest;
  int32x4_t both[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  long i = 0;
  for (; i + 16 <= n; i += 16) columns(x + i, factor, planes, stride, acts + i, both);
  if (i < n) {
    float rest[16] = {};
    std::copy(x + i, x + n, rest);
    columns(rest, factor, planes, stride, acts + i, both);
  }
  for (int p = 0; p < planes; ++p) sums[p] = vaddvq_s32(both[p]);
}

}  // namespace vq
