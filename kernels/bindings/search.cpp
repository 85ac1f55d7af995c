#include "vq/bindings.h"

namespace vq {

void bind_search(nanobind::module_&) {}

}  // namespace vq
