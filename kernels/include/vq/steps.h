// Trellises of other codes than `hash` in integers: the values of a step stand in a table (docs/format.md, layout 2, code 0).
//
// A band is decoded to blocks of 64 columns as tables_wide.h describes them, pairs of columns side by side, and these are
// multiplied with rows of x by WideKernels::multiply. So the sums are exact integers, added as float32 in one order: every
// instruction set and number of threads gives the same bits.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "vq/linear.h"

namespace vq {

constexpr int kStepTiles = 16;                // of a block
constexpr long kStepPairs = 2 * kStepTiles;   // pairs of columns of a block
constexpr long kStepHalf = kStepPairs * 64;   // numbers of a block's half: 32 places of all pairs
constexpr int kSumMiddle = 510;

// The codes `mul1` and `mad1`: value = unit * (sum of the bytes of state * factor + term, mod 2^32, - kSumMiddle).
struct ByteSum {
  uint32_t factor, term;

  int operator()(uint32_t state) const {
    const uint32_t v = state * factor + term;
    return static_cast<int>((v & 255) + (v >> 8 & 255) + (v >> 16 & 255) + (v >> 24)) - kSumMiddle;
  }
};
constexpr ByteSum kByteSums[] = {{0x83dcd12du, 0}, {34038481u, 76625530u}};

// A table of values in the forms that the kernels use.
struct Steps {
  std::vector<float> values;  // as given, (2^memory, symbols)
  int step_bits, memory, symbols;
  const ByteSum* sums;  // what the values are, null where they are none of kByteSums
  float unit;   // value = unit * integer
  int top;      // largest magnitude of an integer
  bool twos;    // an entry is the weights of two columns: of a step, or of two steps; else of one
  int window;   // bits of the index of an entry
  int stride;   // bits from one index to the next
  std::vector<int16_t> entry;  // (2^window, twos ? 2 : 1), and 16 bytes more that may be read

  int columns() const { return twos ? 2 : 4; }  // entries of a row of a tile
};

// The forms of a matrix' table, whose code is none of `hash`. Those of the last tables are kept and found again by what they
// hold. Null where no kernel serves the format.
std::shared_ptr<const Steps> steps_of(const Trellis& w);

// The bits of tiles [8 g, 8 g + 8) of a band: a tile's are one number of 64 * words bits, little-endian, the first bit the most
// significant; the first word stands below it once more.
struct Streams {
  static constexpr int kBytes = 33 * 8 + 8;  // of a tile
  alignas(64) uint8_t bytes[8][kBytes + 48];
};

struct StepKernels {
  // Blocks [first, first + count) of a band, one after the other; where the matrix has no columns, any numbers not above top.
  void (*decode)(const Trellis& w, const Steps& steps, long band, long first, long count, int16_t* out);
  // Row of the band that stands at a place.
  int (*row_at)(const Steps& steps, int place);
};

extern const StepKernels portable_steps;
extern const StepKernels avx2_steps;    // these are defined on x86 only
extern const StepKernels avx512_steps;

struct WideKernels;

// y(rows, out) = product and scales; x (rows, stride) is rotated, of w.in columns.
void steps_linear(const StepKernels& k, const WideKernels& wide, const float* x, long rows, long stride, const Trellis& w,
                  const Steps& steps, const uint16_t* scales, float* y, int threads);

// The kernels of the instruction set in use.
const StepKernels& step_kernels();

// What multiplies a matrix whose code is a table, for people; null where no kernel does.
const char* steps_name(const Trellis& w);

}  // namespace vq
