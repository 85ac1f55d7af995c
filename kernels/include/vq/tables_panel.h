// What the drivers of layout 4 share: scratch memory and panels with 64 places. For kernels/common only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "vq/tables.h"

namespace vq {

template <typename T>
struct Buffer {
  explicit Buffer(long count) : at_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64))) {
    if (!at_) throw std::bad_alloc();
  }
  ~Buffer() { std::free(at_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return at_; }

 private:
  T* at_;
};

inline float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  float value;
  uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
  if (exponent == 0) {
    value = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  std::memcpy(&value, &bits, 4);
  return value;
}

// Columns that share a scale in every row, as a matrix of their own; all of them where a row has one scale.
struct Piece {
  Tables w;           // its panels are those of the whole matrix: `panel` does not belong here
  long unit, column;  // where it begins in a row
};
std::vector<Piece> pieces_of(const Tables& w);

// Whether the entries of a table of scalars are evenly spaced, to a part in a million of their range.
bool even_levels(const Tables& w);

// One row of x for E8P: planes of int8 with 8 columns a unit, the sums of each eight, and of all; returns the unit.
using Quantize = float (*)(const float* x, long n, long padded, int top, int16_t* q);
float e8p_inputs(Quantize quantize, const float* x, long n, long units, int planes, int8_t* bytes, int16_t* sums, int64_t* total);

// An output of E8P: sums of value * x, 64 numbers on those of x where the move bit is set, and so on for a second plane.
inline float e8p_output(const int32_t* sums, int planes, int64_t total, float step, float unit) {
  int64_t main = sums[0], moved = sums[kPanelRows];
  if (planes == 2) {
    main = main * 128 + sums[2 * kPanelRows];
    moved = moved * 128 + sums[3 * kPanelRows];
  }
  // (value - 3.5) x, and 1/4 where the move bit is set, else -1/4
  return static_cast<float>(4 * main + 2 * moved - 15 * total) * (0.25f * step) * unit;
}

// A panel with 64 places for rows. The last one of a matrix may hold fewer, R: the first half of them takes the places
// from 0 on, the second half those from 32 on.
struct Panel {
  const Tables& w;
  long rows;
  const uint8_t* stored;

  Panel(const Tables& view, long index) : w(view), rows(view.rows_of(index)), stored(view.panel(index)) {}

  long row_at(int place) const {
    const long half = rows / 2, row = place % 32;
    return row < half ? row + place / 32 * half : -1;
  }

  // Codes whose fields are whole bytes or nibbles, spread to 64 places.
  const uint8_t* spread(std::vector<uint8_t>& scratch) const {
    if (rows == kPanelRows) return stored;
    const long half = rows / 2, pieces = w.units * w.unit_bytes(rows) / half;
    scratch.assign(pieces * 32, 0);
    for (long i = 0; i < pieces; ++i) std::memcpy(scratch.data() + i * 32, stored + i * half, half);
    return scratch.data();
  }

  // Codes of 64 rows with fields of H bits that begin at `fields`, above B bits that stand in bytes before.
  template <int H, int B, typename Code>
  static void open(const uint8_t* bytes, const uint8_t* fields, Code* to) {
    for (int r = 0; r < kPanelRows; r += 8, fields += H) {
      uint64_t v = 0;
      std::memcpy(&v, fields, H);
      for (int i = 0; i < 8; ++i)
        to[r + i] = static_cast<Code>((v >> (H * i) & ((1u << H) - 1)) << B | (B ? bytes[r + i] : 0));
    }
  }

  template <typename Code>
  bool open_full(const uint8_t* unit, Code* to) const {
    const uint8_t* high = unit + kPanelRows;
    switch (rows == kPanelRows ? w.bits : 0) {
      case 5: return open<5, 0>(unit, unit, to), true;
      case 6: return open<6, 0>(unit, unit, to), true;
      case 7: return open<7, 0>(unit, unit, to), true;
      case 9: return open<1, 8>(unit, high, to), true;
      case 10: return open<2, 8>(unit, high, to), true;
      case 11: return open<3, 8>(unit, high, to), true;
      case 12: return open<4, 8>(unit, high, to), true;
      case 13: return open<5, 8>(unit, high, to), true;
      case 14: return open<6, 8>(unit, high, to), true;
      case 15: return open<7, 8>(unit, high, to), true;
      case 16: return open<8, 8>(unit, high, to), true;
      default: return false;
    }
  }

  template <typename Code>
  void expand(long first, long count, Code* out) const {
    const long bytes = w.unit_bytes(rows);
    for (long u = 0; u < count; ++u) {
      const uint8_t* unit = stored + (first + u) * bytes;
      Code* to = out + u * kPanelRows;
      if (open_full(unit, to)) continue;
      for (int r = 0; r < kPanelRows; ++r) {
        const long row = row_at(r);
        to[r] = static_cast<Code>(row < 0 ? 0 : code_at(w, unit, rows, row, 0));
      }
    }
  }
};

// Scales of a panel's places, 64 floats for each piece of the columns; kept from panel to panel for their memory.
struct PanelScales {
  const TablesKernels& k;
  const Tables& w;
  const uint16_t* scales;
  std::vector<uint16_t> placed;
  std::vector<float> values;

  PanelScales(const TablesKernels& kernels, const Tables& of, const uint16_t* all)
      : k(kernels), w(of), scales(all), values(of.groups * kPanelRows) {}

  // `row_at` gives the row of the panel that stands at a place; zeros where there is none.
  template <typename RowAt>
  const float* read(long panel, RowAt row_at) {
    placed.assign(w.groups * kPanelRows, 0);
    for (int place = 0; place < kPanelRows; ++place) {
      const long own = row_at(place), row = panel * kPanelRows + own;
      if (own >= 0 && row < w.out) std::copy_n(scales + row * w.groups, w.groups, placed.data() + place * w.groups);
    }
    k.scales(placed.data(), w.groups, values.data());
    return values.data();
  }

  // The same where rows stand in their order and none is missing.
  const float* read(long panel) {
    k.scales(scales + panel * kPanelRows * w.groups, w.groups, values.data());
    return values.data();
  }
};

}  // namespace vq
