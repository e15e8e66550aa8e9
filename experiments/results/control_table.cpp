#include "experiments/results/control_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "experiments/measure/measures.h"
#include "experiments/results/compare.h"
#include "replication/controls.h"

namespace experiments {

namespace {

constexpr const char* kMissing = "–";
constexpr const char* kNone = replication::ReplicationConfig::kNone;

// A file's points by what they are in the comparison.
class Beside {
 public:
  Beside(const std::vector<Point>& points, const std::vector<Row>& rows, const std::vector<std::string>& directories)
      : points_(points), rows_(rows), directories_(directories) {}

  std::vector<size_t> of(int64_t group, const std::string& control) const {
    std::vector<size_t> found;
    for (size_t i = 0; i < points_.size(); ++i) {
      if (points_[i].group == group && points_[i].control == control) found.push_back(i);
    }
    return found;
  }
  // The controls of a replica, in the order of the file.
  std::vector<std::string> controls(int64_t group) const {
    std::vector<std::string> names;
    for (const Point& point : points_) {
      const bool known = std::find(names.begin(), names.end(), point.control) != names.end();
      if (point.group == group && point.control != kNone && !known) names.push_back(point.control);
    }
    return names;
  }
  // Run directories of replica and control, once per seed and draw that both have finished: A is the control.
  std::vector<std::pair<std::string, std::string>> pairs(int64_t group, const std::string& control) const {
    std::vector<std::pair<std::string, std::string>> pairs;
    for (const size_t a : of(group, control)) {
      for (const size_t b : of(group, kNone)) {
        if (points_[a].spec.seed == points_[b].spec.seed && finished(a) && finished(b))
          pairs.emplace_back(directories_[a], directories_[b]);
      }
    }
    return pairs;
  }
  // Mean over the finished runs.
  double bits(int64_t group, const std::string& control, const char* field) const {
    double sum = 0, count = 0;
    for (const size_t i : of(group, control)) {
      const std::optional<double> bits = finished(i) ? rows_[i].number(std::string("bits/") + field) : std::nullopt;
      if (!bits) continue;
      sum += *bits;
      ++count;
    }
    return count > 0 ? sum / count : 0;
  }
  // The plain grids of the curve, as far as they were finished: "2 bits in groups of 128, 64, 32, 3 bits in groups of
  // 64"; "": none.
  std::string grids_of_curve(int64_t group) const {
    std::map<int64_t, std::set<int64_t, std::greater<>>> sizes;  // by bits
    for (const size_t i : of(group, replication::kCurve)) {
      const quant::WeightConfig& weight = points_[i].spec.quant.weight;
      if (finished(i)) sizes[weight.bits].insert(weight.group_size);
    }
    std::vector<std::string> parts;
    for (const auto& [bits, of_bits] : sizes)
      parts.push_back(fmt::format("{} bits in groups of {}", bits, fmt::join(of_bits, ", ")));
    return fmt::format("{}", fmt::join(parts, ", "));
  }
  std::string reason(int64_t group, const std::string& control) const {
    for (const size_t i : of(group, control)) {
      if (!finished(i)) return rows_[i].failure();
    }
    return "the replica was not finished";
  }
  // "parity_sign bits=3": the strategy, and what the sweep set.
  std::string name(int64_t group) const {
    const Point& replica = points_[of(group, kNone).front()];
    std::string text = replica.spec.replication.strategy;
    for (const auto& [key, value] : replica.swept) {
      if (key == "replication.control" || key == "replication.strategy" || key == "seed") continue;
      text += " " + key.substr(key.rfind('.') + 1) + "=" + value;
    }
    return text;
  }

 private:
  bool finished(size_t i) const { return rows_[i].finished(); }

