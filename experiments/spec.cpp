#include "experiments/spec.h"

#include <algorithm>

#include "core/error.h"
#include "experiments/controls.h"

namespace experiments {

void ModelConfig::keys(core::Keys& k) {
  k.key("path", path, "model directory in Hugging Face format, or its name under data/ or $REFRAIN_DATA");
  k.key("dtype", dtype, "dtype of the computation; auto: float32", {"auto", "float32", "bfloat16", "float16"});
  k.key("residency", residency,
        "weights in memory; resident: all; stream: one block at a time, of feed-forward networks one linear; auto: "
        "stream when all "
        "weights exceed half of the memory",
        {"stream", "resident", "auto"})
      .not_identity();
  k.key("spill_above", spill_above,
        "hidden states kept in memory, GB (10^9 bytes); what exceeds it lies in a temporary file below `out`", {0, 1e6})
      .not_identity();
}

void MeasureConfig::keys(core::Keys& k) {
  k.list("perplexity", perplexity, "perplexities to measure, each on one corpus by one protocol");
  k.key("batch_tokens", batch_tokens, "tokens that run through a block at once; at least one window", {1, 1 << 20});
  k.key("kl", kl,
        "measure KL divergence and top-1 agreement against the full-precision model, whose final hidden states stay on "
        "disk for it");
  k.section("generation", generation, "what the model writes, beside the full-precision model; nothing unless given")
      .only_if_given();
  k.section("latency", latency, "how fast it reads and writes, one sequence at a time; nothing unless given")
      .only_if_given();
}

void MeasureConfig::check() const {
  core::require(!writes() || !generation.corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/test.",
                where("generation"));
}

void MachineConfig::keys(core::Keys& k) {
  k.key("cache_bytes", cache_bytes,
        "a block that runs again while it is still in a cache of this size is billed as read once; 0: it is read again",
        {0, 1LL << 40});
}

void RuntimeConfig::keys(core::Keys& k) {
  k.key("linears", linears,
        "how quantized linears run; dense: the weight is decoded for every product; packed: codes are multiplied as "
        "they are, in float32; packed_int8: by int8 inputs, rounded per token",
        {"dense", "packed", "packed_int8"});
  k.key("rows", rows, "packed: products of more tokens than this decode the weight, a tile at a time", {0, 1 << 20});
}

void SweepConfig::keys(core::Keys& k) {
  k.node("grid", grid, "map of dotted keys to lists of values: one run for every combination");
  k.node("cases", cases, "list of maps of dotted keys to values: one run each, times the grid if there is one");
}

void Spec::keys(core::Keys& k) {
  const core::Range any_seed{0, 4294967295};
  k.key("name", name, "folder of the results under `out`, e.g. qwen/group_size");
  k.key("seed", seed, "of every random number: calibration, rounding, noise", any_seed);
  k.key("seeds", seeds, "in place of seed: every point runs once per seed, and the table gets their mean ± sd",
        any_seed)
      .only_if_given();
  k.key("device", device, "where to compute; auto: cuda, else mps, else cpu", {"auto", "cpu", "mps", "cuda"});
  k.section("model", model, "the model under test");
  k.section("calibration", calibration, "the text on which inputs of linears are measured, where that is needed");
  k.list("transform", transform,
         "what is done to a block before it is quantized, in this order; each keeps what the block computes")
      .only_if_given();
  k.section("quant", quant, "how its weights are quantized");
  k.section("replication", replication, "how the codes are used several times");
  k.section("qat", qat, "training of the quantization parameters; codes stay what they are");
  k.section("measure", measure, "what is measured, beside the full-precision model");
  k.section("runtime", runtime, "how the quantized model runs while it is measured");
  k.section("machine", machine, "the machine that the bill is for");
  k.key("checkpoint", checkpoint, "whether the quantized model is kept in the run directory", {"keep", "discard"});
  k.section("sweep", sweep, "many runs from one file").only_if_given();
  k.node("expect", expect,
         "map of paths in results.json to bounds (min, max, equal, tolerance, point): a regression test")
      .only_if_given()
      .not_identity();
  k.key("out", out, "directory of all results").not_identity();
  k.key("threads", threads, "threads of the computation; 0: physical cores that this process may use", {0, 4096})
      .not_identity();
  k.key("quiet", quiet, "print the table and errors only").not_identity();
}

void Spec::check() const {
  core::require(!name.empty(), "{}: name is missing. Give the experiment one, e.g. name: qwen/group_size.",
                where("name"));
  const bool leaves = name.starts_with("/") || name.find("..") != std::string::npos;
  core::require(!leaves && !name.starts_with("."), "{}: `{}` is not a folder below {}. Use letters, digits, - and /.",
                where("name"), name, out);
  check_seeds();
  const bool sequential =
      quant.method != quant::QuantConfig::kNone && quant.methods.at(quant.method)->true_sequential();
  core::require(!sequential || calibration.propagate_error,
                "{}: true_sequential measures inputs behind quantized linears, propagate_error: false behind none. "
                "Leave one of them out.",
                calibration.where("propagate_error"));
  check_transforms();
  core::require(
      !replication.selected() || !replication.chosen().needs_codes() || quant.method != quant::QuantConfig::kNone,
      "{}: {} uses codes several times, but quant.method: none makes none. Choose a method.",
      replication.where("strategy"), replication.strategy);
  check_qat();
  core::require(!out.empty(), "{}: out is empty. Name a directory, e.g. runs.", where("out"));
  core::require(!model.path.empty(), "{}: model.path is missing. Name a model directory, e.g. tiny-qwen3.",
                where("model"));
}

void Spec::check_transforms() const {
  if (transform.empty()) return;
  core::require(quant.method != quant::QuantConfig::kNone,
                "{}: a transform changes nothing by itself, and quant.method: none leaves the model as it is. Choose a "
                "method.",
                where("transform"));
  const bool has_own = quant.methods.at(quant.method)->transform() != nullptr;
  for (const quant::TransformItem& item : transform) {
    const std::string name = item.chosen().name;
    core::require(!has_own || name != quant.method, "{}: method: {} applies it itself. Remove one of the two.",
                  item.where(name), quant.method);
  }
}

void Spec::check_qat() const {
  core::require(!qat.selected() || quant.method != quant::QuantConfig::kNone,
                "{}: quant.method: none leaves no quantization parameters to train. Choose a method.",
                qat.where("steps"));
}

void Spec::check_seeds() const {
  if (!given("seeds")) return;
  core::require(!given("seed"), "{}: seed is given too ({}). Keep one of them.", where("seeds"), where("seed"));
  core::require(!seeds.empty(), "{}: the list is empty. Name one seed per run, e.g. [1, 2, 3].", where("seeds"));
  for (size_t i = 0; i < seeds.size(); ++i) {
    const bool again = std::count(seeds.begin(), seeds.begin() + static_cast<int64_t>(i), seeds[i]) > 0;
    core::require(!again, "{}: seed {} is there twice. Name each once.", where("seeds"), seeds[i]);
  }
}

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
  std::vector<Point> points;
  int64_t group = 0;
  for (const Swept& swept : times_grid(cases_of(sweep), sweep)) {
    core::Node document = root;
    std::vector<std::pair<std::string, std::string>> columns;
    for (const auto& [key, value] : swept) {
      require_sweepable(key, value);
      core::assign(document, key, value);
      const bool asks_for_runs = key == "replication.controls" || key == "replication.ladder";
      if (!asks_for_runs) columns.emplace_back(key, value.is_scalar() ? value.scalar : core::to_inline_yaml(value));
    }
    for (Variant& variant : with_controls(std::move(document))) {
      Point run;  // a fresh one each: copies of a Spec share their methods and strategies
      run.group = group;
      run.control = variant.control;
      run.swept = columns;
      if (!run.control.empty()) run.swept.emplace_back("replication.control", run.control);
      for (auto& [key, value] : variant.swept) set(run.swept, key, value);
      core::bind(variant.document, run.spec);
      for (Point& one : per_seed(std::move(variant.document), std::move(run))) points.push_back(std::move(one));
    }
    ++group;
  }
  if (expects) add_expectations(expect, points);
  return points;
}

}  // namespace experiments
