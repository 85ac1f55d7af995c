#include "vq/beam.h"

#include <cfloat>

#define WIDTH 4
#define CHAINS 4

namespace vq::portable {

typedef int Mask __attribute__((vector_size(WIDTH * 4)));

static unsigned bits(Mask mask) {
  unsigned result = 0;
  for (int lane = 0; lane < WIDTH; ++lane) result |= static_cast<unsigned>(mask[lane] != 0) << lane;
  return result;
}

#include "vq/beam_body.inc"
}  // namespace vq::portable
