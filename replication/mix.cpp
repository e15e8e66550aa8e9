#include "replication/mix.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace replication {

namespace {

constexpr double kShare = 0.99;  // of the replica's bits that a control stores at least

Shape shape_of(const core::Slot& slot) { return {slot.out_features(), slot.in_features()}; }

// What one control stores, level by level.
class Bill {
 public:
  Bill(const Levels& levels, const std::vector<Mixed>& linears, uint64_t seed)
      : levels_(levels), linears_(linears), seed_(seed) {}

  int64_t of(size_t linear, int64_t level) const {
    const Mixed& mixed = linears_[linear];
    return stored_bits(last_format(levels_.coding(mixed, seed_, level)), shape_of(*mixed.slot));
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
  const Levels& levels_;
  const std::vector<Mixed>& linears_;
  uint64_t seed_;
};

}  // namespace

std::unique_ptr<Levels> make_levels(const ReplicationConfig& config, const std::vector<Mixed>& linears) {
  const Control* control = find_control(config.control);
  TORCH_CHECK(control != nullptr && control->levels != nullptr, config.control, " mixes nothing");
  return control->levels(config.control, config.strategies, linears);
}

std::vector<int64_t> mixed_levels(const ReplicationConfig& config, const Levels& all, const std::vector<Mixed>& linears,
                                  int64_t target, uint64_t seed, bool ranked, int64_t elsewhere) {
  const Bill bill(all, linears, seed);
  const auto weights = static_cast<double>(bill.weights());
  const auto per_weight = [&](int64_t bits) { return static_cast<double>(bits) / weights; };
  const auto refuse = [&](const std::string& reason) { throw NoControl(config.control + ": " + reason); };
  int64_t low = all.lowest(), high = all.highest();
  if (bill.of_all(low) > target)
    refuse(fmt::format("the replica stores {:.4f} bits per weight, and {} already {:.4f}", per_weight(target),
                       all.describe(low), per_weight(bill.of_all(low))));
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
  const bool has_next = low < all.highest();
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
                    100 * (static_cast<double>(target) / static_cast<double>(stored) - 1), all.describe(low + 1)));
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
                       all.describe(low), all.describe(low + 1), per_weight(stored), per_weight(target)));
  return levels;
}

}  // namespace replication
