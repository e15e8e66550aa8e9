#include "experiments/results/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <optional>
#include <tuple>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "experiments/measure/bootstrap.h"
#include "experiments/measure/measures.h"
#include "experiments/results/row.h"
#include "experiments/results/seed_set.h"
#include "experiments/results/table.h"

namespace experiments {

namespace {

// One measurement of the quantized model of a run.
struct Measured {
  const MeasureKind* kind;
  Json values;                            // its entry of results.json
  std::vector<std::vector<double>> sums;  // per quantity: of each item, over its tokens; empty: not measured
  std::vector<double> answers;            // of each item; empty: they have none
};

// Rows of a file, the first one its header, of which each item has some.
class ItemRows {
 public:
  ItemRows(const std::string& file, const ItemFile& items)
      : items_(items), rows_(core::parse_csv(core::read_file(file), file)), next_(1) {
    while (next_ < rows_.size() && rows_[next_].at(0) != "quantized") ++next_;
  }

  // Goes on to the next `count` items; false: there are fewer.
  bool take(size_t count) {
    begins_.assign(1, next_);
    const std::optional<size_t> item = index_of(items_.item);
    for (size_t n = 0; n < count; ++n) {
      if (next_ >= rows_.size()) return false;
      const size_t first = next_++;
      while (item && next_ < rows_.size() && same(rows_[next_], rows_[first], *item)) ++next_;
      begins_.push_back(next_);
    }
    return true;
  }

  // The sums of these items in one column; empty if it is not there, or an item has a gap.
  std::vector<double> sums(const std::string& column) const {
    const std::optional<size_t> index = index_of(column);
    if (!index) return {};
    std::vector<double> sums;
    for (size_t n = 0; n + 1 < begins_.size(); ++n) {
      double sum = 0;
      for (size_t row = begins_[n]; row < begins_[n + 1]; ++row) {
        if (*index >= rows_[row].size() || rows_[row][*index].empty()) return {};
        sum += std::stod(rows_[row][*index]);
      }
      sums.push_back(sum);
    }
    return sums;
  }

 private:
  // Whether the cells up to this column are equal.
  static bool same(const std::vector<std::string>& a, const std::vector<std::string>& b, size_t last) {
    return std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(last) + 1, b.begin());
  }
  std::optional<size_t> index_of(const std::string& column) const {
    const auto found = std::find(rows_[0].begin(), rows_[0].end(), column);
    if (column.empty() || found == rows_[0].end()) return std::nullopt;
    return static_cast<size_t>(found - rows_[0].begin());
  }

