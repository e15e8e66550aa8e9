#include "core/random.h"

#include <c10/util/Exception.h>
#include <fmt/core.h>

#include "core/io/hash.h"

namespace core {

namespace {

constexpr uint32_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;  // the paper's constants
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t a = uint64_t{kMultiply0} * counter[0], b = uint64_t{kMultiply1} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

Random::Random(uint64_t seed, std::string_view module, std::string_view purpose, uint64_t step) : step_(step) {
  const std::string hash = hash_text(fmt::format("{}\n{}\n{}", seed, module, purpose));
  for (size_t i = 0; i < key_.size(); ++i) {
    key_[i] = static_cast<uint32_t>(std::stoul(hash.substr(8 * i, 8), nullptr, 16));
  }
}

uint32_t Random::bits() {
  if (used_ == words_.size()) {
    words_ = philox({static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32), static_cast<uint32_t>(step_),
                     static_cast<uint32_t>(step_ >> 32)},
                    key_);
    ++block_;
    used_ = 0;
  }
  return words_[used_++];
}

int64_t Random::below(int64_t bound) {
  TORCH_CHECK(bound >= 1 && bound <= int64_t{1} << 32, "a bound of ", bound);
  const uint64_t all = uint64_t{1} << 32,
                 fair = all - all % static_cast<uint64_t>(bound);  // above it some values would come more often
  uint64_t value = bits();
  while (value >= fair) value = bits();
  return static_cast<int64_t>(value % static_cast<uint64_t>(bound));
}

double Random::uniform() {
  const uint64_t high = bits() >> 5, low = bits() >> 6;  // 27 and 26 bits
  return static_cast<double>(high << 26 | low) * 0x1p-53;
}

}  // namespace core
