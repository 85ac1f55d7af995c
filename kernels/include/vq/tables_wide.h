// Many rows of x times a matrix in layout 4: blocks of columns of a panel are decoded to 16-bit integers once, into the first
// cache, and multiplied with all rows, whose activations are integers of at most 15 bits.
//
// A block is pairs of columns: [half][pair][place][2] numbers, twice 32 places (rows of the panel); a half has `half` numbers,
// 64 for each pair. The sum over a block never leaves 32 bits; sums of blocks are added as float32, in the same order everywhere, so every instruction set gives the same bits.
// Several blocks are decoded before they are multiplied.
#pragma once
#include <cstdint>

#include "vq/tables.h"

namespace vq {

struct WideKernels {
  // Row that stands at a place after `nibbles`, `threes` and `bytes`; the other decoders keep the order.
  int (*row_at)(int place);
  // Units of one nibble that stands for `columns` numbers (one, or an even number): tables of 16 low bytes and 16 high bytes
  // for each of them. After an odd last unit of one column comes any number, here and in `bytes`.
  void (*nibbles)(const uint8_t* codes, long units, int columns, const int8_t* lut, int16_t* block, long half);
  // Units of four codes of 3 bits, one table.
  void (*threes)(const uint8_t* codes, long units, const int8_t* lut, int16_t* block, long half);
  // Units of one byte: the numbers themselves.
  void (*bytes)(const uint8_t* codes, long units, int16_t* block, long half);
  // Vectors of `width` numbers (1, 2, 4, or a multiple of 8), each the sum of `parts` entries: of unit u the one that begins at
  // offset[u] + index * width.
  void (*vectors)(const uint16_t* index, long count, int parts, int width, const int16_t* table, const int32_t* offset,
                  int16_t* block, long half);
  // E8P in quarters of its step: 4 (value + move).
  void (*e8p)(const uint8_t* codes, long units, const uint8_t* magnitude, int16_t* block, long half);
  // totals[row * 64 + place] += the sum of the products with `blocks` blocks; a row of x has blocks * 2 * pairs numbers.
  void (*multiply)(const int16_t* block, long blocks, long pairs, const int16_t* x, long rows, float* totals);
  // n numbers times a factor, rounded half to even.
  void (*quantize)(const float* x, long n, float factor, int16_t* q);
  // Largest magnitude of n numbers and the sum of their magnitudes; both NaN where one is not finite.
  void (*measure)(const float* x, long n, float* largest, float* sum);
  // values += (totals * unit + rest of the row) * scale, and totals = 0; 64 of each a row, of scale 64 in all.
  void (*add_values)(float* totals, long rows, float unit, const float* rest, const float* scale, float* values);
};

extern const WideKernels portable_wide;
extern const WideKernels avx2_wide;    // these are defined on x86 only
extern const WideKernels avx512_wide;
void use_neon(WideKernels* kernels);   // replaces what NEON does better; defined on 64-bit Arm only

const WideKernels& wide_kernels();

// Rows of x from which on these kernels are faster than those of single rows.
long wide_rows(const Tables& w);

// y(rows, out) = product and scales (out, w.groups); x (rows, stride) is rotated, of w.in columns.
void tables_wide(const WideKernels& k, const float* x, long rows, long stride, const Tables& w, const uint16_t* scales, float* y,
                 int threads);

}  // namespace vq
