// Controls at equal bits: what they store, in which order, and when there is none.
#include "replication/mix.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <numeric>

#include "replication/controls.h"
#include "tests/support/calibrated.h"

namespace replication {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Linears of one model: 64 × 128, the first the most sensitive.
struct Mix {
  std::vector<std::shared_ptr<core::Slot>> slots;
  std::vector<Mixed> linears;
  ReplicationConfig config;

  Mix(int count, const std::string& weight, const std::string& control) {
    core::bind(core::parse_yaml("{strategy: low_rank, control: " + control + "}", "a.yaml"), config, "replication");
    for (int i = 0; i < count; ++i) {
      slots.push_back(std::make_shared<core::Slot>(fmt::format("linear{}", i), core::Role::up_proj, 64, 128, false));
      linears.push_back({slots.back().get(), quant::quant_config("{weight: " + weight + "}").weight, 1.0 / (1 + i)});
    }
  }
  std::vector<int64_t> levels(double bits_per_weight, bool ranked = true) const {
    const auto weights = static_cast<double>(linears.size()) * 64 * 128;
    return mixed_levels(config, *make_levels(config, linears), linears, static_cast<int64_t>(bits_per_weight * weights),
                        1, ranked);
  }
  // By the plain definition: code bits, and parameters as they are laid out.
  double bits_per_weight(const std::vector<int64_t>& levels) const {
    double sum = 0;
    for (size_t i = 0; i < linears.size(); ++i) {
      const quant::Coding coding = make_levels(config, linears)->coding(linears[i], 1, levels[i]);
      const quant::WeightFormat& format = last_format(coding);
      sum += static_cast<double>(format.code_bits());
      for (const quant::Parameter& p : format.layout(64, 128)) {
        sum += static_cast<double>(p.stored_bits * c10::multiply_integers(p.shape)) / (64 * 128);
      }
    }
    return sum / static_cast<double>(linears.size());
  }
  std::string message(double bits) const {
    return core::message_of([&] { levels(bits); });
  }
};

const char* const kMidrise = "{bits: 2, group_size: 64, symmetry: midrise}";  // 2.25 bits

TEST(Mix, FinerGroupsGoToTheMostSensitive) {
  Mix mix(8, kMidrise, "finer_groups");
  EXPECT_THAT(mix.levels(2.25 + 3 * 0.25 / 8 + 1e-6), ElementsAre(1, 1, 1, 0, 0, 0, 0, 0));  // groups of 32: 2.5
  std::swap(mix.linears[0].sensitivity, mix.linears[7].sensitivity);
  EXPECT_THAT(mix.levels(2.25 + 3 * 0.25 / 8 + 1e-6), ElementsAre(0, 1, 1, 0, 0, 0, 0, 1));
  EXPECT_THAT(mix.levels(3.0 + 4 * 1.0 / 8), ElementsAre(2, 3, 3, 3, 2, 2, 2, 3)) << "groups of 16 and of 8: 3 and 4";
  EXPECT_THAT(mix.levels(2.125), ElementsAre(-1, -1, -1, -1, -1, -1, -1, -1)) << "a row has 128 weights";
}

TEST(Mix, MoreBitsAndRanksToo) {
  EXPECT_THAT(Mix(4, kMidrise, "more_bits").levels(2.75), ElementsAre(1, 1, 0, 0));
  EXPECT_THAT(Mix(4, kMidrise, "more_bits").levels(3.75), ElementsAre(2, 2, 1, 1));
  // A rank costs 16 (64 + 128) / (64 · 128) = 0.375.
  EXPECT_THAT(Mix(4, kMidrise, "low_rank").levels(2.25 + 0.375), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(Mix(4, kMidrise, "low_rank").levels(2.25 + 0.375 / 4), ElementsAre(1, 0, 0, 0));
}

// Whatever the replica stores: never more, at most 1 % less, two neighbouring levels; or a reason.
TEST(Mix, StoresNoMoreThanTheReplicaAndAtMostOnePercentLess) {
  for (const Control& row : controls()) {
    if (row.levels == nullptr) continue;
    const std::string control = row.name;
    int built = 0;
    const Mix mix(40, kMidrise, control);
    for (double target = 2.0; target < 6; target += 0.0971) {
      std::vector<int64_t> levels;
      try {
        levels = mix.levels(target);
      } catch (const NoControl& none) {
        EXPECT_THAT(none.what(), ::testing::StartsWith(control + ": ")) << target;
        continue;
      }
      ++built;
      const double bits = mix.bits_per_weight(levels);
      EXPECT_LE(bits, target) << control;
      EXPECT_GE(bits, 0.99 * target * (1 - 1e-6)) << control;
      EXPECT_LE(*std::max_element(levels.begin(), levels.end()) - *std::min_element(levels.begin(), levels.end()), 1);
    }
    EXPECT_GT(built, 10) << control;
  }
}

TEST(Mix, WhyThereIsNone) {
  EXPECT_EQ(Mix(4, kMidrise, "finer_groups").message(2.2511),
            "finer_groups: at equal bits it is `single`: the replica stores 0.05 % more, less than one linear with "
            "groups 2 times smaller would add");
  EXPECT_EQ(Mix(2, kMidrise, "more_bits").message(2.5),
            "more_bits: mixing +0 bits and +1 bits comes to 2.2500 bits per weight, not within 1 % below the replica's "
            "2.5000");
  EXPECT_EQ(Mix(2, kMidrise, "low_rank").message(2.2),
            "low_rank: the replica stores 2.2000 bits per weight, and rank 0 already 2.2500");
  EXPECT_THAT(Mix(2, "{bits: 1, codebook: levels, levels: [-1, 1]}", "more_bits").message(2.2),
              HasSubstr("lists the levels of one bit width"));
}

// Without sensitivities only what does not depend on them is decided.
TEST(Mix, BeforeSensitivitiesAreKnownOnlyTheImpossibleIsRefused) {
  const Mix mix(4, kMidrise, "more_bits");
  EXPECT_NO_THROW(mix.levels(2.75, /*ranked=*/false));
  EXPECT_THROW(mix.levels(2.2511, /*ranked=*/false), NoControl);
}

}  // namespace
}  // namespace replication
