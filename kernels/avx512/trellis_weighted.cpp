// Step of the weighted trellis encoder, 16 groups at a time. See vq/trellis.h.
#include "vq/trellis.h"

#include <cstring>

#define WIDTH 16

namespace vq::avx512 {

#include "vq/trellis_weighted_body.inc"
}  // namespace vq::avx512
