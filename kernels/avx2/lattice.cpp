#include "vq/lattice.h"

#define WIDTH 8

namespace vq::avx2 {
#include "vq/lattice_body.inc"
#include "vq/lattice_e8p.inc"
}  // namespace vq::avx2
