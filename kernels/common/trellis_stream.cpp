// Codes of the trellis to values and to the packed bit stream of docs/format.md, and back.
#include "vq/threads.h"
#include "vq/trellis.h"

namespace vq {

void trellis_decode(const uint8_t* codes, long n, const float* table, const TrellisShape& shape, float* values,
                    int threads) {
  const int bits = shape.step_bits, steps = shape.steps, symbols = shape.symbols;
  const int ahead = (shape.memory + bits - 1) / bits;  // steps whose codes reach into one state
  const int excess = ahead * bits - shape.memory;
  const uint32_t mask = (1u << (ahead * bits)) - 1;
  parallel_for(n, 64, threads, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      const uint8_t* code = codes + i * steps;
      float* out = values + i * steps * symbols;
      uint32_t held = 0;
      for (int j = 0; j < ahead - 1; ++j) held = held << bits | code[j % steps];
      for (int t = 0; t < steps; ++t) {
        held = (held << bits | code[(t + ahead - 1) % steps]) & mask;
        const float* entry = table + (long)(held >> excess) * symbols;
        for (int v = 0; v < symbols; ++v) out[t * symbols + v] = entry[v];
      }
    }
  });
}

void trellis_pack(const uint8_t* codes, long n, int steps, int step_bits, uint64_t* words, int threads) {
  const long row = (long)steps * step_bits / 64;
  parallel_for(n, 256, threads, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      uint64_t* out = words + i * row;
      uint64_t word = 0;
      int filled = 0;
      for (int t = 0; t < steps; ++t) {
        const uint64_t code = codes[i * steps + t];
        const int room = 64 - filled;
        if (step_bits < room) {
          word = word << step_bits | code;
          filled += step_bits;
          continue;
        }
        filled = step_bits - room;
        *out++ = word << room | code >> filled;
        word = code & ((1u << filled) - 1);
      }
    }
  });
}

void trellis_unpack(const uint64_t* words, long n, int steps, int step_bits, uint8_t* codes, int threads) {
  const long row = (long)steps * step_bits / 64;
  parallel_for(n, 256, threads, [&](long first, long last) {
    for (long i = first; i < last; ++i) {
      const uint64_t* in = words + i * row;
      for (int t = 0; t < steps; ++t) {
        const int bit = t * step_bits, at = bit & 63, over = at + step_bits - 64;
        const uint64_t word = in[bit >> 6];
        const uint64_t code = over > 0 ? word << over | in[(bit >> 6) + 1] >> (64 - over) : word >> -over;
        codes[i * steps + t] = (uint8_t)(code & ((1u << step_bits) - 1));
      }
    }
  });
}

}  // namespace vq