  const std::vector<Point>& points_;
  const std::vector<Row>& rows_;
  const std::vector<std::string>& directories_;
};

// The replica is B. At another width, bits that are equal here may not be.
std::string verdict(const Comparison& c, const std::string& control, double replica_at_4096, double control_at_4096) {
  constexpr double kSame = 1.01;
  if (!c.is_no_chance()) return "undecided";
  if (!c.seeds_agree())
    return control == replication::kRandomSelection ? "undecided: the draws disagree" : "undecided: the seeds disagree";
  const replication::Control* row = replication::find_control(control);  // null: a rung of the ladder
  const bool equal_bits = row != nullptr && row->holds_bits;
  const double winner = c.b_is_better() ? replica_at_4096 : control_at_4096;
  const double loser = c.b_is_better() ? control_at_4096 : replica_at_4096;
  if (equal_bits && winner > kSame * loser) return "undecided at this width";
  return c.b_is_better() ? "the replica is better" : "the control is better";
}

// The distance from full precision of the first measurement that knows it.
std::optional<double> kl_of(const Row& row) {
  for (const MeasureKind& kind : measure_kinds()) {
    const auto found = row.quantized().find(kind.name);
    if (found == row.quantized().end() || found->second.empty()) continue;
    for (const Column& column : kind.make()->columns()) {
      if (column.is_distance) return Row::number_at(found->second.front(), column.path);
    }
  }
  return std::nullopt;
}

// One entry per seed.
std::string curve_text(const std::vector<Point>& points, const std::vector<Row>& rows,
                       const std::vector<size_t>& replicas) {
  std::vector<std::string> parts;
  for (const size_t i : replicas) {
    const auto found = kl_exchange_of(points, rows, i);
    if (!found) {
      parts.emplace_back("the curve does not reach this KL");
    } else {
      parts.push_back(fmt::format("as close at {:.3f} bits: gain {:+.3f} bits{}", found->equal_bits, found->gain_bits,
                                  found->eta ? fmt::format(", eta {:.2f}", *found->eta) : ""));
    }
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

std::optional<KlExchange> kl_exchange_of(const std::vector<Point>& points, const std::vector<Row>& rows,
                                         size_t replica) {
  const Point& mine = points[replica];
  std::vector<std::pair<double, double>> curve;
  std::optional<double> single;
  for (size_t i = 0; i < points.size(); ++i) {
    const Point& other = points[i];
    const auto kl = kl_of(rows[i]);
    if (other.group != mine.group || other.spec.seed != mine.spec.seed || !kl) continue;
    const double bits = rows[i].number("bits/with_parameters").value_or(0);
    if (other.control == replication::kCurve) curve.emplace_back(bits, *kl);
    if (other.control == replication::kSingle) single = bits;
  }
  const auto kl = kl_of(rows[replica]);
  if (!kl || !single) return std::nullopt;
  return kl_exchange(std::move(curve), *kl, rows[replica].number("bits/with_parameters").value_or(0), *single);
}

Table control_table(const std::vector<Point>& points, const std::vector<Row>& rows,
                    const std::vector<std::string>& directories) {
  Table table{.columns = {"replica", "control", "measured on", "bits", "at 4096²", "control's bits", "at 4096²", "NLL",
                          "control's NLL", "ΔNLL", "95 % interval", "by seed or draw", "verdict"},
              .rows = {}};
  const Beside beside(points, rows, directories);
  int64_t groups = 0;
  for (const Point& point : points) groups = std::max(groups, point.group + 1);
  for (int64_t group = 0; group < groups; ++group) {
    if (beside.of(group, kNone).empty()) continue;
    for (const std::string& control : beside.controls(group)) {
      std::vector<std::string> row{beside.name(group), control};
      if (control == replication::kCurve) {
        row.resize(table.columns.size() - 1, kMissing);
        const std::string grids = beside.grids_of_curve(group);
        row.push_back(curve_text(points, rows, beside.of(group, kNone)) + (grids.empty() ? "" : " (on " + grids + ")"));
        table.rows.push_back(std::move(row));
        continue;
      }
      const auto pairs = beside.pairs(group, control);
      if (pairs.empty()) {
        row.resize(table.columns.size() - 1, kMissing);
        row.push_back(beside.reason(group, control));
        table.rows.push_back(std::move(row));
        continue;
      }
      const double bits = beside.bits(group, kNone, "with_parameters"), wide = beside.bits(group, kNone, "at_4096"),
                   control_bits = beside.bits(group, control, "with_parameters"),
                   control_wide = beside.bits(group, control, "at_4096");
      for (const Comparison& c : compare_pairs(pairs)) {
        if (!c.is_first) continue;
        std::vector<std::string>& full = table.rows.emplace_back(row);
        full.push_back(c.measured_on);
        for (const double value : {bits, wide, control_bits, control_wide})
          full.push_back(fmt::format("{:.4f}", value));
        full.push_back(fmt::format("{:.4f}", c.b));
        full.push_back(fmt::format("{:.4f}", c.a));
        full.push_back(fmt::format("{:+.4f}", c.difference()));
        full.push_back(fmt::format("{:+.4f} … {:+.4f}", c.low, c.high));
        full.push_back(c.by_seed.size() > 1 ? fmt::format("{:+.4f}", fmt::join(c.by_seed, " ")) : "");
        full.push_back(verdict(c, control, wide, control_wide));
      }
    }
  }
  return table;
}

}  // namespace experiments
