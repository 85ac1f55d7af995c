// The trellis encoder around the forward pass: fixed point, two passes for the tail-biting path, trace back.
#include "vq/trellis.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "vq/cpu.h"
#include "vq/threads.h"

namespace vq {
namespace {

constexpr float kUnit = 8192.0f;  // fixed point of inputs and table: +-4 units fit

int16_t fixed(float value) {
  const float scaled = std::max(-32767.0f, std::min(32767.0f, value * kUnit));
  return (int16_t)std::lrintf(scaled);  // ties to even
}

long groups_of(const TrellisShape& shape) { return 1L << (shape.memory - shape.step_bits); }

struct Engine {
  TrellisForward forward;
  int lanes;
};

Engine choose(const TrellisShape& shape) {
  const long groups = groups_of(shape);
#if VQ_X86
  if (isa() >= Isa::avx512 && groups >= avx512::trellis_lanes)
    return {avx512::trellis_forward(shape.step_bits, shape.symbols), avx512::trellis_lanes};
  if (isa() >= Isa::avx2 && groups >= avx2::trellis_lanes)
    return {avx2::trellis_forward(shape.step_bits, shape.symbols), avx2::trellis_lanes};
#endif
  const int lanes = (int)std::min<long>(groups, portable::trellis_lanes);
  return {portable::trellis_forward(lanes), lanes};
}

class Encoder {
 public:
  Encoder(const TrellisShape& shape, const float* table)
      : shape_(shape), engine_(choose(shape)), groups_(groups_of(shape)), branches_(1 << shape.step_bits) {
    table_.resize((1L << shape.memory) * shape.symbols);
    for (long g = 0; g < groups_; ++g)
      for (int p = 0; p < branches_; ++p)
        for (int v = 0; v < shape.symbols; ++v)
          table_[place(g, p, v)] = fixed(table[(p * groups_ + g) * shape.symbols + v]);
  }

  // Working memory of one thread.
  struct Scratch {
    explicit Scratch(const TrellisShape& shape)
        : minima((shape.steps + 1) * groups_of(shape)), floors(shape.steps + 1), x(shape.steps * shape.symbols),
          turned(shape.steps * shape.symbols) {}
    std::vector<uint16_t> minima, floors;
    std::vector<int16_t> x, turned;
  };

  void sequence(const float* x, uint8_t* codes, Scratch& scratch) const {
    const int steps = shape_.steps, shift = steps / 2, head = shift * shape_.symbols;
    for (int i = 0; i < steps * shape_.symbols; ++i) scratch.x[i] = fixed(x[i]);
    std::rotate_copy(scratch.x.begin(), scratch.x.begin() + head, scratch.x.end(), scratch.turned.begin());

    std::fill_n(scratch.minima.begin(), groups_, 0);
    const uint16_t* last = run(scratch.turned.data(), scratch);
    const long end = std::min_element(last, last + groups_) - last;
    const long seam = trace(scratch.turned.data(), steps - shift, end, nullptr, scratch);

    std::fill_n(scratch.minima.begin(), groups_, 65535);
    scratch.minima[seam] = 0;
    run(scratch.x.data(), scratch);
    trace(scratch.x.data(), 0, seam, codes, scratch);
  }

 private:
  long place(long g, int p, int v) const {
    const long lanes = engine_.lanes;
    return ((g / lanes * branches_ + p) * shape_.symbols + v) * lanes + g % lanes;
  }

  const uint16_t* run(const int16_t* x, Scratch& scratch) const {
    scratch.floors[0] = 0;
    engine_.forward(shape_, x, shape_.steps, table_.data(), scratch.minima.data(), scratch.floors.data());
    return scratch.minima.data() + shape_.steps * groups_;
  }

  // From group `g` after the last step back to the group before step `first`; writes codes if asked.
  long trace(const int16_t* x, int first, long g, uint8_t* codes, const Scratch& scratch) const {
    for (int t = shape_.steps - 1; t >= first; --t) {
      const uint16_t* in = scratch.minima.data() + t * groups_;
      const int target = in[groups_ + g] + scratch.floors[t];
      int p = 0;
      while (p + 1 < branches_ && cost(in, x + t * shape_.symbols, g, p) != target) ++p;
      if (codes) codes[t] = (uint8_t)p;
      g = (p * groups_ + g) >> shape_.step_bits;
    }
    return g;
  }

  int cost(const uint16_t* in, const int16_t* x, long g, int p) const {
    int sum = in[(p * groups_ + g) >> shape_.step_bits];
    for (int v = 0; v < shape_.symbols; ++v) {
      const int e = std::max(-32768, std::min(32767, x[v] - table_[place(g, p, v)]));
      sum += (e * e + (1 << 14)) >> 15;
    }
    return std::min(sum, 65535);
  }

  TrellisShape shape_;
  Engine engine_;
  long groups_;
  int branches_;
  std::vector<int16_t> table_;
};

long grain_for(long n, int threads) { return std::max(1L, std::min(32L, n / (4L * std::max(1, threads)))); }

}  // namespace

void trellis_encode(const float* x, long n, const float* table, const TrellisShape& shape, uint8_t* codes, int threads) {
  const Encoder encoder(shape, table);
  const long length = (long)shape.steps * shape.symbols;
  parallel_for(n, grain_for(n, threads), threads, [&](long first, long last) {
    Encoder::Scratch scratch(shape);
    for (long i = first; i < last; ++i) encoder.sequence(x + i * length, codes + i * shape.steps, scratch);
  });
}

}  // namespace vq
