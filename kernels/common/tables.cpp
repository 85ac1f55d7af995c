// Linear layers of table codes: which kernel, what it needs of x, and the walk over panels.
#include "vq/tables.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "vq/cpu.h"
#include "vq/linear.h"
#include "vq/tables_bytes.h"
#include "vq/tables_panel.h"
#include "vq/tables_wide.h"
#include "vq/threads.h"

namespace vq {
namespace {

enum class Kind { nibbles, nibbles_float, threes, threes_float, levels, vectors, long_vectors, e8p };

constexpr long kChunk = 64;  // units whose indices stay in the first cache

long stride_of(const Tables& w) { return w.width == 2 || w.width % 4 == 0 ? w.width : (w.width + 3) / 4 * 4; }
long lanes_of(const Tables& w) { return w.width <= 4 ? 4 : (w.width + 7) / 8 * 8; }

Kind kind_of(const Tables& w, TableMode mode) {
  const bool floats = mode == TableMode::floats;
  if (w.magnitude) return floats ? Kind::long_vectors : Kind::e8p;
  if (w.bits == 3) return floats ? Kind::threes_float : Kind::threes;
  if (w.bits <= 4) return floats ? Kind::nibbles_float : Kind::nibbles;
  if (!floats && even_levels(w)) return Kind::levels;
  return w.bits <= 8 && (w.parts * stride_of(w) << w.bits) <= 1L << 17 ? Kind::vectors : Kind::long_vectors;
}

// All 65536 points of E8P, kept from call to call: the patterns and the step hardly ever change.
std::shared_ptr<const std::vector<float>> e8p_points(const Tables& w) {
  static std::mutex mutex;
  static std::vector<uint8_t> patterns;
  static float step = 0.0f;
  static std::shared_ptr<const std::vector<float>> points;
  std::lock_guard<std::mutex> lock(mutex);
  if (!points || step != w.step || std::memcmp(patterns.data(), w.magnitude, 2048) != 0) {
    auto made = std::make_shared<std::vector<float>>(65536 * 8);
    for (int code = 0; code < 65536; ++code) e8p_point(w, code, made->data() + 8 * code);
    patterns.assign(w.magnitude, w.magnitude + 2048);
    step = w.step;
    points = made;
  }
  return points;
}

// The tables as the vector kernels read them: padded strides, a vector (of zeros) for every code there can be, room behind
// the last one; E8P listed in full.
struct VectorTables {
  std::vector<float> own;
  std::shared_ptr<const std::vector<float>> points;
  const float* at;
  long stride, lanes;
  std::vector<int32_t> offset;  // of each part

  explicit VectorTables(const Tables& w) : at(w.table), stride(stride_of(w)), lanes(lanes_of(w)) {
    const long every = 1L << w.bits;
    for (int s = 0; s < w.parts; ++s) offset.push_back(static_cast<int32_t>(s * every * stride));
    if (w.magnitude) {
      points = e8p_points(w);
      at = points->data();
    }
    if (w.magnitude || (stride == w.width && stride == lanes && w.entries == every)) return;
    own.assign(w.parts * every * stride + lanes, 0.0f);
    at = own.data();
    for (int s = 0; s < w.parts; ++s)
      for (long c = 0; c < w.entries; ++c)
        std::copy_n(w.table + (s * w.entries + c) * w.width, w.width, own.data() + (s * every + c) * stride);
  }
};

// Everything that depends on the matrix alone or on x alone; panels share it.
struct Call {
  const Tables& w;
  const TablesKernels& k;
  TableMode mode;
  Kind kind;
  std::vector<Piece> pieces;  // of a row of the matrix
  std::vector<long> first_block;  // of each piece
  long rows, planes, block;  // block: lookups summed in 16 bits
  long width;                // columns of x with room behind
  std::unique_ptr<Buffer<float>> x;  // rotated, padded with zeros
  std::unique_ptr<Buffer<int8_t>> bytes;
  std::unique_ptr<Buffer<int16_t>> words;
  std::unique_ptr<Buffer<float>> floats, scales;
  std::unique_ptr<VectorTables> tables;
  std::vector<uint16_t> short_offset;
  std::vector<int32_t> long_offset;
  std::vector<float> unit;      // of each piece of each row of x
  std::vector<int64_t> total;
  long act = 0, blocks = 0;  // numbers of a row in its main buffer; scales of a row

