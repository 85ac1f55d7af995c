// Forward pass of the trellis encoder in plain C++. See vq/trellis.h for the recursion.
#include "vq/trellis.h"

#include <cstring>

namespace vq::portable {
namespace {

// Vectors of the compiler, which turns them into what the target has.
template <int Lanes>
struct Wide {
  typedef int16_t narrow __attribute__((vector_size(Lanes * 2)));
  typedef int32_t type __attribute__((vector_size(Lanes * 4)));
};

template <int Lanes, int B>
void forward(const TrellisShape& shape, const int16_t* x, int steps, const int16_t* table, uint16_t* minima,
             uint16_t* floors) {
  using V = typename Wide<Lanes>::type;
  using N = typename Wide<Lanes>::narrow;
  constexpr int branches = 1 << B, repeat = branches < Lanes ? branches : Lanes;
  const int symbols = shape.symbols;
  const long groups = 1L << (shape.memory - B);
  for (int t = 0; t < steps; ++t, x += symbols) {
    const uint16_t* in = minima + t * groups;
    uint16_t* out = minima + (t + 1) * groups;
    const int16_t* row = table;
    int least = 65535;
    for (long g = 0; g < groups; g += Lanes) {
      V best = V{} + 65535;
      for (int p = 0; p < branches; ++p) {
        const uint16_t* from = in + ((p * groups + g) >> B);
        V cost;
        for (int j = 0; j < Lanes / repeat; ++j)
          for (int c = 0; c < repeat; ++c) cost[j * repeat + c] = from[j];
        for (int v = 0; v < symbols; ++v, row += Lanes) {
          N level;
          std::memcpy(&level, row, sizeof level);
          V e = x[v] - __builtin_convertvector(level, V);
          e = e > 32767 ? V{} + 32767 : e;
          e = e < -32768 ? V{} - 32768 : e;
          cost += (e * e + (1 << 14)) >> 15;
        }
        best = cost < best ? cost : best;
      }
      for (int i = 0; i < Lanes; ++i) {
        out[g + i] = (uint16_t)(best[i] - floors[t]);
        least = out[g + i] < least ? out[g + i] : least;
      }
    }
    floors[t + 1] = (uint16_t)least;
  }
}

template <int Lanes>
TrellisForward pick(int step_bits) {
  static constexpr TrellisForward all[] = {forward<Lanes, 1>, forward<Lanes, 2>, forward<Lanes, 3>, forward<Lanes, 4>,
                                           forward<Lanes, 5>, forward<Lanes, 6>, forward<Lanes, 7>, forward<Lanes, 8>};
  return step_bits >= 1 && step_bits <= 8 ? all[step_bits - 1] : nullptr;
}

}  // namespace

TrellisForward trellis_forward(int step_bits, int lanes) {
  switch (lanes) {
    case 2: return pick<2>(step_bits);
    case 4: return pick<4>(step_bits);
    case 8: return pick<8>(step_bits);
    case 16: return pick<16>(step_bits);
    default: return nullptr;
  }
}

}  // namespace vq::portable
