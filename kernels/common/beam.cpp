#include "vq/beam.h"

#include <vector>

#include "vq/cpu.h"
#include "vq/threads.h"

namespace vq {

void beam_search(const BeamArgs& args, int threads) {
  auto range = portable::beam_range;
#if VQ_X86
  if (isa() == Isa::avx512) range = avx512::beam_range;
  if (isa() == Isa::avx2) range = avx2::beam_range;
#endif
  parallel_for(args.count, 64, threads, [&](long first, long last) {
    const long beam = args.beam, wide = beam * args.dim, paths = beam * args.stages;
    std::vector<float> residual(wide), next(wide), scaled(wide), base(beam), score(beam), bias(args.stride);
    std::vector<float> cost(beam * args.stride), least(beam * 16);
    std::vector<int> path(paths), longer(paths);
    std::vector<long> key(beam);
    const BeamScratch scratch{residual.data(), next.data(),   scaled.data(), base.data(), score.data(), bias.data(),
                              path.data(),     longer.data(), key.data(),    cost.data(), least.data()};
    range(args, scratch, first, last);
  });
}

}  // namespace vq
