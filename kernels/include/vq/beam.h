// Beam search over sums of codewords: for each point the codes j_0 .. j_{M-1} with a small
// sum_d weight_d (point_d - sum_m table[m][j_m][d])^2.
#pragma once

namespace vq {

struct BeamArgs {
  const float* points;   // (count, dim)
  const float* weight;   // (count, dim) or null
  const float* rows;     // (stages, entries, dim)
  const float* columns;  // (stages, dim, stride): the same, dimension-major, padded with zeros
  const float* bias;     // (stages, stride): half the squared norms, or zeros with a weight; +infinity beyond the last
  const float* half;     // (stages, dim, stride): half the squares, or null without a weight
  long count, dim, stages, entries, stride;
  int beam;    // partial sums kept after each stage
  int* codes;  // (count, stages)
};

// Memory that one thread works in. The kernels allocate nothing: a template of the standard library, compiled for one
// instruction set, could end up in another's code.
struct BeamScratch {
  float *residual, *next, *scaled;  // (beam, dim)
  float *base, *score;              // (beam)
  float* bias;                      // (stride)
  int *path, *longer;               // (beam, stages)
  long* key;                        // (beam)
  float* cost;                      // (beam, stride)
  float* least;                     // (beam, 16)
};

void beam_search(const BeamArgs& args, int threads);

namespace portable {
void beam_range(const BeamArgs& args, BeamScratch scratch, long first, long last);
}
namespace avx2 {
void beam_range(const BeamArgs& args, BeamScratch scratch, long first, long last);
}
namespace avx512 {
void beam_range(const BeamArgs& args, BeamScratch scratch, long first, long last);
}

}  // namespace vq
