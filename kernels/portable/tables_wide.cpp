// Plain C++ wide table kernels: the fallback for every CPU.
#include "vq/tables_wide.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace vq {
namespace {

#include "vq/tables_wide_body.inc"

inline int16_t* column_of(int16_t* block, long column) { return block + column / 2 * kPanelRows + column % 2; }

inline int16_t word(const int8_t* lut, int symbol) {
  return static_cast<int16_t>(static_cast<uint8_t>(lut[symbol]) + 256 * static_cast<int>(lut[16 + symbol]));
}

inline int nibble(const uint8_t* codes, int row) { return codes[row & 31] >> (row < 32 ? 0 : 4) & 15; }

// Numbers of one column and all rows: value(row).
template <typename Value>
inline void fill(int16_t* block, long half, long column, Value value) {
  int16_t* at = column_of(block, column);
  for (int r = 0; r < 32; ++r) at[2 * r] = value(r);
  for (int r = 32; r < 64; ++r) at[half + 2 * r - 64] = value(r);
}

// The second column of an odd last pair, which meets zeros: any number.
inline void complete(int16_t* block, long half, long columns) {
  if (columns % 2) fill(block, half, columns, [](int) { return int16_t{0}; });
}

void nibbles(const uint8_t* codes, long units, int columns, const int8_t* lut, int16_t* block, long half) {
  for (long u = 0; u < units; ++u)
    for (int c = 0; c < columns; ++c)
      fill(block, half, u * columns + c, [&](int r) { return word(lut + c * 32, nibble(codes + u * 32, r)); });
  complete(block, half, units * columns);
}

void threes(const uint8_t* codes, long units, const int8_t* lut, int16_t* block, long half) {
  for (long u = 0; u < units; ++u)
    for (int k = 0; k < 4; ++k)
      fill(block, half, u * 4 + k, [&](int r) {
        const uint8_t* at = codes + u * 96;
        return word(lut, (at[r] >> (2 * k) & 3) | (nibble(at + 64, r) >> k & 1) << 2);
      });
}

void bytes(const uint8_t* codes, long units, int16_t* block, long half) {
  for (long u = 0; u < units; ++u) fill(block, half, u, [&](int r) { return static_cast<int16_t>(codes[u * kPanelRows + r]); });
  complete(block, half, units);
}

void vectors(const uint16_t* index, long count, int parts, int width, const int16_t* table, const int32_t* offset,
             int16_t* block, long half) {
  for (long v = 0; v < count; ++v)
    for (int i = 0; i < width; ++i)
      fill(block, half, v * width + i, [&](int r) {
        int sum = 0;
        for (long u = v * parts; u < (v + 1) * parts; ++u)
          sum += table[offset[u] + static_cast<long>(index[u * kPanelRows + r]) * width + i];
        return static_cast<int16_t>(sum);
      });
  complete(block, half, count * width);
}

void e8p(const uint8_t* codes, long units, const uint8_t* magnitude, int16_t* block, long half) {
  for (long u = 0; u < units; ++u)
    for (int i = 0; i < 8; ++i)
      fill(block, half, u * 8 + i, [&](int r) {
        const int pattern = codes[u * 128 + r], signs = codes[u * 128 + 64 + r];
        const int negative = i < 7 ? signs >> i & 1 : __builtin_parity(signs & 127);
        return static_cast<int16_t>(4 * (magnitude[pattern * 8 + i] ^ (negative ? 7 : 0)) - 14 + (signs >> 7 ? 1 : -1));
      });
}

void multiply(const int16_t* block, long blocks, long pairs, const int16_t* x, long rows, float* totals) {
  for (long i = 0; i < rows; ++i) {
    float all[kPanelRows] = {};
    for (long b = 0; b < blocks; ++b) {
      int32_t sum[kPanelRows] = {};
      for (long p = b * pairs; p < (b + 1) * pairs; ++p) {
        const int16_t* low = block + (b * 2 * pairs + p % pairs) * kPanelRows;
        const int16_t* high = low + pairs * kPanelRows;
        const int32_t first = x[(i * blocks * pairs + p) * 2], second = x[(i * blocks * pairs + p) * 2 + 1];
        for (int r = 0; r < 32; ++r) sum[r] += low[2 * r] * first + low[2 * r + 1] * second;
        for (int r = 0; r < 32; ++r) sum[32 + r] += high[2 * r] * first + high[2 * r + 1] * second;
      }
      for (int r = 0; r < kPanelRows; ++r) all[r] += static_cast<float>(sum[r]);
    }
    for (int r = 0; r < kPanelRows; ++r) totals[i * kPanelRows + r] += all[r];
  }
}

int row_at(int place) { return place; }

}  // namespace

const WideKernels portable_wide = {row_at, nibbles, threes, bytes, vectors, e8p, multiply, quantize, measure, add_values};

}  // namespace vq
