#include "vq/lattice.h"

#define WIDTH 4

namespace vq::portable {
#include "vq/lattice_body.inc"
#include "vq/lattice_e8p.inc"
}  // namespace vq::portable
