// NEON as every 64-bit Arm CPU has it: products of bytes by widening multiplication.
#include "vq/linear.h"

#include <arm_neon.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace vq {
namespace {

#include "vq/neon_levels.inc"
#include "vq/neon_linear.inc"
#include "vq/trellis_values.inc"

// Four rows, `apart` floats from each other, of 8 columns of a pair of tiles.
VQ_INLINE void write(int8x16_t first, int8x16_t second, float step, float* out, long apart) {
  static constexpr uint8_t order[16] = {1, 0, 17, 16, 3, 2, 19, 18, 5, 4, 21, 20, 7, 6, 23, 22};
  const int8x16x2_t both = {{first, second}};
  const uint8x16_t low = vld1q_u8(order), high = vaddq_u8(low, vdupq_n_u8(8));
  const int8x16_t twos[2] = {vqtbl2q_s8(both, low), vqtbl2q_s8(both, high)};
  for (int k = 0; k < 4; ++k, out += apart) {
    const int16x8_t row = k % 2 ? vmovl_high_s8(twos[k / 2]) : vmovl_s8(vget_low_s8(twos[k / 2]));
    vst1q_f32(out, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(row))), step));
    vst1q_f32(out + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(row)), step));
  }
}

// Float values of a band.
template <int S>
void decode_steps(const Trellis& w, long band, float* out, long stride) {
  constexpr int rows = Period<S>::rows;
  const LongHash<64, true> hash(w);
  const Band here(w, band);
  for (long g = 0; g < w.groups; ++g) {
    const uint8_t* at = here.group(g);
    for (int pair = 0; pair < 4; ++pair) {
      float* to = out + g * 32 + pair * 8;
      uint16x8_t start = Words<S, 0>::first(at + pair * 16);
      unroll(std::make_integer_sequence<int, Period<S>::blocks>{}, [&](auto b) {
        const Rows<S> levels = expand<S, b>(hash, at + pair * 16, start);
        for (int r = 0; r < rows; ++r)
          write(levels.first[r], levels.second[r], w.step, to + (4 * b * rows + r) * stride, rows * stride);
      });
    }
  }
}

}  // namespace

void hadamard_neon(float* x, long n);
void quantize_neon(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit);

void decode_neon(const Trellis& w, long band, float* out, long stride) {
  if (!w.hash && values_decode(w, band, out, stride)) return;
  switch (w.hash ? w.step_bits : 0) {
    case 2: return decode_steps<2>(w, band, out, stride);
    case 3: return decode_steps<3>(w, band, out, stride);
    case 4: return decode_steps<4>(w, band, out, stride);
    case 5: return decode_steps<5>(w, band, out, stride);
    case 6: return decode_steps<6>(w, band, out, stride);
    case 7: return decode_steps<7>(w, band, out, stride);
    case 8: return decode_steps<8>(w, band, out, stride);
    default: return portable_linear.decode(w, band, out, stride);
  }
}

bool values_dot_neon(const Trellis& w, long band, const float* x, long rows, long stride, float* sums) {
  return values_dot(w, band, x, rows, stride, sums);
}

const LinearKernels neon_linear = {false, 1L << 60, hadamard_neon, quantize_neon, arrange, dot, decode_neon, values_dot_neon};

}  // namespace vq