  ItemFile items_;
  std::vector<std::vector<std::string>> rows_;
  size_t next_;
  std::vector<size_t> begins_;  // of the items, and the end of the last one
};

// All measurements of one measure in a run.
void read_measure(const Row& row, const std::string& directory, const MeasureKind& kind, std::vector<Measured>& all) {
  const ItemFile items = kind.make()->items();
  const auto found = row.quantized().find(kind.name);
  if (items.name.empty() || found == row.quantized().end() || found->second.empty()) return;
  const std::string file = directory + "/" + items.name;
  ItemRows rows(file, items);
  for (const Json& values : found->second) {
    const auto count = static_cast<size_t>(Row::number_at(values, items.count).value_or(0));
    core::require(rows.take(count), "{}: fewer {} than results.json tells of. Run it again with --force.", file,
                  items.count);
    Measured& measured = all.emplace_back(Measured{.kind = &kind, .values = values, .sums = {}, .answers = {}});
    for (const ItemQuantity& quantity : items.quantities) measured.sums.push_back(rows.sums(quantity.column));
    measured.answers = rows.sums(items.answer);
  }
}

std::vector<Measured> read_run(const std::string& directory) {
  const std::optional<Row> row = finished_results(directory);
  core::require(row.has_value(), "{}: no results.json of a finished run here. Give a directory runs/<name>/<id>.",
                directory);
  std::vector<Measured> all;
  for (const MeasureKind& kind : measure_kinds()) read_measure(*row, directory, kind, all);
  return all;
}

bool same_measurement(const Measured& a, const Measured& b) {
  if (a.kind != b.kind) return false;
  const std::vector<std::string> fields = a.kind->make()->identity();
  return std::all_of(fields.begin(), fields.end(), [&](const std::string& field) {
    return a.values.value(field, Json()) == b.values.value(field, Json());
  });
}

// Runs to be compared with each other; one pair per seed.
using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs pairs_of(const std::string& a, const std::string& b) {
  const auto of_a = seed_set(a), of_b = seed_set(b);
  const bool one_set = std::any_of(of_a.begin(), of_a.end(),
                                   [&](const auto& run) { return std::filesystem::equivalent(run.second, b); });
  if (one_set) return {{a, b}};
  Pairs pairs;
  for (const auto& [seed_a, run_a] : of_a) {
    for (const auto& [seed_b, run_b] : of_b) {
      if (seed_a == seed_b || of_a.size() == 1 || of_b.size() == 1) pairs.emplace_back(run_a, run_b);
    }
  }
  core::require(!pairs.empty(), "{} and {} were run with several seeds each, none of them in common. Run one more.", a,
                b);
  return pairs;
}

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// What tells two models apart that answered the same items.
void compare_answers(const Measured& a, const Measured& b, size_t quantity, Comparison& c) {
  if (!c.quantity.is_share) return;
  int64_t only_a = 0, only_b = 0, others = 0;
  for (size_t n = 0; n < a.sums[quantity].size(); ++n) {
    only_a += a.sums[quantity][n] > b.sums[quantity][n] ? 1 : 0;
    only_b += a.sums[quantity][n] < b.sums[quantity][n] ? 1 : 0;
  }
  c.p = mcnemar(only_a, only_b);
  if (!c.is_first || a.answers.empty() || a.answers.size() != b.answers.size()) return;
  for (size_t n = 0; n < a.answers.size(); ++n) others += a.answers[n] == b.answers[n] ? 0 : 1;
  c.changed = static_cast<double>(others) / static_cast<double>(a.answers.size());
}

// One quantity over all pairs of runs; every pair has measured it.
Comparison compare_one(const std::vector<std::pair<Measured, Measured>>& pairs, size_t quantity) {
  const Measured& first = pairs.front().first;
  const auto measure = first.kind->make();
  const ItemFile items = measure->items();
  const double tokens = Row::number_at(first.values, items.tokens).value();
  Comparison c{.measured_on = measure->label(first.values),
               .quantity = items.quantities[quantity],
               .is_first = quantity == 0,
               .items = static_cast<int64_t>(first.sums[quantity].size()),
               .by_seed = {}};
  const auto share = 1 / (tokens * static_cast<double>(pairs.size()));
  std::vector<double> differences(static_cast<size_t>(c.items), 0.0);  // per token, mean over the pairs
  for (const auto& [a, b] : pairs) {
    const std::vector<double>&of_a = a.sums[quantity], &of_b = b.sums[quantity];
    c.a += share * sum(of_a);
    c.b += share * sum(of_b);
    c.by_seed.push_back((sum(of_b) - sum(of_a)) / tokens);
    for (size_t n = 0; n < of_a.size(); ++n) {
      differences[n] += (of_b[n] - of_a[n]) * share * static_cast<double>(c.items);
    }
  }
  std::tie(c.low, c.high) = bootstrap_interval(differences);
  compare_answers(pairs.front().first, pairs.front().second, quantity, c);
  return c;
}

// What is written about a row: who is better, or why nobody is.
std::string verdict(const Comparison& c) {
  if (!c.is_no_chance()) return "undecided";
  if (!c.seeds_agree()) return "undecided: the seeds disagree";
  return c.b_is_better() ? "B is better" : "A is better";
}

std::string value_text(const Comparison& c, double value) {
  const std::string& name = c.quantity.exponential;
  return name.empty() ? fmt::format("{:.5f}", value) : fmt::format("{:.5f} ({} {:.4f})", value, name, std::exp(value));
}

}  // namespace