  Call(const Tables& view, TableMode how, long count)
      : w(view), k(table_kernels()), mode(how), kind(kind_of(view, how)), pieces(pieces_of(view)), rows(count), planes(how == TableMode::int15 ? 2 : 1),
        block(how == TableMode::int15 ? kMostBlock / 2 : kMostBlock) {
    width = (w.units * w.fold + w.parts - 1) / w.parts * w.dim + 64;
    x = std::make_unique<Buffer<float>>(rows * width);
    unit.resize(rows * w.groups);
    total.resize(rows * w.groups);
    const long lookups = each() * w.units;
    for (const Piece& piece : pieces) {
      first_block.push_back(blocks);
      blocks += (piece.w.units * each() + block - 1) / block;
    }
    switch (kind) {
      case Kind::nibbles:
      case Kind::threes:
        act = lookups * 32;
        bytes = std::make_unique<Buffer<int8_t>>(rows * act);
        scales = std::make_unique<Buffer<float>>(rows * blocks);
        break;
      case Kind::nibbles_float:
      case Kind::threes_float:
        act = lookups * 16;
        floats = std::make_unique<Buffer<float>>(rows * act);
        break;
      case Kind::levels:
        act = w.units;
        words = std::make_unique<Buffer<int16_t>>(rows * act);
        break;
      case Kind::e8p:
        act = planes * w.units * 8;
        bytes = std::make_unique<Buffer<int8_t>>(rows * act);
        words = std::make_unique<Buffer<int16_t>>(rows * planes * w.units);
        break;
      default:
        tables = std::make_unique<VectorTables>(w);
        act = w.units * tables->lanes;
        floats = std::make_unique<Buffer<float>>(rows * act + 16);
        for (long u = 0; u < w.units; ++u) {
          const int32_t offset = tables->offset[u % w.parts];
          long_offset.push_back(offset);
          short_offset.push_back(static_cast<uint16_t>(offset / 2));
        }
    }
  }

  // Lookups of a unit.
  long each() const { return w.bits == 3 ? 4 : 1; }

  void prepare(long i) {
    const float* row = x->get() + i * width;
    if (tables) {
      for (long u = 0; u < w.units; ++u) {
        float* at = floats->get() + i * act + u * tables->lanes;
        std::fill(at, at + tables->lanes, 0.0f);
        std::copy_n(row + w.column(u), w.width, at);
      }
    } else {
      for (long g = 0; g < w.groups; ++g) prepare(row + pieces[g].column, i, g);
    }
  }

  // The columns of piece g, which x begins with.
  void prepare(const float* own, long i, long g) {
    const Piece& piece = pieces[g];
    const long at = i * w.groups + g, first = piece.unit * each();
    switch (kind) {
      case Kind::nibbles:
      case Kind::threes:
        k.integer_lut(piece.w, own, block, bytes->get() + i * act + first * 32, scales->get() + i * blocks + first_block[g]);
        break;
      case Kind::levels: {
        int16_t* q = words->get() + i * act + first;
        unit[at] = k.quantize(own, piece.w.in, piece.w.units, 16319, q);
        for (long c = 0; c < piece.w.in; ++c) total[at] += q[c];
        break;
      }
      case Kind::e8p:
        unit[at] = e8p_inputs(k.quantize, own, piece.w.in, piece.w.units, static_cast<int>(planes),
                              bytes->get() + i * act + planes * first * 8, words->get() + planes * (i * w.units + first),
                              &total[at]);
        break;
      default:
        k.float_lut(piece.w, own, floats->get() + i * act + first * 16);
    }
  }

  // 64 outputs of piece g of a panel for row i of x. `codes` are those of a full panel.
  void product(const uint8_t* codes, long i, long g, float* y) const {
    const long units = pieces[g].w.units, first = pieces[g].unit * each();
    codes += pieces[g].unit * w.unit_bytes(kPanelRows);
    switch (kind) {
      case Kind::nibbles:
      case Kind::threes: {
        const auto multiply = kind == Kind::nibbles ? k.nibbles : k.threes;
        return multiply(codes, units, block, bytes->get() + i * act + first * 32,
                        scales->get() + i * blocks + first_block[g], y);
      }
      case Kind::nibbles_float:
        return k.nibbles_float(codes, units, floats->get() + i * act + first * 16, y);
      case Kind::threes_float:
        return k.threes_float(codes, units, floats->get() + i * act + first * 16, y);
      case Kind::levels:
        return levels(codes, i, g, y);
      default:
        return e8p(codes, i, g, y);
    }
  }

