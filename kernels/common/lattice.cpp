#include "vq/lattice.h"

#include "vq/cpu.h"
#include "vq/threads.h"

namespace vq {

namespace {
using Range = void (*)(const LatticeArgs&, long, long);

Range pick(LatticeSearch search) {
  const Range portable_set[] = {portable::e8_range, portable::leech_range, portable::e8p_range,
portable::leech_ball_range};
  const int which = static_cast<int>(search);
#if VQ_X86
  const Range avx2_set[] = {avx2::e8_range, avx2::leech_range, avx2::e8p_range,
avx2::leech_ball_range};
  const Range avx512_set[] = {avx512::e8_range, avx512::leech_range, avx512::e8p_range,
avx512::leech_ball_range};
  if (isa() == Isa::avx512) return avx512_set[which];
  if (isa() == Isa::avx2) return avx2_set[which];
#endif
  return portable_set[which];
}
}  // namespace

void lattice(LatticeSearch search, const LatticeArgs& args, int threads) {
  const Range range = pick(search);
  parallel_for(args.count, 512, threads, [&](long first, long last) { range(args, first, last); });
}

}  // namespace vq
