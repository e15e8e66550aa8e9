#include "experiments/results/check_expect.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/config/scalar.h"
#include "core/config/yaml_edit.h"
#include "core/error.h"
#include "core/io/files.h"
#include "experiments/results/table.h"

namespace experiments {

namespace {

// The value at a path of results.json; nullptr if there is none.
const Json* find(const Json& results, const std::string& path) {
  const Json* value = &results;
  for (const core::PathStep& step : core::steps_of(path, "")) {
    if (const auto* name = std::get_if<std::string>(&step)) {
      if (!value->is_object() || !value->contains(*name)) return nullptr;
      value = &(*value)[*name];
    } else {
      const size_t index = std::get<size_t>(step);
      if (!value->is_array() || index >= value->size()) return nullptr;
      value = &(*value)[index];
    }
  }
  return value;
}

std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// One bound of an expectation: its key, and whether a value passes.
struct Bound {
  const char* key;
  const char* missed_by;  // "the result is 22.1, above 21.4"
  std::string limit;
  bool (*passes)(const Expectation&, const Json&);
};

bool passes_min(const Expectation& e, const Json& value) { return value.is_number() && value.get<double>() >= e.min; }
bool passes_max(const Expectation& e, const Json& value) { return value.is_number() && value.get<double>() <= e.max; }
bool passes_equal(const Expectation& e, const Json& value) {
  const auto number = e.equal.quoted ? std::nullopt : core::parse_number(e.equal.scalar);
  if (!number || !value.is_number()) return text_of(value) == e.equal.scalar;
  return std::abs(value.get<double>() - *number) <= e.tolerance;
}

std::vector<Bound> bounds_of(const Expectation& e) {
  std::vector<Bound> bounds;
  if (e.given("min")) bounds.push_back({"min", "below", fmt::format("{}", e.min), passes_min});
  if (e.given("max")) bounds.push_back({"max", "above", fmt::format("{}", e.max), passes_max});
  if (e.given("equal")) {
    const std::string around = e.tolerance > 0 ? fmt::format(" ± {}", e.tolerance) : "";
    bounds.push_back({"equal", "not", e.equal.scalar + around, passes_equal});
  }
  return bounds;
}

// Six digits are enough to read, rounded to the side on which the value still passes.
std::string rounded(double value, double direction) {
  const double step = std::pow(10, std::floor(std::log10(std::max(std::abs(value), 1e-300))) - 5);
  for (const double candidate : {value, std::round(value / step + direction) * step}) {
    const std::string text = fmt::format("{:.6g}", candidate);
    const auto read = core::parse_number(text);
    if (read && (direction > 0 ? *read >= value : *read <= value)) return text;
  }
  return core::format_number(value);
}

// A number as short as a tenth of the tolerance allows.
std::string near(double value, double tolerance) {
  for (int digits = 1; digits < 17; ++digits) {
    const std::string text = fmt::format("{:.{}g}", value, digits);
    const auto read = core::parse_number(text);
    if (read && std::abs(*read - value) <= tolerance / 10) return text;
  }
  return core::format_number(value);
}

core::Node scalar(const std::string& text) {
  core::Node node = core::make_string("");
  node.scalar = text;
  node.quoted = false;
  return node;
}

// The value of `bound` with which all of `values` pass.
core::Node fitting(const Expectation& e, const Bound& bound, const std::vector<const Json*>& values) {
  const std::string key = bound.key;
  const bool numbers = std::all_of(values.begin(), values.end(), [](const Json* v) { return v->is_number(); });
  if (!numbers) {
    core::require(key == "equal", "{}: the result is {}, not a number. Use equal.", e.where(key), text_of(*values[0]));
    const bool one = std::all_of(values.begin(), values.end(), [&](const Json* v) { return *v == *values[0]; });
    core::require(one, "{}: the runs have different values. Give each its own with `point`.", e.where(key));
    return core::make_string(text_of(*values[0]));
  }
  const auto [low, high] = std::minmax_element(
      values.begin(), values.end(), [](const Json* a, const Json* b) { return a->get<double>() < b->get<double>(); });
  const double least = (*low)->get<double>(), most = (*high)->get<double>();
  if (key == "min") return scalar(rounded(least, -1));
  if (key == "max") return scalar(rounded(most, +1));
  core::require(most - least <= 1.8 * e.tolerance || least == most,
                "{}: the runs have different values, {} to {}. Give each its own with `point`.", e.where(key), least,
                most);
  const bool whole = (*low)->is_number_integer() && least == most;
  return scalar(whole ? (*low)->dump() : near(least + (most - least) / 2, e.tolerance));
}

// A bound of the file, and the results that it must hold for.
struct Judged {
  const Expectation* expectation;
  std::vector<const Json*> values = {};
};

// By place in the file.
std::map<std::string, Judged> judged(const std::vector<Point>& points, const std::vector<Row>& rows) {
  std::map<std::string, Judged> all;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].finished()) continue;
    for (const Expectation& e : points[i].expect) {
      const Json* value = find(rows[i].json(), e.path);
      core::require(value != nullptr, "{}: results.json of {} has no `{}`. Correct the path.",
                    e.where(bounds_of(e).front().key), rows[i].id(), e.path);
      all.try_emplace(core::text_of(e.place, e.place.size()), Judged{&e}).first->second.values.push_back(value);
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> misses(const Point& point, const Row& row) {
  const std::string run = point.swept.empty() ? "" : fmt::format(" ({})", label(point.swept));
  std::vector<std::string> lines;
  for (const Expectation& e : point.expect) {
    const Json* value = find(row.json(), e.path);
    for (const Bound& bound : bounds_of(e)) {
      if (value == nullptr) {
        lines.push_back(fmt::format("{}: results.json has no `{}`{}.", e.where(bound.key), e.path, run));
      } else if (!bound.passes(e, *value)) {
        lines.push_back(fmt::format("{}: the result is {}, {} {}{}.", e.where(bound.key), text_of(*value),
                                    bound.missed_by, bound.limit, run));
      }
    }
  }
  return lines;
}

std::vector<std::string> update_expectations(const std::string& file, const std::vector<Point>& points,
                                             const std::vector<Row>& rows) {
  std::string text = core::read_file(file);
  std::vector<std::string> lines;
  for (const auto& [place, of_place] : judged(points, rows)) {
    const Expectation& e = *of_place.expectation;
    for (const Bound& bound : bounds_of(e)) {
      const bool all = std::all_of(of_place.values.begin(), of_place.values.end(),
                                   [&](const Json* value) { return bound.passes(e, *value); });
      if (all) continue;
      const core::Node value = fitting(e, bound, of_place.values);
      std::vector<core::PathStep> steps = e.place;
      steps.emplace_back(std::string(bound.key));
      text = core::replace_scalar(text, file, steps, value);
      lines.push_back(fmt::format("{}: {} -> {}", e.where(bound.key), bound.limit, core::to_inline_yaml(value)));
    }
  }
  if (!lines.empty()) core::write_atomically(file, text);
  return lines;
}

}  // namespace experiments