  void levels(const uint8_t* codes, long i, long g, float* y) const {
    int64_t sums[kPanelRows];
    k.levels(codes, pieces[g].w.units, words->get() + i * act + pieces[g].unit, sums);
    const float first = w.table[0], step = (w.table[w.entries - 1] - first) / static_cast<float>(w.entries - 1);
    const float own = unit[i * w.groups + g], rest = static_cast<float>(total[i * w.groups + g]) * first;
    for (int r = 0; r < kPanelRows; ++r) y[r] = own * (static_cast<float>(sums[r]) * step + rest);
  }

  void e8p(const uint8_t* codes, long i, long g, float* y) const {
    int32_t sums[4 * kPanelRows];
    const long first = planes * pieces[g].unit, at = i * w.groups + g;
    k.e8p(codes, pieces[g].w.units, w.magnitude, bytes->get() + i * act + first * 8,
          words->get() + i * planes * w.units + first, static_cast<int>(planes), sums);
    for (int r = 0; r < kPanelRows; ++r) y[r] = e8p_output(sums + r, static_cast<int>(planes), total[at], w.step, unit[at]);
  }
};

// Products with vectors out of tables: codes become places in the table a chunk at a time, for all rows of x. Of one piece.
void vector_products(const Call& call, const Panel& panel, const uint8_t* codes, const Piece& piece, float* y) {
  const Tables& w = call.w;
  alignas(64) uint16_t index[kChunk * kPanelRows];
  alignas(64) uint8_t narrow[kChunk * kPanelRows];
  std::fill(y, y + call.rows * kPanelRows, 0.0f);
  const long lanes = call.tables->lanes, stride = call.tables->stride;
  const long end = piece.unit + piece.w.units;
  for (long u = piece.unit; u < end; u += kChunk) {
    const long count = std::min(kChunk, end - u);
    if (call.kind == Kind::vectors) {
      if (w.bits != 8) panel.expand(u, count, narrow);
      call.k.places(w.bits == 8 ? codes + u * kPanelRows : narrow, count, call.short_offset.data() + u,
                    static_cast<int>(stride), index);
    } else if (w.bits == 8) {
      for (long i = 0; i < count * kPanelRows; ++i) index[i] = codes[u * kPanelRows + i];
    } else {
      panel.expand(u, count, index);
    }
    for (long i = 0; i < call.rows; ++i) {
      const float* x = call.floats->get() + i * call.act + u * lanes;
      if (call.kind == Kind::vectors) {
        call.k.vectors(index, count, call.tables->at, static_cast<int>(lanes), x, y + i * kPanelRows);
      } else {
        call.k.long_vectors(index, count, call.tables->at, call.long_offset.data() + u, static_cast<int>(stride),
                            static_cast<int>(lanes), x, y + i * kPanelRows);
      }
    }
  }
}

// What the panels of a thread need one after the other.
struct Scratch {
  std::vector<uint8_t> codes;
  Buffer<float> sums, part;
  PanelScales scales;

  Scratch(const Call& call, const uint16_t* all)
      : sums(call.rows * kPanelRows), part(call.rows * kPanelRows), scales(call.k, call.w, all) {}
};

// Products of piece g of a panel.
void one_piece(const Call& call, const Panel& panel, const uint8_t* codes, long g, float* sums) {
  if (call.tables) return vector_products(call, panel, codes, call.pieces[g], sums);
  for (long i = 0; i < call.rows; ++i) call.product(codes, i, g, sums + i * kPanelRows);
}

// Sums over the pieces, each times the scales of its rows.
void scaled_pieces(const Call& call, const Panel& panel, long index, const uint8_t* codes, Scratch& scratch) {
  const long all = call.rows * kPanelRows, full = (index + 1) * kPanelRows <= call.w.out;
  const float* scales = full ? scratch.scales.read(index)
                             : scratch.scales.read(index, [&](int place) { return panel.row_at(place); });
  float *sums = scratch.sums.get(), *part = scratch.part.get();
  std::fill(sums, sums + all, 0.0f);
  for (long g = 0; g < call.w.groups; ++g) {
    one_piece(call, panel, codes, g, part);
    for (long r = 0; r < all; r += kPanelRows) call.k.add_scaled(part + r, scales + g * kPanelRows, sums + r);
  }
}

// All outputs of one panel.
void one_panel(const Call& call, long index, const uint16_t* scales, float* y, Scratch& scratch) {
  const Tables& w = call.w;
  const Panel panel(w, index);
  const bool whole = w.bits <= 4 || w.bits == 8 || w.bits == 16;
  const uint8_t* codes = whole ? panel.spread(scratch.codes) : nullptr;
  if (w.group) scaled_pieces(call, panel, index, codes, scratch);
  else one_piece(call, panel, codes, 0, scratch.sums.get());
  for (int place = 0; place < kPanelRows; ++place) {
    const long own = panel.row_at(place), row = index * kPanelRows + own;
    if (own < 0 || row >= w.out) continue;
    const float scale = w.group ? 1.0f : from_half(scales[row]);
    for (long i = 0; i < call.rows; ++i) y[i * w.out + row] = scratch.sums.get()[i * kPanelRows + place] * scale;
  }
}

// Rows of x, rotated, with zeros behind for padded vectors.
struct Rotated {
  long stride;
  Buffer<float> rows;

