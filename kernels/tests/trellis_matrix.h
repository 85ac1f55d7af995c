// Random packed trellises, read bit by bit from the text of docs/format.md.
#pragma once
#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "vq/linear.h"

// A random packed matrix. The payload lies so that it ends with its allocation, at an odd address: reading beyond it, or
// relying on alignment, shows.
struct Matrix {
  std::vector<uint8_t> memory;
  int8_t level[64];
  vq::Trellis w{};

  Matrix(long out, long in, int step_bits, int memory_bits, int levels, int top, unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 64; ++i) level[i] = i < levels ? static_cast<int8_t>(static_cast<int>(random() % (2 * top + 1)) - top) : level[i % levels];
    w.out = out;
    w.in = in;
    w.bands = (out + 63) / 64;
    w.blocks = (in + 3) / 4;
    w.groups = (w.blocks + 7) / 8;
    w.step_bits = step_bits;
    w.memory = memory_bits;
    w.symbols = 2;
    w.words = 2 * step_bits;
    w.hash = true;
    w.constant = static_cast<uint16_t>(random() | 1);
    w.step = 0.0207f;
    w.table = level;
    fill(random);
  }

  // With a table of values (2^memory, symbols) in place of the hash.
  Matrix(long out, long in, int step_bits, int memory_bits, int symbols, const float* table, unsigned seed)
      : Matrix(out, in, step_bits, memory_bits, 64, 127, seed) {
    std::mt19937 random(seed);
    w.hash = false;
    w.symbols = symbols;
    w.words = 256 / symbols * step_bits / 64;
    w.table = table;
    fill(random);
  }

  void fill(std::mt19937& random) {
    std::vector<uint8_t>(w.bands * w.blocks * w.words * 8 + 1).swap(memory);
    for (auto& byte : memory) byte = static_cast<uint8_t>(random());
    w.payload = memory.data() + 1;
  }

  float value(long row, long column) const {
    const long weight = row % 64 * 4 + column % 4;
    return static_cast<const float*>(w.table)[state(row, column, weight / w.symbols) * w.symbols + weight % w.symbols];
  }

  // State of a step of the tile of a weight, from the text of the format.
  uint32_t state(long row, long column, long step) const {
    const long band = row / 64, block = column / 4, group = block / 8;
    const long width = std::min(8L, w.blocks - group * 8), tile_bits = 64L * w.words;
    uint32_t state = 0;
    for (int i = 0; i < w.memory; ++i) {
      const long bit = (step * w.step_bits + i) % tile_bits;
      const uint8_t* word = w.payload + (band * w.blocks + group * 8) * w.words * 8 + (bit / 64 * width + block % 8) * 8;
      const int place = 63 - static_cast<int>(bit % 64);
      state = state << 1 | (word[place / 8] >> place % 8 & 1);
    }
    return state;
  }

  int at(long row, long column) const {
    const long weight = row % 64 * 4 + column % 4;
    const uint32_t state = this->state(row, column, weight / 2);
    const uint32_t product = (state << (16 - w.memory)) * w.constant;
    return level[(weight % 2 ? product >> 8 : product >> 16) & 63];
  }
};
