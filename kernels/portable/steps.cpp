// Plain C++ kernels of trellises whose values stand in a table.
#include "vq/steps.h"

#include <algorithm>
#include <cstring>

namespace vq {
namespace {

#include "vq/steps_body.inc"

// Entries of N numbers.
template <int N>
void tile(const Steps& s, const uint8_t* bits, int16_t* out) {
  const int right = 64 - s.window, columns = 4 / N;
  for (int r = 0; r < 64; ++r) {
    int16_t* to = out + r / 32 * kStepHalf + r % 32 * 2;
    for (int c = 0; c < columns; ++c) {
      const int bit = (r * columns + c) * s.stride;
      const uint64_t index = little(bits - bit / 8) << bit % 8 >> right;
      std::memcpy(to + c * N / 2 * 64 + c * N % 2, s.entry.data() + index * N, 2 * N);
    }
  }
}

void decode(const Trellis& w, const Steps& steps, long band, long first, long count, int16_t* out) {
  each_tile(w, band, first, count, out, [&](const uint8_t* bits, int16_t* to) {
    steps.twos ? tile<2>(steps, bits, to) : tile<1>(steps, bits, to);
  });
}

int row_at(const Steps&, int place) { return place; }

}  // namespace

const StepKernels portable_steps = {decode, row_at};

}  // namespace vq
