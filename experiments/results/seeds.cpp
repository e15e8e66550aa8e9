#include "experiments/results/seeds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/measure/measures.h"

namespace experiments {

namespace {

using Swept = std::vector<std::pair<std::string, std::string>>;

Swept but_seed(const Row& row) {
  Swept swept = row.swept();
  std::erase_if(swept, [](const auto& entry) { return entry.first == "seed"; });
  return swept;
}

// Puts the mean over the runs in place of every number inside `value`, and null where a run has none. Numbers that are
// equal everywhere stay as they are.
void average(Json& value, const std::vector<const Json*>& runs) {
  if (value.is_structured()) {
    for (const auto& [key, item] : value.items()) {
      const Json::json_pointer here = value.is_array() ? Json::json_pointer("/" + key) : Json::json_pointer() / key;
      std::vector<const Json*> items;
      static const Json kNothing;
      for (const Json* run : runs) items.push_back(run->contains(here) ? &run->at(here) : &kNothing);
      average(item, items);
    }
    return;
  }
  const bool any = std::any_of(runs.begin(), runs.end(), [](const Json* run) { return run->is_number(); });
  if (!any || std::all_of(runs.begin(), runs.end(), [&](const Json* run) { return *run == value; })) return;
  double sum = 0;
  for (const Json* run : runs) {
    if (!run->is_number()) {
      value = nullptr;
      return;
    }
    sum += run->get<double>();
  }
  value = sum / static_cast<double>(runs.size());
}

double deviation(const std::vector<double>& values) {
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values) squares += std::pow(value - mean, 2);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

// Standard deviations over the seeds, where a column of a measure asks for them. mean: the part `quantized`.
void put_deviations(Json& mean, const std::vector<Row>& runs) {
  for (const MeasureKind& kind : measure_kinds()) {
    if (!mean.contains(kind.name)) continue;
    for (const Column& column : kind.make()->columns()) {
      if (column.deviation_of.empty()) continue;
      const size_t count = kind.is_list ? mean[kind.name].size() : 1;
      for (size_t i = 0; i < count; ++i) {
        std::vector<double> values;
        for (const Row& run : runs) {
          const auto found = run.quantized().find(kind.name);
          if (found == run.quantized().end() || found->second.size() <= i) continue;
          if (const auto value = Row::number_at(found->second[i], column.deviation_of)) values.push_back(*value);
        }
        Json& entry = kind.is_list ? mean[kind.name][i] : mean[kind.name];
        entry[Json::json_pointer("/" + column.path)] =
            values.size() == runs.size() ? Json(deviation(values)) : Json(nullptr);
      }
    }
  }
}

Row mean_of(const std::vector<Row>& runs) {
  const Row& first = runs.front();
  Json mean = Json::object();
  for (const char* part : {"swept", "baseline"}) {
    if (first.contains(part)) mean[part] = first[part];
  }
  for (const char* part : {"quantized", "bits", "replication"}) {
    if (!first.contains(part)) continue;
    mean[part] = first[part];
    static const Json kNothing;
    std::vector<const Json*> parts;
    for (const Row& run : runs) parts.push_back(run.contains(part) ? &run[part] : &kNothing);
    average(mean[part], parts);
  }
  put_deviations(mean["quantized"], runs);
  double sum = 0;
  for (const Row& run : runs) sum += run.seconds();
  mean["stages"] = Json::array({{{"seconds", sum / static_cast<double>(runs.size())}}});
  mean["swept"]["seed"] = fmt::format("mean ± sd of {}", runs.size());
  return Row(std::move(mean));
}

// When rows[i] is the last of its point: the finished runs of that point, in order. Otherwise none.
std::vector<Row> seeds_of_point(const std::vector<Row>& rows, size_t i) {
  std::vector<Row> seeds;
  if (rows[i].swept("seed").empty()) return seeds;
  for (size_t j = 0; j < rows.size(); ++j) {
    if (but_seed(rows[i]) != but_seed(rows[j])) continue;
    if (j > i) return {};
    if (rows[j].finished()) seeds.push_back(rows[j]);
  }
  return seeds;
}

}  // namespace

std::vector<Row> with_means(const std::vector<Row>& rows) {
  std::vector<Row> all;
  for (size_t i = 0; i < rows.size(); ++i) {
    all.push_back(rows[i]);
    if (const std::vector<Row> seeds = seeds_of_point(rows, i); seeds.size() > 1) all.push_back(mean_of(seeds));
  }
  return all;
}

}  // namespace experiments
