// Step of the weighted trellis encoder, 8 groups at a time. See vq/trellis.h.
#include "vq/trellis.h"

#include <cstring>

#define WIDTH 8

namespace vq::avx2 {

#include "vq/trellis_weighted_body.inc"
}  // namespace vq::avx2
