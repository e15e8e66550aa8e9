#include "experiments/config/expect.h"

#include "core/config/scalar.h"
#include "core/error.h"

namespace experiments {

namespace {

bool same_value(const core::Node& a, const core::Node& b) {
  if (!a.is_scalar() || !b.is_scalar()) return a == b;
  const auto x = core::parse_number(a.scalar), y = core::parse_number(b.scalar);
  return a.scalar == b.scalar || (x && y && *x == *y);
}

Expectation read_one(const std::string& path, const core::Node& bounds, std::vector<core::PathStep> place) {
  Expectation expectation;
  expectation.path = path;
  std::string name = "expect." + path;
  if (place.size() == 3) name += fmt::format("[{}]", std::get<size_t>(place[2]));
  expectation.place = std::move(place);
  core::require(bounds.is_map(), "{} must be a map of bounds, not {}. Write e.g. {{max: 21.4}}.",
                core::at(bounds.origin, name), core::shown(bounds));
  core::bind(bounds, expectation, name);
  return expectation;
}

}  // namespace

void Expectation::keys(core::Keys& k) {
  k.key("min", min, "the least value that passes");
  k.key("max", max, "the largest value that passes");
  k.node("equal", equal, "the value itself, a number or a text");
  k.key("tolerance", tolerance, "how far a number may be from `equal`", {0, core::kInfinity});
  k.node("point", point, "map of dotted keys to values: only runs with these values are meant");
}

void Expectation::check() const {
  core::require(given("min") || given("max") || given("equal"),
                "{} is missing, and so are max and equal. Give one of them.", where("min"));
  core::require(!given("equal") || !(given("min") || given("max")), "{} stands alone. Take min and max out.",
                where("equal"));
  core::require(!given("min") || !given("max") || min <= max, "{} is above max = {}. Lower it.", where("min"), max);
  core::require(equal.is_null() || equal.is_scalar(), "{} must be a number or a text, not {}.", where("equal"),
                core::shown(equal));
  const bool number = !equal.quoted && core::parse_number(equal.scalar);
  core::require(!given("tolerance") || number, "{} needs a number in `equal`. Take it out.", where("tolerance"));
  core::require(point.is_null() || point.is_map(), "{} must be a map of dotted keys to values, not {}.", where("point"),
                core::shown(point));
}

std::vector<Expectation> read_expectations(const core::Node& expect) {
  std::vector<Expectation> expectations;
  core::require(expect.is_map(),
                "{} must be a map of paths in results.json to bounds, not {}. Write e.g. "
                "\"quantized.perplexity[0].ppl\": {{max: 21.4}}.",
                core::at(expect.origin, "expect"), core::shown(expect));
  for (const auto& [path, bounds] : expect.entries) {
    core::steps_of(path, core::at(bounds.origin, "expect"));  // refuses what is not a path
    if (!bounds.is_list()) {
      expectations.push_back(read_one(path, bounds, {"expect", path}));
      continue;
    }
    core::require(!bounds.items.empty(), "{} is an empty list. Give bounds, or remove it.",
                  core::at(bounds.origin, "expect." + path));
    for (size_t i = 0; i < bounds.items.size(); ++i) {
      expectations.push_back(read_one(path, bounds.items[i], {"expect", path, i}));
    }
  }
  return expectations;
}

bool applies(const Expectation& expectation, const core::Node& resolved) {
  for (const auto& [key, value] : expectation.point.entries) {
    const core::Node* of_point = core::lookup(resolved, key);
    if (of_point == nullptr || !same_value(*of_point, value)) return false;
  }
  return true;
}

}  // namespace experiments
