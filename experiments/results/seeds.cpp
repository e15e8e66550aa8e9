#include "experiments/results/seeds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace experiments {

using Json = nlohmann::ordered_json;

namespace {

bool same_point(const Json& a, const Json& b) {
  Json of_a = a["swept"], of_b = b["swept"];
  of_a.erase("seed");
  of_b.erase("seed");
  return of_a == of_b;
}

// Every real number inside `value` becomes the mean over the runs; what some run lacks stays as it is.
void average(Json& value, const std::vector<const Json*>& runs) {
  if (value.is_structured()) {
    for (const auto& [key, item] : value.items()) {
      const Json::json_pointer here = value.is_array() ? Json::json_pointer("/" + key) : Json::json_pointer() / key;
      std::vector<const Json*> items;
      for (const Json* run : runs) {
        if (run->contains(here)) items.push_back(&run->at(here));
      }
      if (items.size() == runs.size()) average(item, items);
    }
    return;
  }
  if (!std::all_of(runs.begin(), runs.end(), [](const Json* run) { return run->is_number_float(); })) return;
  double sum = 0;
  for (const Json* run : runs) sum += run->get<double>();
  value = sum / static_cast<double>(runs.size());
}

double seconds(const Json& run) {
  double sum = 0;
  for (const Json& stage : run["stages"]) sum += stage["seconds"].get<double>();
  return sum;
}

// Of the perplexities of measurement m.
double deviation(const std::vector<Json>& runs, size_t m, double mean) {
  double squares = 0;
  for (const Json& run : runs) {
    squares += std::pow(run["quantized"]["perplexity"][m]["ppl"].get<double>() - mean, 2);
  }
  return std::sqrt(squares / static_cast<double>(runs.size() - 1));
}

// When runs[i] is the last run of its point: the finished runs of that point, in order. Otherwise none.
std::vector<Json> seeds_of_point(const std::vector<Json>& runs, size_t i) {
  std::vector<Json> seeds;
  if (!runs[i]["swept"].contains("seed")) return seeds;
  for (size_t j = 0; j < runs.size(); ++j) {
    if (!same_point(runs[i], runs[j])) continue;
    if (j > i) return {};
    if (!runs[j].contains("failed")) seeds.push_back(runs[j]);
  }
  return seeds;
}

Json mean_of(const std::vector<Json>& runs) {
  Json mean = runs.front();
  for (const char* part : {"quantized", "bits"}) {
    std::vector<const Json*> parts;
    for (const Json& run : runs) parts.push_back(&run[part]);
    average(mean[part], parts);
  }
  Json& measured = mean["quantized"]["perplexity"];
  for (size_t m = 0; m < measured.size(); ++m) {
    measured[m]["ppl_stderr"] = deviation(runs, m, measured[m]["ppl"].get<double>());
  }
  double sum = 0;
  for (const Json& run : runs) sum += seconds(run);
  mean["stages"] = Json::array({{{"seconds", sum / static_cast<double>(runs.size())}}});
  mean["swept"]["seed"] = fmt::format("mean ± sd of {}", runs.size());
  return mean;
}

}  // namespace

std::vector<Json> with_means(const std::vector<Json>& runs) {
  std::vector<Json> rows;
  for (size_t i = 0; i < runs.size(); ++i) {
    rows.push_back(runs[i]);
    if (const std::vector<Json> seeds = seeds_of_point(runs, i); seeds.size() > 1) rows.push_back(mean_of(seeds));
  }
  return rows;
}

}  // namespace experiments
