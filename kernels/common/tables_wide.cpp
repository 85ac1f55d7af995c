// Many rows of x times a matrix in layout 4: the integers of levels and activations, and the walk over blocks.
#include "vq/tables_wide.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "vq/cpu.h"
#include "vq/tables_bytes.h"
#include "vq/tables_panel.h"
#include "vq/threads.h"
#include "vq/wide_inputs.h"

namespace vq {
namespace {

enum class Decoder { nibbles, threes, bytes, vectors, e8p, any };

constexpr int kLevelTop = 16383;  // largest magnitude of an entry as an integer
constexpr long kGroup = 256;      // columns decoded before they are multiplied, at least one block

Decoder decoder_of(const Tables& w) {
  if (w.magnitude) return Decoder::e8p;
  const long columns = w.fold * w.width;
  const bool one = w.parts == 1;
  if (one && w.bits == 3 && w.width == 1) return Decoder::threes;
  if (one && w.bits <= 4 && w.bits != 3 && (columns == 1 || columns % 2 == 0) && columns <= 64) return Decoder::nibbles;
  if (even_levels(w)) return Decoder::bytes;
  if (w.bits > 4 && (w.width <= 2 || w.width == 4 || w.width % 8 == 0)) return Decoder::vectors;
  return Decoder::any;
}

// The levels as integers and the unit they are in, and how a matrix is cut into blocks.
struct Levels {
  const Tables& w;
  Decoder decoder;
  std::vector<int8_t> lut;       // nibbles, threes
  std::vector<int16_t> entries;  // the others: (parts, every code there can be, width)
  std::vector<int32_t> offset;   // of the units of a block
  float unit, first = 0.0f;      // weight = unit * integer + first
  long top;                      // largest magnitude of an integer
  long units, columns, blocks;   // of a block; of a block; of a row

  explicit Levels(const Tables& view) : w(view), decoder(decoder_of(view)) {
    cut();
    if (decoder == Decoder::e8p) {
      unit = 0.25f * w.step;
      top = 11;
    } else if (decoder == Decoder::bytes) {
      first = w.table[0];
      unit = (w.table[w.entries - 1] - first) / static_cast<float>(w.entries - 1);
      top = 255;
    } else {
      measure();
      if (decoder == Decoder::nibbles || decoder == Decoder::threes) list_symbols();
      else list_entries();
    }
  }

  // The most vectors, of `each` columns, up to `most` that a whole number of blocks of them makes the columns of a scale.
  long fitting(long most, long each) const {
    const long all = w.group / each;
    while (w.group && most > 1 && (all % most || most * each % 2)) --most;
    return most;
  }

  void cut() {
    const long vectors = fitting(std::max(1L, (decoder == Decoder::e8p ? 128L : 64L) / w.dim), w.dim);
    units = vectors * w.parts;
    columns = vectors * w.dim;
    if (decoder == Decoder::nibbles || decoder == Decoder::threes) {
      const long each = w.fold * w.width;
      units = fitting(std::max(1L, 64 / each), each);
      columns = units * each;
    } else if (decoder == Decoder::bytes) {
      units = columns = fitting(128, 1);
    }  // (`any` counts codes: those of a vector may end within a unit)
    const long all = decoder == Decoder::any ? w.codes : w.units;
    blocks = (all + units - 1) / units;
  }

  void measure() {
    const bool beside = w.width != w.dim;
    float largest = 0.0f, sum = 0.0f;
    for (int s = 0; s < w.parts; ++s) {
      float own = 0.0f;
      for (long i = 0; i < w.entries * w.width; ++i) {
        const float a = std::fabs(w.part(s)[i]);
        own = a > own ? a : own;
      }
      largest = std::max(largest, own);
      sum += own;
    }
    const float most = beside ? largest : sum;
    unit = most > 1e-30f ? most / static_cast<float>(kLevelTop) : 0.0f;
    top = kLevelTop + w.parts;
  }

  int16_t level(int s, long code, int i) const {
    if (code >= w.entries || unit == 0.0f) return 0;
    return static_cast<int16_t>((w.part(s)[code * w.width + i] / unit + 12582912.0f) - 12582912.0f);  // half to even
  }

  void list_symbols() {
    const int fold = decoder == Decoder::threes ? 1 : w.fold, mask = (1 << w.bits) - 1;
    for (int k = 0; k < fold; ++k)
      for (int i = 0; i < w.width; ++i)
        for (int high = 0; high < 2; ++high)
          for (int symbol = 0; symbol < 16; ++symbol)
            lut.push_back(static_cast<int8_t>(level(0, symbol >> (k * w.bits) & mask, i) >> (8 * high)));
  }

