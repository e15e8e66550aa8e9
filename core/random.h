// Random numbers that are the same on every machine: a counter-based generator (Philox 4×32-10; Salmon, Moraes, Dror
// and Shaw, SC 2011), keyed by what the numbers are for. Two purposes never share a stream, and no order of calls
// changes another's.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace core {

// One block of the generator: four words of 32 bits from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Random {
 public:
  // The stream of (seed, module path, purpose, step); equal arguments, equal numbers.
  Random(uint64_t seed, std::string_view module, std::string_view purpose, uint64_t step = 0);

  uint32_t bits();               // 32 uniform bits
  int64_t below(int64_t bound);  // uniform in [0, bound), without bias; bound in [1, 2^32]
  double uniform();              // uniform in [0, 1), 53 bits

 private:
  std::array<uint32_t, 2> key_;
  uint64_t step_, block_ = 0;
  std::array<uint32_t, 4> words_{};
  size_t used_ = 4;
};

}  // namespace core
