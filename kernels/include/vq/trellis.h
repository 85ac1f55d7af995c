// The bitshift trellis: an encoder (Viterbi, tail-biting), a decoder, and the packed bit stream.
//
// A state is L bits; a step shifts in B bits: next = ((s << B) mod 2^L) | c. The low L - B bits of a state are the high L - B bits of
// the next one, its *group*. All 2^B successors of a group share one minimum, so the whole forward pass is
//
//   M[t+1][g] = min over p of ( M[t][(p << (L-B) | g) >> B] + D[t][p << (L-B) | g] ) - mu[t]
//
// with p the high B bits of the state at step t (its code), D the squared error and mu[t] = min M[t]. Only M is kept; the trace back
// finds p again from it. Everything is integer (inputs and table at 8192 per unit, errors rounded to 1/2048 unit^2, unsigned
// saturating 16-bit sums), so every instruction set gives the same codes. Ties go to the lowest p.
#pragma once
#include <cstdint>

namespace vq {

struct TrellisShape {
  int memory;     // L, bits of a state
  int step_bits;  // B, bits of one step
  int symbols;    // V, values of one step: 1 or 2
  int steps;      // N, steps of a sequence
};

// Minima of `steps` steps. `x`: steps * symbols numbers; `table`: [groups / lanes][branches][symbols][lanes];
// `minima`: (steps + 1) * groups, the first row given; `floors`: steps + 1 numbers, the first given (mu).
using TrellisForward = void (*)(const TrellisShape& shape, const int16_t* x, int steps, const int16_t* table,
                                uint16_t* minima, uint16_t* floors);

// Each works for groups >= its number of lanes; null where step_bits or symbols are out of range.
namespace portable {
TrellisForward trellis_forward(int step_bits, int lanes);  // lanes: any power of two from 2 to 16
constexpr int trellis_lanes = 16;
}  // namespace portable
namespace avx2 {
TrellisForward trellis_forward(int step_bits, int symbols);
constexpr int trellis_lanes = 16;
}  // namespace avx2
namespace avx512 {
TrellisForward trellis_forward(int step_bits, int symbols);
constexpr int trellis_lanes = 32;
}  // namespace avx512

// One step of the search for a weighted squared error, in float: for every group g
//   minima[g] = min over p of ( minima[s >> B] + sum over v of weight[v] * (x[v] - table[v][s])^2 ),  s = p << (L-B) | g,
// and from[g] the lowest p that gives it.
struct TrellisWeighted {
  const float *x, *weight;  // symbols numbers each
  const float* table;       // [symbols][states]
  float* before;            // room for a number a state: the minimum of the group it continues
  int symbols, branches;
  long groups, states;
  float* minima;
  uint8_t* from;
};
namespace portable {
void trellis_weighted_step(const TrellisWeighted& step);
}
namespace avx2 {
void trellis_weighted_step(const TrellisWeighted& step);
}
namespace avx512 {
void trellis_weighted_step(const TrellisWeighted& step);
}

// `x`: n sequences of steps * symbols floats; `table`: states * symbols floats; `codes`: n * steps, the high B bits of each state.
// Two passes: an unconstrained one over the sequence turned by half its length finds the group at the seam, the second starts and ends
// in that group.
void trellis_encode(const float* x, long n, const float* table, const TrellisShape& shape, uint8_t* codes, int threads);

// The same with a factor >= 0 of each value's squared error, in float; `weight`: shape of `x`. Nothing saturates.
void trellis_encode_weighted(const float* x, const float* weight, long n, const float* table, const TrellisShape& shape,
                             uint8_t* codes, int threads);

// `values`: n sequences of steps * symbols floats.
void trellis_decode(const uint8_t* codes, long n, const float* table, const TrellisShape& shape, float* values,
                    int threads);

// n sequences of steps * step_bits bits (a multiple of 64) as 64-bit words, first bit most significant.
void trellis_pack(const uint8_t* codes, long n, int steps, int step_bits, uint64_t* words, int threads);
void trellis_unpack(const uint64_t* words, long n, int steps, int step_bits, uint8_t* codes, int threads);

}  // namespace vq
