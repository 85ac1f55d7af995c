// Plain C++: the fallback for every CPU, and the rotation and quantization of the AVX2 set.
#include "vq/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace vq {
namespace {

void butterfly(float* x, long size) {
  for (long half = 1; half < size; half *= 2)
    for (long i = 0; i < size; i += 2 * half)
      for (long j = i; j < i + half; ++j) {
        const float low = x[j], high = x[j + half];
        x[j] = low + high;
        x[j + half] = low - high;
      }
  const float norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  for (long i = 0; i < size; ++i) x[i] *= norm;
}

void hadamard(float* x, long n) {
  long at = 0;
  for (long size = 1L << 40; size >= 1; size /= 2)
    if (n & size) {
      butterfly(x + at, size);
      at += size;
    }
}

// Largest magnitude; NaN or infinity wherever there is one, as their bits are the largest.
float peak(const float* x, long n) {
  uint32_t top = 0;
  for (long i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    top = std::max(top, bits & 0x7fffffffu);
  }
  float value;
  std::memcpy(&value, &top, 4);
  return value;
}

void quantize(const float* x, long n, int planes, long stride, int8_t* acts, int32_t* sums, float* unit) {
  std::memset(acts, 0, planes * stride);
  std::fill(sums, sums + planes, 0);
  const float top = planes == 2 ? 16319.0f : 127.0f, largest = peak(x, n);
  if (!(largest > 1e-30f) || !std::isfinite(largest)) {
    *unit = std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const float factor = top / largest, magic = 12582912.0f;  // adding 1.5 * 2^23 rounds half to even
  *unit = largest / top;
  for (long i = 0; i < n; ++i) {
    const float scaled = x[i] * factor;
    const int value = static_cast<int>((scaled + magic) - magic);
    const int low = planes == 2 ? ((value + 64) & 127) - 64 : value, high = (value - low) >> 7;
    const int part[2] = {planes == 2 ? high : low, low};
    for (int p = 0; p < planes; ++p) {
      acts[p * stride + i] = static_cast<int8_t>(part[p]);
      sums[p] += part[p];
    }
  }
}

// The words of one tile of a band.
struct Tile {
  uint64_t word[65];

  Tile(const Trellis& w, long band, long block) {
    const long group = block / 8, lane = block % 8, width = std::min(8L, w.blocks - group * 8);
    const uint8_t* base = w.band(band) + (group * 8 * w.words + lane) * 8;
    for (int i = 0; i < w.words; ++i) std::memcpy(word + i, base + i * width * 8, 8);
    word[w.words] = word[0];
  }

  uint32_t state(long bit, int memory) const {
    const int offset = bit & 63;
    uint64_t window = word[bit >> 6] << offset;
    if (offset) window |= word[(bit >> 6) + 1] >> (64 - offset);
    return static_cast<uint32_t>(window >> (64 - memory));
  }
};

void dot(const Trellis& w, const Levels&, long band, const Activations& x, int64_t* totals) {
  std::fill(totals, totals + x.rows * 64, 0);
  int8_t level[256];
  for (long block = 0; block < w.blocks; ++block) {
    const Tile tile(w, band, block);
    for (long t = 0; t < 128; ++t) std::memcpy(level + 2 * t, w.pairs + 2 * tile.state(t * w.step_bits, w.memory), 2);
    for (long i = 0; i < x.rows; ++i) {
      int32_t c[4];
      for (int j = 0; j < 4; ++j) {
        c[j] = x.plane(i, 0)[block * 4 + j];
        if (x.planes == 2) c[j] = 128 * c[j] + x.plane(i, 1)[block * 4 + j];
      }
      for (int r = 0; r < 64; ++r)
        totals[i * 64 + r] += level[4 * r] * c[0] + level[4 * r + 1] * c[1] + level[4 * r + 2] * c[2] + level[4 * r + 3] * c[3];
    }
  }
}

#include "vq/trellis_values.inc"

void decode(const Trellis& w, long band, float* out, long stride) {
  if (!w.hash && values_decode(w, band, out, stride)) return;
  const float* table = static_cast<const float*>(w.table);
  for (long block = 0; block < w.blocks; ++block) {
    const Tile tile(w, band, block);
    for (long t = 0; t < 256 / w.symbols; ++t) {
      const uint32_t state = tile.state(t * w.step_bits, w.memory);
      for (int v = 0; v < w.symbols; ++v) {
        const long i = t * w.symbols + v;
        const float value = w.hash ? w.pairs[2 * state + v] * w.step : table[static_cast<long>(state) * w.symbols + v];
        out[i / 4 * stride + block * 4 + i % 4] = value;
      }
    }
  }
}

}  // namespace

const LinearKernels portable_linear = {true, 1L << 60, hadamard, quantize, nullptr, dot, decode, values_dot};

}  // namespace vq
