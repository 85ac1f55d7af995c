#include "vq/nearest.h"

#define WIDTH 16
#define POINTS 8

namespace vq::avx512 {
#include "vq/nearest_body.inc"
}  // namespace vq::avx512
