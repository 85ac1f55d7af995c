// The trellis encoder for weighted squared errors: float costs, stored predecessors, the same two passes.
#include <algorithm>
#include <limits>
#include <vector>

#include "vq/cpu.h"
#include "vq/threads.h"
#include "vq/trellis.h"

namespace vq {
namespace {

using Step = void (*)(const TrellisWeighted&);

Step choose() {
#if VQ_X86
  if (isa() >= Isa::avx512) return avx512::trellis_weighted_step;
  if (isa() >= Isa::avx2) return avx2::trellis_weighted_step;
#endif
  return portable::trellis_weighted_step;
}

// Working memory and the two passes of one thread.
class Search {
 public:
  Search(const TrellisShape& shape, const float* table, Step step)
      : shape_(shape), step_(step), groups_(1L << (shape.memory - shape.step_bits)), table_(table),
        before_(1L << shape.memory), minima_(groups_), x_(shape.steps * shape.symbols), weight_(x_.size()),
        from_(shape.steps * groups_) {}

  void sequence(const float* x, const float* weight, uint8_t* codes) {
    const int steps = shape_.steps, shift = steps / 2, head = shift * shape_.symbols;
    std::rotate_copy(x, x + head, x + x_.size(), x_.begin());
    std::rotate_copy(weight, weight + head, weight + x_.size(), weight_.begin());
    std::fill(minima_.begin(), minima_.end(), 0.0f);
    run(x_.data(), weight_.data());
    const long end = std::min_element(minima_.begin(), minima_.end()) - minima_.begin();
    const long seam = trace(steps - shift, end, nullptr);

    std::fill(minima_.begin(), minima_.end(), std::numeric_limits<float>::infinity());
    minima_[seam] = 0.0f;
    run(x, weight);
    trace(0, seam, codes);
  }

 private:
  void run(const float* x, const float* weight) {
    const int branches = 1 << shape_.step_bits, symbols = shape_.symbols;
    for (int t = 0; t < shape_.steps; ++t)
      step_({x + t * symbols, weight + t * symbols, table_, before_.data(), symbols, branches, groups_,
             groups_ * branches, minima_.data(), from_.data() + t * groups_});
  }

  // From group `g` after the last step back to the group before step `first`; writes codes if asked.
  long trace(int first, long g, uint8_t* codes) const {
    for (int t = shape_.steps - 1; t >= first; --t) {
      const long p = from_[t * groups_ + g];
      if (codes) codes[t] = (uint8_t)p;
      g = (p * groups_ + g) >> shape_.step_bits;
    }
    return g;
  }

  TrellisShape shape_;
  Step step_;
  long groups_;
  const float* table_;
  std::vector<float> before_, minima_, x_, weight_;
  std::vector<uint8_t> from_;
};

}  // namespace

void trellis_encode_weighted(const float* x, const float* weight, long n, const float* table, const TrellisShape& shape,
                             uint8_t* codes, int threads) {
  const long states = 1L << shape.memory, length = (long)shape.steps * shape.symbols;
  std::vector<float> planes(states * shape.symbols);
  for (long s = 0; s < states; ++s)
    for (int v = 0; v < shape.symbols; ++v) planes[v * states + s] = table[s * shape.symbols + v];
  const Step step = choose();
  const long grain = std::max(1L, std::min(32L, n / (4L * std::max(1, threads))));
  parallel_for(n, grain, threads, [&](long first, long last) {
    Search search(shape, planes.data(), step);
    for (long i = first; i < last; ++i) search.sequence(x + i * length, weight + i * length, codes + i * shape.steps);
  });
}

}  // namespace vq
