// Rows of x as 16-bit integers for WideKernels::multiply, shared by tables and trellises. For kernels/common only.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "vq/tables_panel.h"
#include "vq/tables_wide.h"
#include "vq/threads.h"

namespace vq {

constexpr int kInputTop = 16319;  // largest magnitude of an activation, as in mode int15

// How the columns of a matrix are cut into blocks, and the largest magnitude of its integers.
struct WideCut {
  long in, columns, blocks;  // of the matrix; of a block; of a row
  long group;                // blocks that are multiplied together
  long top;

  long pairs() const { return (columns + 1) / 2; }
};

// Integers of all rows, group by group of blocks: [group][row][block][2 * pairs].
struct WideInputs {
  WideCut cut;
  long rows;
  Buffer<int16_t> words;
  std::vector<float> unit;
  std::vector<int64_t> total;

  WideInputs(const WideKernels& k, const WideCut& of, const float* x, long count, long stride, int threads)
      : cut(of), rows(count), words(of.blocks * count * 2 * of.pairs()), unit(count), total(count) {
    parallel_for(rows, 1, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) one(k, x + i * stride, i);
    });
  }

  // The unit of a row is such that no sum over a block leaves 32 bits, whatever the codes.
  void one(const WideKernels& k, const float* x, long i) {
    const long in = cut.in, columns = cut.columns, width = 2 * cut.pairs();
    float peak = 0.0f, most = 0.0f;
    for (long b = 0; b * columns < in; ++b) {
      float largest, sum;
      k.measure(x + b * columns, std::min(columns, in - b * columns), &largest, &sum);
      peak = largest >= peak ? largest : std::isnan(largest) ? largest : peak;
      most = sum >= most ? sum : std::isnan(sum) ? sum : most;
      if (std::isnan(peak)) break;
    }
    const bool usable = peak > 1e-30f;
    unit[i] = usable || peak == peak ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    float factor = 0.0f;
    if (usable) {
      const float room = static_cast<float>(0x7fffffff / cut.top - columns);
      factor = std::min(static_cast<float>(kInputTop) / peak, room / most);
      unit[i] = 1.0f / factor;
    }
    for (long b = 0; b < cut.blocks; ++b) {
      int16_t* q = row_of(b - b % cut.group, i) + b % cut.group * width;
      const long count = std::max(0L, std::min(columns, in - b * columns));
      std::fill(q, q + width, int16_t{0});
      if (usable) k.quantize(x + b * columns, count, factor, q);
      for (long c = 0; c < count; ++c) total[i] += q[c];
    }
  }

  // A row's blocks of the group that begins at block b; the last group may be smaller.
  int16_t* row_of(long b, long i) const {
    const long count = std::min(cut.group, cut.blocks - b);
    return words.get() + (b * rows + count * i) * 2 * cut.pairs();
  }
};

}  // namespace vq