  Rotated(const Tables& w, const float* x, long count, const uint8_t* signs, int threads)
      : stride(w.in + w.dim + 64), rows(count * stride) {
    parallel_for(count, 1, threads, [&](long first, long last) {
      for (long i = first; i < last; ++i) {
        float* row = rows.get() + i * stride;
        std::copy_n(x + i * w.in, w.in, row);
        std::fill(row + w.in, row + stride, 0.0f);
        if (signs) hadamard_rows(row, 1, w.in, signs, nullptr, 1);
      }
    });
  }
};

}  // namespace

const TablesKernels& table_kernels() {
#if VQ_X86
  static const TablesKernels avx512 = [] {
    TablesKernels k = avx2_tables;
    use_avx512(&k);
    return k;
  }();
  if (isa() == Isa::avx512) return avx512;
  if (isa() == Isa::avx2) return avx2_tables;
#elif VQ_NEON
  static const TablesKernels neon = [] {
    TablesKernels k = portable_tables;
    use_neon(&k);
    return k;
  }();
  if (isa() == Isa::neon) return neon;
#endif
  return portable_tables;
}

void tables_linear(const float* x, long rows, const Tables& w, const uint16_t* scales, const uint8_t* signs_in,
                   const uint8_t* signs_out, TableMode mode, float* y, int threads) {
  const bool wide = mode != TableMode::floats && rows >= wide_rows(w);
  const ByteKernels* bytes = byte_kernels(w, mode);
  if (wide || bytes) {
    const Rotated row(w, x, rows, signs_in, threads);
    if (wide) tables_wide(wide_kernels(), row.rows.get(), rows, row.stride, w, scales, y, threads);
    else tables_bytes(*bytes, table_kernels(), row.rows.get(), rows, row.stride, w, scales, mode, y, threads);
    if (signs_out) hadamard_rows(y, rows, w.out, nullptr, signs_out, threads);
    return;
  }
  Call call(w, mode, rows);
  parallel_for(rows, 1, threads, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      float* row = call.x->get() + i * call.width;
      std::copy_n(x + i * w.in, w.in, row);
      std::fill(row + w.in, row + call.width, 0.0f);
      if (signs_in) hadamard_rows(row, 1, w.in, signs_in, nullptr, 1);
      call.prepare(i);
    }
  });
  const long grain = std::max(1L, w.panels / (16L * std::max(1, threads)));
  parallel_for(w.panels, grain, threads, [&](long first, long last) {
    Scratch scratch(call, scales);
    for (long p = first; p < last; ++p) one_panel(call, p, scales, y, scratch);
  });
  if (signs_out) hadamard_rows(y, rows, w.out, nullptr, signs_out, threads);
}

const char* tables_kernel(const Tables& w, TableMode mode, long rows) {
  if (mode != TableMode::floats && rows >= wide_rows(w)) return "blocks of 16-bit levels, 15-bit activations";
  if (byte_kernels(w, mode)) return "inner products in tables of bytes, byte permutations";
  switch (kind_of(w, mode)) {
    case Kind::nibbles:
    case Kind::threes:
      return "inner products as 16-bit integers in tables of 16, byte shuffles";
    case Kind::nibbles_float:
    case Kind::threes_float:
      return "float32 inner products in tables of 16";
    case Kind::levels:
      return "even levels as integers, 15-bit activations";
    case Kind::e8p:
      return "E8P from 256 patterns and sign bits, integer activations";
    case Kind::vectors:
      return "vectors from a small table, float32 multiply-add";
    default:
      return "vectors from a large table, float32 multiply-add";
  }
}

}  // namespace vq
