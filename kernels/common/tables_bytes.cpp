// Tables of inner products in bytes: what they need of a matrix and of x, and the walk over blocks and panels.
#include "vq/tables_bytes.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "vq/cpu.h"
#include "vq/tables_panel.h"
#include "vq/threads.h"

namespace vq {
namespace {

constexpr long kPanels = 16;       // panels that share a block's tables
constexpr long kWorthwhile = 512;  // rows of a matrix from which on building tables pays

// Digits of the patterns of E8P, two bits each: 256 bytes of columns 0 to 3, 256 of columns 4 to 7. False for patterns whose
// last sign does not follow from the digits.
bool pattern_digits(const Tables& w, uint8_t* digits) {
  for (int p = 0; p < 256; ++p) {
    int all = 0, odd = 0;
    for (int i = 0; i < 8; ++i) {
      const int value = w.magnitude[p * 8 + i], digit = (value < 4 ? 7 - value : value) - 4;
      if (digit < 0 || digit > 2 || (value < 4 && i < 7)) return false;
      odd ^= digit & 1;
      all |= digit << (2 * i);
    }
    if ((w.magnitude[p * 8 + 7] < 4) != (odd == 1)) return false;
    digits[p] = static_cast<uint8_t>(all);
    digits[256 + p] = static_cast<uint8_t>(all >> 8);
  }
  return true;
}

int row_of(int place) { return place % 16 * 4 + place / 16; }

// Outputs of a panel from 64 values by place.
void finish(const Tables& w, const Panel& panel, long index, const float* values, const uint16_t* scales, float* y) {
  for (int place = 0; place < kPanelRows; ++place) {
    const long own = panel.row_at(row_of(place)), row = index * kPanelRows + own;
    if (own >= 0 && row < w.out) y[row] = values[place] * from_half(scales[row]);
  }
}

// The same units of the next panel: panels of a block follow each other, and no hardware guesses that.
void fetch(const uint8_t* at, long bytes) {
  for (long i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

// Calls body(first panel, panels, their codes) for groups of panels whose codes follow each other.
template <typename Body>
void over_panels(const Tables& w, int threads, Body body) {
  const long group = std::max(1L, std::min(kPanels, w.panels / (4L * std::max(1, threads)))), full = w.out / kPanelRows;
  parallel_for((full + group - 1) / group, 1, threads, [&](long begin, long end) {
    for (long g = begin; g < end; ++g) body(g * group, std::min(group, full - g * group), w.panel(g * group));
  });
  if (full == w.panels) return;
  std::vector<uint8_t> scratch;
  const Panel last(w, full);
  body(full, 1, last.spread(scratch));
}

void vectors(const ByteKernels& k, const float* x, const Tables& w, const uint16_t* scales, float* y, int threads) {
  const long blocks = (w.units + kByteBlock - 1) / kByteBlock, panel_bytes = w.units * kPanelRows;
  std::vector<float> columns(static_cast<size_t>(w.parts) * w.width * 256);
  for (int s = 0; s < w.parts; ++s)
    for (long c = 0; c < w.entries; ++c)
      for (int i = 0; i < w.width; ++i) columns[(s * w.width + i) * 256 + c] = w.part(s)[c * w.width + i];
  Buffer<uint8_t> lut(w.units * 512);
  std::vector<float> scale(blocks);
  parallel_for(blocks, 4, threads, [&](long begin, long end) {
    for (long b = begin; b < end; ++b) {
      const long first = b * kByteBlock;
      scale[b] = k.lut(w, columns.data(), x, first, std::min(kByteBlock, w.units - first), lut.get() + first * 512);
    }
  });
  over_panels(w, threads, [&](long first, long count, const uint8_t* codes) {
    Buffer<float> totals(count * kPanelRows);
    std::fill(totals.get(), totals.get() + count * kPanelRows, 0.0f);
    for (long b = 0; b < blocks; ++b) {
      const long u = b * kByteBlock, units = std::min(kByteBlock, w.units - u);
      for (long p = 0; p < count; ++p) {
        const uint8_t* at = codes + p * panel_bytes + u * kPanelRows;
        if (p + 1 < count) fetch(at + panel_bytes, units * kPanelRows);
        k.lookups(at, units, lut.get() + u * 512, scale[b], totals.get() + p * kPanelRows);
      }
    }
    for (long p = 0; p < count; ++p) finish(w, Panel(w, first + p), first + p, totals.get() + p * kPanelRows, scales, y);
  });
}

void e8p(const ByteKernels& k, float (*quantize)(const float*, long, long, int, int16_t*), const float* x, const Tables& w,
         const uint16_t* scales, int planes, float* y, int threads) {
  uint8_t digits[512];
  pattern_digits(w, digits);
  Buffer<int8_t> bytes(planes * w.units * 8);
  Buffer<int16_t> x_sums(planes * w.units);
  int64_t total = 0;
  const float unit = e8p_inputs(quantize, x, w.in, w.units, planes, bytes.get(), x_sums.get(), &total);
  Buffer<uint8_t> lut(planes * w.units * 512);
  k.e8p_lut(bytes.get(), planes * w.units, lut.get());
  const long panel_bytes = w.units * 2 * kPanelRows, each = 2 * planes * kPanelRows;
  over_panels(w, threads, [&](long first, long count, const uint8_t* codes) {
    Buffer<int32_t> sums(count * each);
    std::fill(sums.get(), sums.get() + count * each, 0);
    for (long u = 0; u < w.units; u += kByteBlock) {
      const long units = std::min(kByteBlock, w.units - u);
      for (long p = 0; p < count; ++p) {
        const uint8_t* at = codes + p * panel_bytes + u * 2 * kPanelRows;
        if (p + 1 < count) fetch(at + panel_bytes, units * 2 * kPanelRows);
        k.e8p(at, units, digits, lut.get() + u * 512, w.units * 512, x_sums.get() + u, w.units, planes, sums.get() + p * each);
      }
    }
    for (long p = 0; p < count; ++p) {
      float values[kPanelRows];
      int32_t* own = sums.get() + p * each;
      for (int plane = 0; plane < planes; ++plane)  // four pairs a unit, each 1524 too large
        for (int r = 0; r < kPanelRows; ++r) own[2 * plane * kPanelRows + r] -= static_cast<int32_t>(w.units * 4 * 1524);
      for (int r = 0; r < kPanelRows; ++r) values[r] = e8p_output(own + r, planes, total, w.step, unit);
      finish(w, Panel(w, first + p), first + p, values, scales, y);
    }
  });
}

}  // namespace

bool bytes_can(const Tables& w) {
  uint8_t digits[512];
  if (w.magnitude) return pattern_digits(w, digits);
  return w.bits == 8 && !even_levels(w);
}

const ByteKernels* byte_kernels(const Tables& w, TableMode mode) {
#if VQ_X86
  if (isa() == Isa::avx512 && mode != TableMode::floats && w.out >= kWorthwhile && bytes_can(w)) return &avx512_bytes;
#endif
  (void)w, (void)mode;
  return nullptr;
}

void tables_bytes(const ByteKernels& k, float (*quantize)(const float*, long, long, int, int16_t*), const float* x, long rows,
                  long stride, const Tables& w, const uint16_t* scales, TableMode mode, float* y, int threads) {
  for (long i = 0; i < rows; ++i) {
    if (w.magnitude) e8p(k, quantize, x + i * stride, w, scales, mode == TableMode::int15 ? 2 : 1, y + i * w.out, threads);
    else vectors(k, x + i * stride, w, scales, y + i * w.out, threads);
  }
}

}  // namespace vq
