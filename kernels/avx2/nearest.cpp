#include "vq/nearest.h"

#define WIDTH 8
#define POINTS 4

namespace vq::avx2 {
#include "vq/nearest_body.inc"
}  // namespace vq::avx2
