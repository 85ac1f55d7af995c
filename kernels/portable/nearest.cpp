#include "vq/nearest.h"

#define WIDTH 4
#define POINTS 4

namespace vq::portable {
#include "vq/nearest_body.inc"
}  // namespace vq::portable
