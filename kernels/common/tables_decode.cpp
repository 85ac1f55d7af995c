// Layout 4 as floats, panel by panel: codes of a chunk of columns are opened for all 64 rows, then each row copies the
// entries of its codes.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "vq/tables.h"
#include "vq/tables_panel.h"
#include "vq/threads.h"

namespace vq {
namespace {

constexpr long kChunk = 64;  // symbols opened at once

// What a row is a sequence of: single codes, or nibbles that stand for several, with the weights of each.
struct Symbols {
  const Tables& w;
  bool nibbles;
  int parts, width;      // symbols of a vector; weights of a symbol
  long step, every;      // weights of a vector; symbols there can be
  std::vector<float> values;  // (parts, every, width)
  std::vector<float> masks;   // E8P: (256, 8) signs of each byte

  explicit Symbols(const Tables& view) : w(view), nibbles(w.bits <= 4 && w.bits != 3 && w.parts == 1) {
    parts = w.parts;
    width = nibbles ? w.fold * w.width : w.width;
    step = nibbles ? width : w.dim;
    every = nibbles ? 16 : 1L << w.bits;
    if (w.magnitude) {
      list_e8p();
      return;
    }
    values.assign(parts * every * width, 0.0f);
    for (int s = 0; s < parts; ++s)
      for (long symbol = 0; symbol < every; ++symbol) list(s, symbol, values.data() + (s * every + symbol) * width);
  }

  void list(int s, long symbol, float* to) const {
    for (int k = 0; k < (nibbles ? w.fold : 1); ++k) {
      const long code = nibbles ? symbol >> (k * w.bits) & ((1 << w.bits) - 1) : symbol;
      if (code < w.entries) std::copy_n(w.part(s) + code * w.width, w.width, to + k * w.width);
    }
  }

  void list_e8p() {
    for (int i = 0; i < 2048; ++i) values.push_back(static_cast<float>(w.magnitude[i]) - 3.5f);
    for (int signs = 0; signs < 256; ++signs)
      for (int i = 0; i < 8; ++i)
        masks.push_back((i < 7 ? signs >> i & 1 : __builtin_parity(signs & 127)) ? -1.0f : 1.0f);
  }

  long count() const { return nibbles ? w.units : w.codes; }
  bool added() const { return !nibbles && w.width == w.dim; }

