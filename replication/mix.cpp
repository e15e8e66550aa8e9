#include "replication/mix.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace replication {

namespace {

constexpr double kShare = 0.99;  // of the replica's bits that a control stores at least

// Halves of the group, and doubles.
class FinerGroups : public Control {
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

class MoreBits : public Control {
 public:
  explicit MoreBits(const std::vector<Mixed>& linears) {
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

class LowRank : public Control {
 public:
  LowRank(const ReplicationConfig& config, const std::vector<Mixed>& linears)
      : options_(core::to_node(*config.strategies.at("low_rank"))) {
    for (const Mixed& linear : linears)
      highest_ = std::min({highest_, linear.slot->out_features(), linear.slot->in_features()});
  }
  int64_t lowest() const override { return 0; }
  int64_t highest() const override { return highest_; }
  quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const override {
    if (level == 0) return quant::grid_coding(*linear.slot, linear.weight, seed);
    core::Node options = options_, root = core::make_map();
    core::assign(options, "rank", core::make_integer(level));
    core::assign(root, "strategy", core::make_string("low_rank"));
    core::assign(root, "low_rank", std::move(options));
    ReplicationConfig config;
    core::bind(root, config, "replication");
    return coding_of(config)(*linear.slot, linear.weight, seed);
  }
  std::string describe(int64_t level) const override { return fmt::format("rank {}", level); }

 private:
  core::Node options_;
  int64_t highest_ = 4096;
};

Shape shape_of(const core::Slot& slot) { return {slot.out_features(), slot.in_features()}; }

// What one control stores, level by level.
class Bill {
 public:
  Bill(const Control& control, const std::vector<Mixed>& linears, uint64_t seed)
      : control_(control), linears_(linears), seed_(seed) {}

  int64_t of(size_t linear, int64_t level) const {
    const Mixed& mixed = linears_[linear];
    return stored_bits(last_decoder(control_.coding(mixed, seed_, level)), shape_of(*mixed.slot));
  }
  int64_t of_all(int64_t level) const {
    int64_t sum = 0;
    for (size_t i = 0; i < linears_.size(); ++i) sum += of(i, level);
    return sum;
  }
  int64_t weights() const {
    return std::accumulate(linears_.begin(), linears_.end(), int64_t{0}, [](int64_t sum, const Mixed& linear) {
      return sum + linear.slot->out_features() * linear.slot->in_features();
    });
  }

 private:
  const Control& control_;
  const std::vector<Mixed>& linears_;
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Control> make_control(const ReplicationConfig& config, const std::vector<Mixed>& linears) {
  const bool listed =
      std::any_of(linears.begin(), linears.end(), [](const Mixed& m) { return !m.weight.levels.empty(); });
  if (config.control.starts_with("more_bits") && listed)
    throw NoControl(config.control + ": codebook: levels lists the levels of one bit width");
  if (config.control == "finer_groups") return std::make_unique<FinerGroups>();
  if (config.control.starts_with("more_bits")) return std::make_unique<MoreBits>(linears);
  TORCH_CHECK(config.control == "low_rank", "no control named ", config.control);
  return std::make_unique<LowRank>(config, linears);
}

std::vector<int64_t> mixed_levels(const ReplicationConfig& config, const Control& control,
                                  const std::vector<Mixed>& linears, int64_t target, uint64_t seed, bool ranked,
                                  int64_t elsewhere) {
  const Bill bill(control, linears, seed);
  const auto weights = static_cast<double>(bill.weights());
  const auto per_weight = [&](int64_t bits) { return static_cast<double>(bits) / weights; };
  const auto refuse = [&](const std::string& reason) { throw NoControl(config.control + ": " + reason); };
  int64_t low = control.lowest(), high = control.highest();
  if (bill.of_all(low) > target)
    refuse(fmt::format("the replica stores {:.4f} bits per weight, and {} already {:.4f}", per_weight(target),
                       control.describe(low), per_weight(bill.of_all(low))));
  while (low < high) {  // the highest level at which all linears fit
    const int64_t middle = low + (high - low + 1) / 2;
    if (bill.of_all(middle) <= target) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  std::vector<int64_t> levels(linears.size(), low), raise(linears.size(), 0);
  int64_t stored = bill.of_all(low);
  const bool has_next = low < control.highest();
  int64_t least = std::numeric_limits<int64_t>::max();  // that a linear more on the next level would add
  for (size_t i = 0; has_next && i < linears.size(); ++i) {
    raise[i] = bill.of(i, low + 1) - bill.of(i, low);
    if (raise[i] > 0) least = std::min(least, raise[i]);
  }
  const bool room = least <= target - stored;
  const auto close = [&] {
    return static_cast<double>(stored + elsewhere) >= kShare * static_cast<double>(target + elsewhere);
  };
  if (low == 0 && !room && close())
    refuse(
        fmt::format("at equal bits it is `single`: the replica stores {:.2f} % more, less than one linear with {} "
                    "would add",
                    100 * (static_cast<double>(target) / static_cast<double>(stored) - 1), control.describe(low + 1)));
  if (!ranked && room) return levels;
  std::vector<size_t> order(linears.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return linears[a].sensitivity > linears[b].sensitivity; });
  for (const size_t i : order) {
    if (raise[i] <= 0 || stored + raise[i] > target) continue;
    stored += raise[i];
    ++levels[i];
  }
  if (!close())
    refuse(fmt::format("mixing {} and {} comes to {:.4f} bits per weight, not within 1 % below the replica's {:.4f}",
                       control.describe(low), control.describe(low + 1), per_weight(stored), per_weight(target)));
  return levels;
}

}  // namespace replication
