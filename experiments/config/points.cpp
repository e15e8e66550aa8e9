#include "experiments/config/points.h"

#include <algorithm>

#include "core/error.h"
#include "experiments/config/controls.h"
#include "quant/grids/ggml_grid.h"

namespace experiments {

namespace {

using Swept = std::vector<std::pair<std::string, core::Node>>;  // one point: dotted key, value

std::vector<Swept> cases_of(const SweepConfig& sweep) {
  if (sweep.cases.is_null()) return {{}};
  core::require(sweep.cases.is_list() && !sweep.cases.items.empty(),
                "{} must be a list of maps, not {}. Write one map of dotted keys per run.", sweep.where("cases"),
                core::shown(sweep.cases));
  std::vector<Swept> cases;
  for (const core::Node& item : sweep.cases.items) {
    core::require(item.is_map(), "{} must be a map of dotted keys, not {}.", core::at(item.origin, "sweep.cases"),
                  core::shown(item));
    Swept& swept = cases.emplace_back(item.entries);
    for (auto& [key, value] : swept) core::annotate(value, fmt::format("sweep.cases[{}]", cases.size() - 1));
  }
  return cases;
}

// What one call has once: its place, its voice, its threads. `sweep` is not a value at all.
void require_sweepable(const std::string& key, const core::Node& value) {
  const std::string root = key.substr(0, key.find_first_of(".["));
  const bool whole = root == "name" || root == "out" || root == "quiet" || root == "threads" || root == "seeds" ||
                     root == "sweep" || root == "expect";
  core::require(!whole, "{} holds for the whole file. Take it out of the sweep.", core::at(value.origin, key));
}

bool sets(const Swept& point, const std::string& key) {
  return std::any_of(point.begin(), point.end(), [&](const auto& entry) { return entry.first == key; });
}

std::vector<Swept> times_grid(std::vector<Swept> points, const SweepConfig& sweep) {
  if (sweep.grid.is_null()) return points;
  core::require(sweep.grid.is_map(), "{} must be a map of dotted keys to lists, not {}.", sweep.where("grid"),
                core::shown(sweep.grid));
  for (const auto& [key, values] : sweep.grid.entries) {
    core::require(values.is_list() && !values.items.empty(), "{} must be a list of values, not {}.",
                  core::at(values.origin, "sweep.grid." + key), core::shown(values));
    std::vector<Swept> product;
    for (const Swept& point : points) {
      for (core::Node value : values.items) {
        core::annotate(value, "sweep.grid");
        core::require(!sets(point, key), "{} is in sweep.cases too. Take it out of one of them.",
                      core::at(value.origin, key));
        product.push_back(point);
        product.back().emplace_back(key, std::move(value));
      }
    }
    points = std::move(product);
  }
  return points;
}

// Keys are set one after the other: a map behind one of its own keys would take its value away without a word.
void require_nothing_lost(const Swept& point) {
  for (size_t later = 1; later < point.size(); ++later) {
    const auto& [map, value] = point[later];
    for (size_t earlier = 0; earlier < later; ++earlier) {
      const std::string& key = point[earlier].first;
      core::require(!key.starts_with(map + ".") && !key.starts_with(map + "["),
                    "{} replaces {}, which the same run sets before it. Write that key inside of it.",
                    core::at(value.origin, map), key);
    }
  }
}

// Takes a top-level key out of the document; null if it is not there.
core::Node take(core::Node& root, const std::string& key) {
  core::Node* node = root.find(key);
  if (node == nullptr) return {};
  core::Node taken = std::move(*node);
  std::erase_if(root.entries, [&](const auto& entry) { return entry.first == key; });
  return taken;
}

SweepConfig take_sweep(core::Node& root) {
  SweepConfig sweep;
  const bool given = root.find("sweep") != nullptr;
  if (const core::Node node = take(root, "sweep"); given) core::bind(node, sweep, "sweep");
  return sweep;
}

// Gives every point its expectations; each must be meant for some point.
void add_expectations(const core::Node& expect, std::vector<Point>& points) {
  std::vector<core::Node> resolved;
  for (Point& point : points) resolved.push_back(core::to_node(point.spec));
  for (const Expectation& expectation : read_expectations(expect)) {
    bool used = false;
    for (size_t i = 0; i < points.size(); ++i) {
      if (!applies(expectation, resolved[i])) continue;
      points[i].expect.push_back(expectation);
      used = true;
    }
    core::require(used, "{} is none of the runs. Give keys and values of a run, e.g. {{quant.weight.bits: 4}}.",
                  expectation.where("point"));
  }
}

// The points of a bound document: itself, or once per seed.
std::vector<Point> per_seed(core::Node document, Point point) {
  if (point.spec.seeds.empty()) return {std::move(point)};
  const core::Node seeds = take(document, "seeds");
  std::vector<Point> points;
  for (const core::Node& seed : seeds.items) {
    Point& one = points.emplace_back();
    one.swept = point.swept;
    one.group = point.group;
    one.control = point.control;
    one.inactive = point.inactive;
    one.swept.emplace_back("seed", seed.scalar);
    core::assign(document, "seed", seed);
    core::bind(document, one.spec);
  }
  return points;
}

// Of two values of a column the later one holds.
void set(std::vector<std::pair<std::string, std::string>>& swept, const std::string& key, const std::string& value) {
  std::erase_if(swept, [&](const auto& entry) { return entry.first == key; });
  swept.emplace_back(key, value);
}

// ---- keys of the whole file that a point does not read ----

// A key of quant.weight that the document gives and that its other keys leave unread.
struct Unread {
  InactiveKey key;
  std::string where;  // "configs/a.yaml:5: quant.weight.range", for messages
};

// The document's method if its codes have their grid; else "".
std::string method_that_brings_codes(const core::Node& document) {
  const core::Node* name = core::lookup(document, "quant.method");
  if (name == nullptr || !name->is_scalar()) return {};
  const quant::Methods methods = quant::make_methods();
  const auto found = methods.find(name->scalar);
  return found != methods.end() && found->second->brings_codes() ? name->scalar : "";
}

// What a document gives in quant.weight. Mistakes in it are found when the whole document is bound.
std::vector<Unread> unread_keys(const core::Node& document) {
  const core::Node* given = core::lookup(document, "quant.weight");
  if (given == nullptr || !given->is_map()) return {};
  quant::WeightConfig weight;
  replication::ReplicationConfig replication;
  try {
    core::bind(*given, weight, "quant.weight");
    if (const core::Node* node = document.find("replication")) core::bind(*node, replication, "replication");
  } catch (const core::UserError&) {
    return {};
  }
  const std::vector<std::string> by_strategy = replication.unread();
  const std::string method = method_that_brings_codes(document);
  quant::WeightConfig standard;
  const core::Node defaults = core::to_node(standard);
  std::vector<Unread> all;
  for (const auto& [key, value] : given->entries) {
    std::string reason = weight.unread(key);
    const core::Node* of_default = defaults.find(key);  // given as the default it says nothing
    const bool differs = of_default == nullptr || of_default->scalar != value.scalar;
    if (differs && std::count(by_strategy.begin(), by_strategy.end(), key) > 0)
      reason = "replication.strategy: " + replication.strategy;
    if (!method.empty()) reason = "quant.method: " + method;
    if (reason.empty()) continue;
    all.push_back({{"quant.weight." + key, value.is_scalar() ? value.scalar : core::to_inline_yaml(value), reason},
                   weight.where(key)});
  }
  return all;
}

// Whether the point itself gives the key, as opposed to the whole file.
bool gives(const Swept& point, const std::string& key) {
  return std::any_of(point.begin(), point.end(),
                     [&](const auto& entry) { return key == entry.first || key.starts_with(entry.first + "."); });
}

// Takes the keys out of the documents that have no use for them. documents: of all points, in the order of `swept`.
std::vector<std::vector<InactiveKey>> take_inactive(std::vector<core::Node>& documents,
                                                    const std::vector<Swept>& swept) {
  std::vector<std::vector<Unread>> unread;
  for (const core::Node& document : documents) unread.push_back(unread_keys(document));
  const auto reads = [&](size_t i, const std::string& key) {
    const auto is_key = [&](const Unread& one) { return one.key.key == key; };
    return core::lookup(documents[i], key) != nullptr && std::none_of(unread[i].begin(), unread[i].end(), is_key);
  };
  std::vector<std::vector<InactiveKey>> inactive(documents.size());
  for (size_t i = 0; i < documents.size(); ++i) {
    for (const Unread& one : unread[i]) {
      if (documents.size() == 1 || gives(swept[i], one.key.key)) continue;  // binding refuses it
      bool read = false;
      for (size_t j = 0; j < documents.size() && !read; ++j) read = reads(j, one.key.key);
      core::require(read, "{} is not read with {}. Remove one of the two.", one.where, one.key.reason);
      inactive[i].push_back(one.key);
    }
  }
  for (size_t i = 0; i < documents.size(); ++i) {
    for (const InactiveKey& key : inactive[i]) {
      core::Node& quant = *documents[i].find("quant");
      core::Node& weight = *quant.find("weight");
      std::erase_if(weight.entries, [&](const auto& entry) { return "quant.weight." + entry.first == key.key; });
      if (weight.entries.empty())
        std::erase_if(quant.entries, [](const auto& entry) { return entry.first == "weight"; });
    }
  }
  return inactive;
}

// Writes what calibration.targets: auto and true_sequential: auto stand for, so that controls are coded as their
// replica.
void settle_targets(core::Node& document) {
  Spec spec;
  core::bind(document, spec);
  if (spec.calibration.targets == "auto")
    core::assign(document, "calibration.targets", core::make_string(spec.corrects_targets() ? "output" : "weight"));
  if (spec.calibration.true_sequential == "auto")
    core::assign(document, "calibration.true_sequential", core::make_bool(spec.is_sequential()));
}

}  // namespace

std::vector<Point> read_points(const std::string& file, const std::vector<std::string>& overrides) {
  core::Node root = core::read_yaml(file);
  for (const std::string& text : overrides) {
    auto [path, value] = core::parse_override(text);
    core::assign(root, path, std::move(value));
  }
  const SweepConfig sweep = take_sweep(root);
  const bool expects = root.find("expect") != nullptr;
  const core::Node expect = take(root, "expect");
  const std::vector<Swept> all = times_grid(cases_of(sweep), sweep);
  for (const Swept& point : all) require_nothing_lost(point);
  std::vector<core::Node> documents;
  for (const Swept& swept : all) {
    core::Node& document = documents.emplace_back(root);
    for (const auto& [key, value] : swept) {
      require_sweepable(key, value);
      core::assign(document, key, value);
    }
    quant::expand_presets(document);
  }
  const std::vector<std::vector<InactiveKey>> inactive = take_inactive(documents, all);
  std::vector<Point> points;
  for (size_t i = 0; i < documents.size(); ++i) {
    std::vector<std::pair<std::string, std::string>> columns;
    for (const auto& [key, value] : all[i]) {
      const bool asks_for_runs = key == "replication.controls" || key == "replication.ladder";
      if (!asks_for_runs) columns.emplace_back(key, value.is_scalar() ? value.scalar : core::to_inline_yaml(value));
    }
    settle_targets(documents[i]);
    for (Variant& variant : with_controls(std::move(documents[i]))) {
      Point run;
      run.group = static_cast<int64_t>(i);
      run.control = variant.control;
      run.swept = columns;
      run.inactive = inactive[i];
      if (!run.control.empty()) run.swept.emplace_back("replication.control", run.control);
      for (auto& [key, value] : variant.swept) set(run.swept, key, value);
      core::bind(variant.document, run.spec);
      for (Point& one : per_seed(std::move(variant.document), std::move(run))) points.push_back(std::move(one));
    }
  }
  if (expects) add_expectations(expect, points);
  return points;
}

}  // namespace experiments
