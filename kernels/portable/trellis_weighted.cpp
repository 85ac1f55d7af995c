// Step of the weighted trellis encoder, 4 groups at a time. See vq/trellis.h.
#include "vq/trellis.h"

#include <cstring>

#define WIDTH 4

namespace vq::portable {

#include "vq/trellis_weighted_body.inc"
}  // namespace vq::portable