  void list_entries() {
    const long every = 1L << w.bits, part = every * w.width;
    entries.assign(w.parts * part + 16, 0);
    for (int s = 0; s < w.parts; ++s)
      for (long c = 0; c < w.entries; ++c)
        for (int i = 0; i < w.width; ++i) entries[s * part + c * w.width + i] = level(s, c, i);
    for (long u = 0; u < units; ++u) offset.push_back(static_cast<int32_t>(u % w.parts * part));
  }

  WideCut wide() const { return {w.in, columns, blocks, together(), top}; }
  long pairs() const { return (columns + 1) / 2; }
  // Blocks that are multiplied together.
  long together() const {
    long count = std::max(1L, kGroup / columns);
    while (w.group && w.group / columns % count) --count;
    return count;
  }
  // Whether block b is the first one of columns with other scales, or there is none but one.
  bool closes(long b) const { return w.group && (b == blocks || b * columns % w.group == 0); }
  long numbers() const { return pairs() * 2 * kPanelRows; }  // of a block
};

// Decodes the blocks of one panel.
struct Blocks {
  const WideKernels& k;
  const Levels& levels;
  std::vector<uint8_t> scratch;
  std::vector<uint16_t> index;
  Buffer<int16_t> block;

  Blocks(const WideKernels& kernels, const Levels& of)
      : k(kernels), levels(of), block(of.together() * of.numbers()) {
    if (levels.decoder == Decoder::vectors) index.resize(levels.units * kPanelRows);
    if (levels.decoder == Decoder::any) index.resize(kPanelRows);
  }

  // Codes with 64 places where their fields are whole bytes or nibbles, else null.
  const uint8_t* codes(const Panel& panel) {
    const int bits = levels.w.bits;
    return bits <= 4 || bits == 8 || bits == 16 ? panel.spread(scratch) : nullptr;
  }

  void decode(const Panel& panel, const uint8_t* codes, long b, int16_t* out) {
    const Tables& w = levels.w;
    const long first = b * levels.units, count = std::min(levels.units, w.units - first), half = levels.numbers() / 2;
    switch (levels.decoder) {
      case Decoder::nibbles:
        return k.nibbles(codes + first * 32, count, w.fold * w.width, levels.lut.data(), out, half);
      case Decoder::threes:
        return k.threes(codes + first * 96, count, levels.lut.data(), out, half);
      case Decoder::bytes:
        return k.bytes(codes + first * kPanelRows, count, out, half);
      case Decoder::e8p:
        return k.e8p(codes + first * 128, count, w.magnitude, out, half);
      case Decoder::vectors: {
        if (w.bits == 8) {
          for (long i = 0; i < count * kPanelRows; ++i) index[i] = codes[first * kPanelRows + i];
        } else {
          panel.expand(first, count, index.data());
        }
        const int parts = w.width == w.dim ? w.parts : 1;
        return k.vectors(index.data(), count / parts, parts, w.width, levels.entries.data(), levels.offset.data(), out,
                         half);
      }
      default:
        return any(panel, b, out);
    }
  }

  // Codes of any width and vectors of any size, one after the other.
  void any(const Panel& panel, long b, int16_t* out) {
    const Tables& w = levels.w;
    const long first = b * levels.units, last = std::min(first + levels.units, w.codes), bytes = w.unit_bytes(panel.rows);
    std::fill(out, out + levels.numbers(), int16_t{0});
    for (long j = first; j < last; ++j) {
      if (w.fold > 1) {
        for (int r = 0; r < kPanelRows; ++r) {
          const long row = panel.row_at(r);
          index[r] = static_cast<uint16_t>(
              row < 0 ? 0 : code_at(w, panel.stored + j / w.fold * bytes, panel.rows, row, static_cast<int>(j % w.fold)));
        }
      } else {
        panel.expand(j, 1, index.data());
      }
      const int16_t* table = levels.entries.data() + levels.offset[j - first];
      for (int i = 0; i < w.width; ++i) {
        const long column = w.column(j) + i - b * levels.columns;
        for (int r = 0; r < kPanelRows; ++r) {
          int16_t& at = out[r / 32 * levels.numbers() / 2 + column / 2 * kPanelRows + r % 32 * 2 + column % 2];
          at = static_cast<int16_t>(at + table[index[r] * w.width + i]);
        }
      }
    }
  }

