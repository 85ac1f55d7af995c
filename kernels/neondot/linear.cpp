// 64-bit Arm with the dot product extension: products of bytes by sdot, all else as in neon/linear.cpp.
#define VQ_DOT 1
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

}  // namespace

void hadamard_neon(float* x, long n);
void quantize_neon(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit);
void decode_neon(const Trellis& w, long band, float* out, long stride);
bool values_dot_neon(const Trellis& w, long band, const float* x, long rows, long stride, float* sums);

const LinearKernels neondot_linear = {false, 1L << 60, hadamard_neon, quantize_neon, arrange, dot, decode_neon, values_dot_neon};

}  // namespace vq
