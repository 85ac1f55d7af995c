#include "vq/lattice.h"

#define WIDTH 16

namespace vq::avx512 {
#include "vq/lattice_body.inc"
#include "vq/lattice_e8p.inc"
}  // namespace vq::avx512