bool Comparison::seeds_agree() const {
  const auto positive = [](double d) { return d > 0; };
  const auto negative = [](double d) { return d < 0; };
  return std::all_of(by_seed.begin(), by_seed.end(), positive) || std::all_of(by_seed.begin(), by_seed.end(), negative);
}

double mcnemar(int64_t a, int64_t b) {
  const double n = static_cast<double>(a + b), ln2 = std::log(2.0);
  double tail = 0;  // of the binomial distribution with p = 1/2
  for (int64_t k = 0; k <= std::min(a, b); ++k) {
    const auto i = static_cast<double>(k);
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(i + 1) - std::lgamma(n - i + 1) - n * ln2);
  }
  return std::min(1.0, 2 * tail);
}

std::vector<Comparison> compare(const std::string& a, const std::string& b) {
  std::vector<Comparison> comparisons = compare_pairs(pairs_of(a, b));
  core::require(!comparisons.empty(),
                "{} and {} have no measurement in common. Measure the same texts in the same way.", a, b);
  return comparisons;
}

std::vector<Comparison> compare_pairs(const Pairs& given) {
  std::vector<std::pair<std::vector<Measured>, std::vector<Measured>>> runs;
  for (const auto& [run_a, run_b] : given) runs.emplace_back(read_run(run_a), read_run(run_b));
  const auto& [first_a, first_b] = runs.front();
  std::vector<Comparison> comparisons;
  for (size_t i = 0; i < first_a.size(); ++i) {
    for (size_t j = 0; j < first_b.size(); ++j) {
      if (!same_measurement(first_a[i], first_b[j])) continue;
      const Json &of_a = first_a[i].values, &of_b = first_b[j].values;
      core::require(of_a.value("token_hash", Json()) == of_b.value("token_hash", Json()),
                    "{}: the two runs saw other tokens. Compare runs of one tokenizer and text.",
                    first_a[i].kind->make()->label(of_a));
      std::vector<std::pair<Measured, Measured>> pairs;
      for (const auto& [run_a, run_b] : runs) pairs.emplace_back(run_a.at(i), run_b.at(j));
      for (size_t q = 0; q < first_a[i].sums.size(); ++q) {
        const bool measured = std::all_of(pairs.begin(), pairs.end(), [&](const auto& pair) {
          return !pair.first.sums[q].empty() && !pair.second.sums[q].empty();
        });
        if (measured) comparisons.push_back(compare_one(pairs, q));
      }
    }
  }
  return comparisons;
}

std::string comparison_text(const std::vector<Comparison>& comparisons) {
  Table table{.columns = {"measured on", "items", "quantity", "A", "B", "B − A", "95 % interval"}, .rows = {}};
  const bool seeds =
      std::any_of(comparisons.begin(), comparisons.end(), [](const Comparison& c) { return c.by_seed.size() > 1; });
  const bool shares =
      std::any_of(comparisons.begin(), comparisons.end(), [](const Comparison& c) { return c.p.has_value(); });
  if (seeds) table.columns.emplace_back("by seed");
  for (const char* heading : {"McNemar p", "other answers"}) {
    if (shares) table.columns.emplace_back(heading);
  }
  table.columns.emplace_back("verdict");
  for (const Comparison& c : comparisons) {
    auto& row = table.rows.emplace_back(std::vector<std::string>{
        c.measured_on, std::to_string(c.items), c.quantity.name, value_text(c, c.a), value_text(c, c.b),
        fmt::format("{:+.5f}", c.difference()), fmt::format("[{:+.5f}, {:+.5f}]", c.low, c.high)});
    if (seeds) row.push_back(fmt::format("{:+.5f}", fmt::join(c.by_seed, " ")));
    if (shares) row.push_back(c.p ? fmt::format("{:.4f}", *c.p) : "–");
    if (shares) row.push_back(c.changed ? fmt::format("{:.1f} %", 100 * *c.changed) : "–");
    row.push_back(verdict(c));
  }
  return table.text();
}

}  // namespace experiments
