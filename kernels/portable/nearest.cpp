#include "vq/nearest.h"

#include <cstdint>

#define WIDTH 4
#define POINTS 2
#define GROUP 4

namespace vq::portable {

typedef float Floats __attribute__((vector_size(16), aligned(4)));
typedef int Ints __attribute__((vector_size(16), aligned(4)));

// A bit for each lane of a comparison, the first lane lowest.
static unsigned bits(Ints mask) {
  return (mask[0] & 1) | (mask[1] & 2) | (mask[2] & 4) | (mask[3] & 8);
}

static float least(Floats best) {
  const float low = best[0] < best[1] ? best[0] : best[1], high = best[2] < best[3] ? best[2] : best[3];
  return low < high ? low : high;
}

// The smallest index among the lanes whose score is `lowest`.
static int lowest_index(Floats best, Ints index, float lowest) {
  int at = -1;
  for (int lane = 0; lane < WIDTH; ++lane)
    if (best[lane] == lowest && (at < 0 || index[lane] < at)) at = index[lane];
  return at;
}

#include "vq/nearest_body.inc"

}  // namespace vq::portable
