// Exact nearest codeword for many points: argmin over j of bias[j] - dot(point, table[:, j]).
#pragma once

namespace vq {

struct NearestArgs {
  const float* points;  // (count, dim)
  const float* table;   // (dim, stride): dimension-major, stride codewords a row
  const float* bias;    // (stride): +infinity beyond the last codeword
  long count, dim, stride;
  int* codes;           // (count): lowest index among equals
};

void nearest(const NearestArgs& args, int threads);

namespace portable {
void nearest_range(const NearestArgs& args, long first, long last);
}
namespace avx2 {
void nearest_range(const NearestArgs& args, long first, long last);
}
namespace avx512 {
void nearest_range(const NearestArgs& args, long first, long last);
}

}  // namespace vq
