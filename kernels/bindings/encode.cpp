#include "vq/bindings.h"

namespace vq {

void bind_encode(nanobind::module_&) {}

}  // namespace vq
