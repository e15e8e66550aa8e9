#include "replication/levels.h"

#include <fmt/format.h>

#include <algorithm>

namespace replication {

namespace {

constexpr const char* kLowRank = "low_rank";  // the strategy whose ranks are levels

// Halves of the group, and doubles.
class GroupLevels : public Levels {
 public:
  int64_t lowest() const override { return -16; }
  int64_t highest() const override { return 16; }
  quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const override {
    quant::WeightConfig weight = linear.weight;
    weight.group_size = group(weight.group_size, linear.slot->in_features(), level);
    return quant::grid_coding(*linear.slot, weight, seed);
  }
  std::string describe(int64_t level) const override {
    return level == 0  ? "its own groups"
           : level > 0 ? fmt::format("groups {} times smaller", int64_t{1} << level)
                       : fmt::format("groups {} times larger", int64_t{1} << -level);
  }

 private:
  // -1: the row; 0: the whole matrix, one level below the row.
  static int64_t group(int64_t size, int64_t row, int64_t level) {
    if (size == 0) return level <= 0 ? 0 : group(-1, row, level - 1);
    int64_t S = size == -1 ? row : size;
    for (; level > 0 && S % 2 == 0; --level) S /= 2;
    for (; level < 0 && row % (2 * S) == 0; ++level) S *= 2;
    return S == row ? -1 : S;
  }
};

class BitLevels : public Levels {
 public:
  explicit BitLevels(const std::vector<Mixed>& linears) {
    for (const Mixed& linear : linears) {
      lowest_ = std::max(lowest_, 1 - linear.weight.bits);
      highest_ = std::min(highest_, 8 - linear.weight.bits);
    }
  }
  int64_t lowest() const override { return lowest_; }
  int64_t highest() const override { return highest_; }
  quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const override {
    quant::WeightConfig weight = linear.weight;
    weight.bits += level;
    return quant::grid_coding(*linear.slot, weight, seed);
  }
  std::string describe(int64_t level) const override { return fmt::format("{:+} bits", level); }

 private:
  int64_t lowest_ = -8, highest_ = 8;
};

class RankLevels : public Levels {
 public:
  RankLevels(const core::Polymorphic<Strategy>& low_rank, const std::vector<Mixed>& linears) : low_rank_(low_rank) {
    for (const Mixed& linear : linears)
      highest_ = std::min({highest_, linear.slot->out_features(), linear.slot->in_features()});
  }
  int64_t lowest() const override { return 0; }
  int64_t highest() const override { return highest_; }
  quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const override {
    if (level == 0) return quant::grid_coding(*linear.slot, linear.weight, seed);
    core::Polymorphic<Strategy> strategy = low_rank_;
    core::Node options = core::to_node(*strategy);
    core::assign(options, "rank", core::make_integer(level));
    core::bind(options, *strategy, std::string("replication.") + kLowRank);
    return coding_by(kLowRank, strategy.share(), *linear.slot, linear.weight, seed);
  }
  std::string describe(int64_t level) const override { return fmt::format("rank {}", level); }

 private:
  core::Polymorphic<Strategy> low_rank_;
  int64_t highest_ = 4096;
};

}  // namespace

std::unique_ptr<Levels> group_levels(const std::string& /*control*/, const Strategies& /*strategies*/,
                                     const std::vector<Mixed>& /*linears*/) {
  return std::make_unique<GroupLevels>();
}

std::unique_ptr<Levels> bit_levels(const std::string& control, const Strategies& /*strategies*/,
                                   const std::vector<Mixed>& linears) {
  const bool listed =
      std::any_of(linears.begin(), linears.end(), [](const Mixed& m) { return !m.weight.levels.empty(); });
  if (listed) throw NoControl(control + ": codebook: levels lists the levels of one bit width");
  return std::make_unique<BitLevels>(linears);
}

std::unique_ptr<Levels> rank_levels(const std::string& /*control*/, const Strategies& strategies,
                                    const std::vector<Mixed>& linears) {
  return std::make_unique<RankLevels>(strategies.at(kLowRank), linears);
}

}  // namespace replication
