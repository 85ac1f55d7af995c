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

// Outputs of a panel from 64 values by place; where columns share scales, these are in them.
void finish(const Tables& w, const Panel& panel, long index, const float* values, const uint16_t* scales, float* y) {
  for (int place = 0; place < kPanelRows; ++place) {
    const long own = panel.row_at(row_of(place)), row = index * kPanelRows + own;
    if (own >= 0 && row < w.out) y[row] = w.group ? values[place] : values[place] * from_half(scales[row]);
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

// Units whose sums are added to those of a panel at once, of one piece of the columns.
struct Block {
  long piece, first, count;
  bool last;  // of the piece
};

std::vector<Block> blocks_of(const std::vector<Piece>& pieces) {
  std::vector<Block> found;
  for (size_t g = 0; g < pieces.size(); ++g)
    for (long u = 0, units = pieces[g].w.units; u < units; u += kByteBlock) {
      const long count = std::min(kByteBlock, units - u);
      found.push_back({static_cast<long>(g), pieces[g].unit + u, count, u + count == units});
    }
  return found;
}

// Sums of some panels over the pieces of the columns, each times the scales of its rows.
struct Totals {
  const TablesKernels& k;
  const Tables& w;
  Buffer<float> sums, scale;

  Totals(const TablesKernels& kernels, const Tables& of, const uint16_t* scales, long first, long count)
      : k(kernels), w(of), sums(count * kPanelRows), scale(w.group ? count * w.groups * kPanelRows : 1) {
    std::fill(sums.get(), sums.get() + count * kPanelRows, 0.0f);
    if (!w.group) return;
    PanelScales found(k, w, scales);
    for (long p = 0; p < count; ++p) {
      const Panel panel(w, first + p);
      const float* at = found.read(first + p, [&](int place) { return panel.row_at(row_of(place)); });
      std::copy_n(at, w.groups * kPanelRows, scale.get() + p * w.groups * kPanelRows);
    }
  }

  float* of(long p) { return sums.get() + p * kPanelRows; }
  void add(long p, long piece, const float* part) {
    k.add_scaled(part, scale.get() + (p * w.groups + piece) * kPanelRows, of(p));
  }
};

void vectors(const ByteKernels& k, const TablesKernels& other, const float* x, const Tables& w, const uint16_t* scales,
             float* y, int threads) {
  const long panel_bytes = w.units * kPanelRows;
  std::vector<float> columns(static_cast<size_t>(w.parts) * w.width * 256);
  for (int s = 0; s < w.parts; ++s)
    for (long c = 0; c < w.entries; ++c)
      for (int i = 0; i < w.width; ++i) columns[(s * w.width + i) * 256 + c] = w.part(s)[c * w.width + i];
  const std::vector<Block> blocks = blocks_of(pieces_of(w));
  Buffer<uint8_t> lut(w.units * 512);
  std::vector<float> scale(blocks.size());
  parallel_for(static_cast<long>(blocks.size()), 4, threads, [&](long begin, long end) {
    for (long b = begin; b < end; ++b)
      scale[b] = k.lut(w, columns.data(), x, blocks[b].first, blocks[b].count, lut.get() + blocks[b].first * 512);
  });
  over_panels(w, threads, [&](long first, long count, const uint8_t* codes) {
    Totals totals(other, w, scales, first, count);
    Buffer<float> parts(count * kPanelRows);
    std::fill(parts.get(), parts.get() + count * kPanelRows, 0.0f);
    for (size_t b = 0; b < blocks.size(); ++b) {
      const Block& block = blocks[b];
      for (long p = 0; p < count; ++p) {
        const uint8_t* at = codes + p * panel_bytes + block.first * kPanelRows;
        float* part = w.group ? parts.get() + p * kPanelRows : totals.of(p);
        if (p + 1 < count) fetch(at + panel_bytes, block.count * kPanelRows);
        k.lookups(at, block.count, lut.get() + block.first * 512, scale[b], part);
        if (!w.group || !block.last) continue;
        totals.add(p, block.piece, part);
        std::fill(part, part + kPanelRows, 0.0f);
      }
    }
    for (long p = 0; p < count; ++p) finish(w, Panel(w, first + p), first + p, totals.of(p), scales, y);
  });
}

// What E8P needs of the columns of x that share a scale.
struct E8pInputs {
  std::vector<float> unit;
  std::vector<int64_t> total;
  Buffer<int16_t> x_sums;
  Buffer<uint8_t> lut;

  E8pInputs(const ByteKernels& k, Quantize quantize, const float* x, const Tables& w, const std::vector<Piece>& pieces, int planes)
      : unit(pieces.size()), total(pieces.size()), x_sums(planes * w.units), lut(planes * w.units * 512) {
    Buffer<int8_t> bytes(planes * w.units * 8);
    for (size_t g = 0; g < pieces.size(); ++g) {
      const long at = planes * pieces[g].unit;
      unit[g] = e8p_inputs(quantize, x + pieces[g].column, pieces[g].w.in, pieces[g].w.units, planes, bytes.get() + at * 8,
                           x_sums.get() + at, &total[g]);
    }
    k.e8p_lut(bytes.get(), planes * w.units, lut.get());
  }
};

void e8p(const ByteKernels& k, const TablesKernels& other, const float* x, const Tables& w, const uint16_t* scales,
         int planes, float* y, int threads) {
  uint8_t digits[512];
  pattern_digits(w, digits);
  const std::vector<Piece> pieces = pieces_of(w);
  const std::vector<Block> blocks = blocks_of(pieces);
  const E8pInputs given(k, other.quantize, x, w, pieces, planes);
  const long panel_bytes = w.units * 2 * kPanelRows, each = 2 * planes * kPanelRows;
  over_panels(w, threads, [&](long first, long count, const uint8_t* codes) {
    Totals totals(other, w, scales, first, count);
    Buffer<int32_t> sums(count * each);
    std::fill(sums.get(), sums.get() + count * each, 0);
    for (const Block& block : blocks) {
      const Piece& piece = pieces[block.piece];
      const long units = piece.w.units, at = planes * piece.unit + block.first - piece.unit;  // in its first plane
      for (long p = 0; p < count; ++p) {
        const uint8_t* own_codes = codes + p * panel_bytes + block.first * 2 * kPanelRows;
        int32_t* own = sums.get() + p * each;
        if (p + 1 < count) fetch(own_codes + panel_bytes, block.count * 2 * kPanelRows);
        k.e8p(own_codes, block.count, digits, given.lut.get() + at * 512, units * 512, given.x_sums.get() + at, units, planes,
              own);
        if (!block.last) continue;
        float values[kPanelRows];
        for (int plane = 0; plane < planes; ++plane)  // four pairs a unit, each 1524 too large
          for (int r = 0; r < kPanelRows; ++r) own[2 * plane * kPanelRows + r] -= static_cast<int32_t>(units * 4 * 1524);
        for (int r = 0; r < kPanelRows; ++r)
          values[r] = e8p_output(own + r, planes, given.total[block.piece], w.step, given.unit[block.piece]);
        if (w.group) totals.add(p, block.piece, values);
        else std::copy_n(values, kPanelRows, totals.of(p));
        std::fill(own, own + each, 0);
      }
    }
    for (long p = 0; p < count; ++p) finish(w, Panel(w, first + p), first + p, totals.of(p), scales, y);
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

void tables_bytes(const ByteKernels& k, const TablesKernels& other, const float* x, long rows, long stride, const Tables& w,
                  const uint16_t* scales, TableMode mode, float* y, int threads) {
  for (long i = 0; i < rows; ++i) {
    if (w.magnitude) e8p(k, other, x + i * stride, w, scales, mode == TableMode::int15 ? 2 : 1, y + i * w.out, threads);
    else vectors(k, other, x + i * stride, w, scales, y + i * w.out, threads);
  }
}

}  // namespace vq
