// The Viterbi initial_format against all sequences, and against itself in double with plain loops.
#include "replication/viterbi.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/random.h"

namespace replication {
namespace {

std::vector<float> numbers(int64_t count, const std::string& purpose, uint64_t step = 0) {
  core::Random random(5, "viterbi", purpose, step);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(4 * random.uniform() - 2);
  return values;
}

// The least error of all sequences.
double least_of_all(const Trellis& trellis, const std::vector<float>& x) {
  const auto length = static_cast<int64_t>(x.size());
  std::vector<uint8_t> codes(length);
  double least = INFINITY;
  for (int64_t all = 0; all < int64_t{1} << (trellis.bits * length); ++all) {
    for (int64_t t = 0; t < length; ++t) codes[t] = all >> (trellis.bits * t) & ((1 << trellis.bits) - 1);
    least = std::min(least, sequence_error(trellis, x.data(), length, codes.data()));
  }
  return least;
}

struct ViterbiCase {
  int64_t bits, window_bits, length;
};

TEST(Viterbi, FindsTheBestOfAllShortSequences) {
  for (const ViterbiCase& c : std::vector<ViterbiCase>{{1, 2, 1},
                                                       {1, 2, 8},
                                                       {1, 5, 10},
                                                       {1, 8, 12},
                                                       {2, 4, 5},
                                                       {2, 6, 6},
                                                       {2, 8, 6},
                                                       {3, 6, 4},
                                                       {3, 9, 4},
                                                       {4, 8, 3}}) {
    for (uint64_t draw = 0; draw < 10; ++draw) {
      SCOPED_TRACE(::testing::Message() << c.bits << " bits, window " << c.window_bits << ", draw " << draw);
      const std::vector<float> level = numbers(int64_t{1} << c.window_bits, "level", draw),
                               x = numbers(c.length, "x", draw);
      const Trellis trellis{c.bits, c.window_bits, level.data()};
      std::vector<uint8_t> fast(c.length), slow(c.length);
      const double least = least_of_all(trellis, x);
      EXPECT_DOUBLE_EQ(viterbi_reference(trellis, x.data(), c.length, slow.data()), least);
      EXPECT_DOUBLE_EQ(sequence_error(trellis, x.data(), c.length, slow.data()), least);
      viterbi(trellis, x.data(), 1, c.length, fast.data());
      EXPECT_NEAR(sequence_error(trellis, x.data(), c.length, fast.data()), least, 1e-5 * least + 1e-6);
    }
  }
}

// 700 steps: costs are rescaled on the way. A float cost below 2^10 is off by 2^-14 after a rounding at the most, but
// what decides is the difference of costs that share their history.
TEST(Viterbi, AgreesWithThePlainLoopsInDouble) {
  for (const ViterbiCase& c : std::vector<ViterbiCase>{
           {1, 12, 700}, {2, 4, 700}, {2, 6, 700}, {2, 12, 700}, {3, 9, 700}, {3, 12, 256}, {4, 12, 256}}) {
    SCOPED_TRACE(::testing::Message() << c.bits << " bits, window " << c.window_bits);
    const std::vector<float> level = numbers(int64_t{1} << c.window_bits, "level"), x = numbers(3 * c.length, "x");
    const Trellis trellis{c.bits, c.window_bits, level.data()};
    std::vector<uint8_t> fast(3 * c.length), slow(c.length);
    viterbi(trellis, x.data(), 3, c.length, fast.data());
    for (int64_t i = 0; i < 3; ++i) {
      const float* part = x.data() + i * c.length;
      const double least = viterbi_reference(trellis, part, c.length, slow.data());
      const double found = sequence_error(trellis, part, c.length, fast.data() + i * c.length);
      EXPECT_GE(found, least * (1 - 1e-12));
      EXPECT_LE(found, least * (1 + 1e-4) + 1e-9);
    }
  }
}

TEST(Viterbi, TheResultDoesNotDependOnThreads) {
  const std::vector<float> level = numbers(1 << 12, "level"), x = numbers(9 * 256, "x");
  const Trellis trellis{2, 12, level.data()};
  std::vector<uint8_t> together(x.size()), alone(x.size());
  viterbi(trellis, x.data(), 9, 256, together.data());
  for (int64_t i = 0; i < 9; ++i) viterbi(trellis, x.data() + i * 256, 1, 256, alone.data() + i * 256);
  EXPECT_EQ(together, alone);
}

TEST(Viterbi, SymbolsBeforeTheFirstAreZero) {
  std::vector<float> level(16, 9.0f);
  for (int64_t q = 0; q < 4; ++q) level[q] = static_cast<float>(q);  // windows whose older symbol is 0
  const Trellis trellis{2, 4, level.data()};
  for (uint8_t q = 0; q < 4; ++q) {
    const float x = q;
    uint8_t code = 9;
    viterbi(trellis, &x, 1, 1, &code);
    EXPECT_EQ(code, q);
  }
}

}  // namespace
}  // namespace replication