  long row_at(const Panel& panel, int place) const {
    const bool spread =
        levels.decoder == Decoder::nibbles || levels.decoder == Decoder::threes || levels.decoder == Decoder::bytes;
    return panel.row_at(spread ? k.row_at(place) : place);
  }
};

// What each row of x adds to the values of the columns of each scale, (w.groups, rows): their sum times the first level.
std::vector<float> rests_of(const Levels& levels, WideInputs& inputs) {
  const Tables& w = levels.w;
  std::vector<int64_t> sums(w.groups * inputs.rows);
  const long together = levels.together(), width = 2 * levels.pairs();
  for (long b = 0; levels.first != 0.0f && b < levels.blocks; ++b)
    for (long i = 0; i < inputs.rows; ++i) {
      const int16_t* q = inputs.row_of(b - b % together, i) + b % together * width;
      int64_t& sum = sums[(w.group ? b * levels.columns / w.group : 0) * inputs.rows + i];
      for (long c = 0; c < width; ++c) sum += q[c];
    }
  std::vector<float> found(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) found[i] = static_cast<float>(sums[i]) * levels.first;
  return found;
}

// Totals of a panel to outputs; where columns share scales, these are in them.
void finish(const Blocks& blocks, const Panel& panel, long index, const WideInputs& inputs, const uint16_t* scales,
            const float* totals, float* y) {
  const Levels& levels = blocks.levels;
  const Tables& w = levels.w;
  long place[kPanelRows], count = std::min(kPanelRows, w.out - index * kPanelRows);  // of each row
  float scale[kPanelRows];
  for (int i = 0; i < kPanelRows; ++i) {
    const long row = blocks.row_at(panel, i);
    if (row < 0 || row >= count) continue;
    place[row] = i;
    scale[row] = w.group ? 1.0f : from_half(scales[index * kPanelRows + row]);
  }
  for (size_t i = 0; i < inputs.unit.size(); ++i) {
    const float* sum = totals + i * kPanelRows;
    const float rest = w.group ? 0.0f : static_cast<float>(inputs.total[i]) * levels.first, unit = inputs.unit[i];
    const float factor = w.group ? 1.0f : levels.unit;
    float* to = y + static_cast<long>(i) * w.out + index * kPanelRows;
    for (long r = 0; r < count; ++r) to[r] = (sum[place[r]] * factor + rest) * unit * scale[r];
  }
}

}  // namespace

const WideKernels& wide_kernels() {
#if VQ_X86
  if (isa() == Isa::avx512) return avx512_wide;
  if (isa() == Isa::avx2) return avx2_wide;
#elif VQ_NEON
  static const WideKernels neon = [] {
    WideKernels k = portable_wide;
    use_neon(&k);
    return k;
  }();
  if (isa() == Isa::neon) return neon;
#endif
  return portable_wide;
}

long wide_rows(const Tables& w) {
#if VQ_X86
  if (isa() == Isa::avx512 && bytes_can(w)) return 5;
#endif
  switch (decoder_of(w)) {
    case Decoder::nibbles: return w.bits <= 2 ? 8 : 4;
    case Decoder::e8p: return 2;
    case Decoder::any: return 12;
    case Decoder::vectors: return w.width <= 2 ? 4 : 3;
    default: return 3;
  }
}

void tables_wide(const WideKernels& k, const float* x, long rows, long stride, const Tables& w, const uint16_t* scales, float* y,
                 int threads) {
  const Levels levels(w);
  WideInputs inputs(k, levels.wide(), x, rows, stride, threads);
  const std::vector<float> rests = w.group ? rests_of(levels, inputs) : std::vector<float>();
  const long grain = std::max(1L, w.panels / (4L * std::max(1, threads))), all = rows * kPanelRows;
  parallel_for(w.panels, grain, threads, [&](long begin, long end) {
    Blocks blocks(k, levels);
    PanelScales scale(table_kernels(), w, scales);
    Buffer<float> totals(all), values(w.group ? all : 1);
    for (long p = begin; p < end; ++p) {
      const Panel panel(w, p);
      const uint8_t* codes = blocks.codes(panel);
      std::fill(totals.get(), totals.get() + all, 0.0f);
      const float* own = nullptr;
      if (w.group) {
        own = scale.read(p, [&](int place) { return blocks.row_at(panel, place); });
        std::fill(values.get(), values.get() + all, 0.0f);
      }
      for (long b = 0; b < levels.blocks; b += levels.together()) {
        const long count = std::min(levels.together(), levels.blocks - b);
        for (long i = 0; i < count; ++i) blocks.decode(panel, codes, b + i, blocks.block.get() + i * levels.numbers());
        k.multiply(blocks.block.get(), count, levels.pairs(), inputs.row_of(b, 0), rows, totals.get());
        if (!levels.closes(b + count)) continue;
        const long g = b * levels.columns / w.group;
        k.add_values(totals.get(), rows, levels.unit, rests.data() + g * rows, own + g * kPanelRows, values.get());
      }
      finish(blocks, panel, p, inputs, scales, w.group ? values.get() : totals.get(), y);
    }
  });
}

}  // namespace vq
