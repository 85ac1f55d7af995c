#include "vq/nearest.h"

#include "vq/cpu.h"
#include "vq/threads.h"

namespace vq {

void nearest(const NearestArgs& args, int threads) {
  auto range = portable::nearest_range;
#if VQ_X86
  if (isa() == Isa::avx512) range = avx512::nearest_range;
  if (isa() == Isa::avx2) range = avx2::nearest_range;
#endif
  parallel_for(args.count, 512, threads, [&](long first, long last) { range(args, first, last); });
}

}  // namespace vq