  bool valid(long symbol) const {
    for (int k = 0; k < (nibbles ? w.fold : 1); ++k)
      if ((nibbles ? symbol >> (k * w.bits) & ((1 << w.bits) - 1) : symbol) >= w.entries) return false;
    return true;
  }
};

// Symbols [first, first + count) of 64 places.
void open_symbols(const Symbols& s, const Panel& panel, const uint8_t* spread, long first, long count, uint16_t* index) {
  const Tables& w = s.w;
  if (s.nibbles) {
    for (long u = 0; u < count; ++u)
      for (int r = 0; r < 32; ++r) {
        const int two = spread[(first + u) * 32 + r];
        index[u * kPanelRows + r] = static_cast<uint16_t>(two & 15);
        index[u * kPanelRows + 32 + r] = static_cast<uint16_t>(two >> 4);
      }
  } else if (w.bits == 8) {
    for (long i = 0; i < count * kPanelRows; ++i) index[i] = spread[first * kPanelRows + i];
  } else if (w.bits > 4) {
    panel.expand(first, count, index);
  } else {
    const long bytes = w.unit_bytes(kPanelRows);
    for (long j = first; j < first + count; ++j)
      for (int r = 0; r < kPanelRows; ++r)
        index[(j - first) * kPanelRows + r] =
            static_cast<uint16_t>(code_at(w, spread + j / w.fold * bytes, kPanelRows, r, static_cast<int>(j % w.fold)));
  }
}

// Entries of `count` vectors of one row, one of their parts; N weights where the width is known.
template <int N, bool ADD>
void place(const uint16_t* index, long parts, long count, const float* table, int width, long step, float* to) {
  const int n = N ? N : width;
  for (long v = 0; v < count; ++v, to += step) {
    const float* entry = table + static_cast<long>(index[v * parts * kPanelRows]) * n;
    for (int i = 0; i < n; ++i) to[i] = ADD ? to[i] + entry[i] : entry[i];
  }
}

template <bool ADD>
void place_any(const uint16_t* index, long parts, long count, const float* table, int width, long step, float* to) {
  switch (width) {
    case 1: return place<1, ADD>(index, parts, count, table, width, step, to);
    case 2: return place<2, ADD>(index, parts, count, table, width, step, to);
    case 4: return place<4, ADD>(index, parts, count, table, width, step, to);
    case 8: return place<8, ADD>(index, parts, count, table, width, step, to);
    default: return place<0, ADD>(index, parts, count, table, width, step, to);
  }
}

void place_e8p(const Symbols& s, const uint16_t* index, long count, float* to) {
  for (long v = 0; v < count; ++v, to += 8) {
    const int code = index[v * kPanelRows];
    const float* value = s.values.data() + (code & 255) * 8;
    const float* sign = s.masks.data() + (code >> 8) * 8;
    const float move = code >> 15 ? 0.25f : -0.25f;
    for (int i = 0; i < 8; ++i) to[i] = (value[i] * sign[i] + move) * s.w.step;
  }
}

// Vectors of one row to whole vectors of floats.
void place_row(const Symbols& s, const uint16_t* index, long count, float* to) {
  if (s.w.magnitude) return place_e8p(s, index, count, to);
  for (int p = 0; p < s.parts; ++p) {
    const float* table = s.values.data() + p * s.every * s.width;
    const uint16_t* own = index + p * kPanelRows;
    if (s.added() && p) place_any<true>(own, s.parts, count, table, s.width, s.step, to);
    else place_any<false>(own, s.parts, count, table, s.width, s.step, to + (s.added() ? 0 : p * s.width));
  }
}

// Rows [first, last) of a panel; `out` is where the first of them begins. False for a code beyond the table.
bool decode_panel(const Symbols& s, long number, long first, long last, float* out, std::vector<uint8_t>& scratch) {
  const Tables& w = s.w;
  const Panel panel(w, number);
  const bool whole = w.bits <= 4 || w.bits == 8 || w.bits == 16;
  const uint8_t* spread = whole ? panel.spread(scratch) : nullptr;
  const long vectors = std::max(1L, kChunk / s.parts), full = w.in / s.step, half = panel.rows / 2;
  std::vector<uint16_t> index(vectors * s.parts * kPanelRows);
  std::vector<float> rest(s.step);
  const bool check = !w.magnitude && w.entries < 1L << w.bits;
  bool fine = true;
  for (long v = 0; v * s.parts < s.count(); v += vectors) {
    const long count = std::min(vectors, s.count() / s.parts - v), direct = std::max(0L, std::min(count, full - v));
    open_symbols(s, panel, spread, v * s.parts, count * s.parts, index.data());
    for (long i = 0; check && i < count * s.parts * kPanelRows; ++i) fine = fine && s.valid(index[i]);
    for (long r = first; r < last; ++r) {
      const uint16_t* own = index.data() + (r < half || half == 32 ? r : 32 + r - half);
      float* row = out + (r - first) * w.in;
      place_row(s, own, direct, row + v * s.step);
      if (direct == count) continue;
      place_row(s, own + direct * s.parts * kPanelRows, 1, rest.data());
      std::copy_n(rest.data(), w.in - full * s.step, row + full * s.step);
    }
  }
  return fine;
}

}  // namespace

void decode_tables(const Tables& w, long first, long rows, float* out, int threads) {
  if (rows <= 0) return;
  std::atomic<bool> fine{true};
  const Symbols symbols(w);
  const long begin = first / kPanelRows, end = (first + rows - 1) / kPanelRows + 1;
  parallel_for(end - begin, 1, threads, [&](long from, long to) {
    std::vector<uint8_t> scratch;
    for (long p = begin + from; p < begin + to; ++p) {
      const long top = p * kPanelRows, low = std::max(first, top), high = std::min(first + rows, top + kPanelRows);
      if (!decode_panel(symbols, p, low - top, high - top, out + (low - first) * w.in, scratch)) fine = false;
    }
  });
  if (!fine) throw std::invalid_argument("packed weight is corrupted: a code is beyond the codebook's last entry");
}

}  // namespace vq
