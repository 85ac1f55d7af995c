// Forward pass of the trellis encoder in plain C++. See vq/trellis.h for the recursion.
#include "vq/trellis.h"

#include <algorithm>

namespace vq::portable {
namespace {

inline int square(int e) {
  e = e > 32767 ? 32767 : e < -32768 ? -32768 : e;
  return (e * e + (1 << 14)) >> 15;
}

template <int Lanes>
void forward(const TrellisShape& shape, const int16_t* x, int steps, const int16_t* table, uint16_t* minima,
             uint16_t* floors) {
  const int symbols = shape.symbols, bits = shape.step_bits;
  const long groups = 1L << (shape.memory - bits);
  for (int t = 0; t < steps; ++t, x += symbols) {
    const uint16_t* in = minima + t * groups;
    uint16_t* out = minima + (t + 1) * groups;
    const int16_t* row = table;
    int least = 65535;
    for (long g = 0; g < groups; g += Lanes) {
      int best[Lanes];
      std::fill(best, best + Lanes, 65535);
      for (int p = 0; p < 1 << bits; ++p) {
        int cost[Lanes];
        for (int i = 0; i < Lanes; ++i) cost[i] = in[(p * groups + g + i) >> bits];
        for (int v = 0; v < symbols; ++v, row += Lanes)
          for (int i = 0; i < Lanes; ++i) cost[i] += square(x[v] - row[i]);
        for (int i = 0; i < Lanes; ++i) best[i] = std::min(best[i], cost[i]);
      }
      for (int i = 0; i < Lanes; ++i) {
        out[g + i] = (uint16_t)(best[i] - floors[t]);
        least = std::min<int>(least, out[g + i]);
      }
    }
    floors[t + 1] = (uint16_t)least;
  }
}

}  // namespace

TrellisForward trellis_forward(int lanes) {
  switch (lanes) {
    case 2: return forward<2>;
    case 4: return forward<4>;
    case 8: return forward<8>;
    case 16: return forward<16>;
    default: return nullptr;
  }
}

}  // namespace vq::portable
