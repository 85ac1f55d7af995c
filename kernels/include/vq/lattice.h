// Nearest points of lattices and the E8P search. Every sum runs in the order of vq/kernels/lattice_reference.py.
#pragma once

namespace vq {

struct LatticeArgs {
  const float* x;  // (count, dim)
  long count;
  float* points;   // (count, dim)
  int* codes;      // (count), for the E8P search
  // Leech: 64 x 6 hexacode words, then 2 x 4 x 2 columns by parity, element and bit of row 0.
  // E8P: 29 triples of coordinates that stay 1/2, then 6561 pattern numbers by base-three digits.
  const unsigned char* tables;
  // Search of the Leech lattice in a ball: the point of squared norm <= limit nearest to wanted (count, 24), among
  // the best points of the `top` (1 to 64) best kinds near x; infinities where none of them lies in the ball.
  const float* wanted;
  float limit;
  int top;
};

enum class LatticeSearch { e8 = 0, leech = 1, e8p = 2, leech_ball = 3 };

void lattice(LatticeSearch search, const LatticeArgs& args, int threads);

#define VQ_DECLARE_LATTICE(isa)                                       \
  namespace isa {                                                     \
  void e8_range(const LatticeArgs& args, long first, long last);      \
  void leech_range(const LatticeArgs& args, long first, long last);   \
  void e8p_range(const LatticeArgs& args, long first, long last);     \
  void leech_ball_range(const LatticeArgs& args, long first, long last); \
  }
VQ_DECLARE_LATTICE(portable)
VQ_DECLARE_LATTICE(avx2)
VQ_DECLARE_LATTICE(avx512)

}  // namespace vq
