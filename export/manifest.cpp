#include "export/manifest.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/config/scalar.h"
#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "core/io/gguf.h"
#include "core/io/hf_config.h"

namespace exports {

namespace {

using nlohmann::ordered_json;

constexpr int kSchema = 1;

// ---- the variables of a module: a node of the configuration as JSON, and back ----

ordered_json scalar_to_json(const core::Node& node) {
  if (node.quoted) return node.scalar;
  if (const auto integer = core::parse_integer(node.scalar)) return *integer;
  if (const auto number = core::parse_number(node.scalar)) return *number;
  if (node.scalar == "true" || node.scalar == "false") return node.scalar == "true";
  return node.scalar;
}

ordered_json to_json(const core::Node& node) {
  if (node.is_null()) return nullptr;
  if (node.is_scalar()) return scalar_to_json(node);
  ordered_json out = node.is_list() ? ordered_json::array() : ordered_json::object();
  for (const core::Node& item : node.items) out.push_back(to_json(item));
  for (const auto& [name, value] : node.entries) out[name] = to_json(value);
  return out;
}

core::Node scalar_to_node(const nlohmann::json& json) {
  if (json.is_boolean()) return core::make_bool(json.get<bool>());
  if (json.is_number_integer()) return core::make_integer(json.get<int64_t>());
  if (json.is_number()) return core::make_number(json.get<double>());
  return json.is_string() ? core::make_string(json.get<std::string>()) : core::Node{};
}

core::Node to_node(const nlohmann::json& json, const std::string& origin) {
  core::Node node;
  if (json.is_array()) {
    node = core::make_list();
    for (const auto& item : json) node.items.push_back(to_node(item, origin));
  } else if (json.is_object()) {
    node = core::make_map();
    for (const auto& [name, value] : json.items()) node.entries.emplace_back(name, to_node(value, origin));
  } else {
    node = scalar_to_node(json);
  }
  node.origin = origin;
  return node;
}

// ---- modules and steps ----

ordered_json to_json(const QuantizedModule& module) {
  quant::WeightConfig weight = module.weight;
  ordered_json json{{"decoder", module.format},
                    {"weight", to_json(core::to_node(weight))},
                    {"code_hash", module.code_hash},
                    {"seed", module.seed}};
  quant::ActivationConfig activation = module.activation;
  if (activation.covered()) json["activation"] = to_json(core::to_node(activation));
  if (!module.replication.is_null()) json["replication"] = to_json(module.replication);
  if (!module.codes_of.empty()) json["codes_of"] = module.codes_of;
  return json;
}

QuantizedModule read_module(const core::JsonObject& json, const std::string& path) {
  QuantizedModule module{
      json.text("decoder"), {}, json.text("code_hash"), static_cast<uint64_t>(json.integer("seed", 0)), {}, {}};
  const std::string where = "modules." + path + ".weight";
  core::bind(to_node(json.object("weight").raw(), json.where()), module.weight, where);
  if (json.has("activation")) {
    core::bind(to_node(json.object("activation").raw(), json.where()), module.activation,
               "modules." + path + ".activation");
  }
  if (json.has("replication")) module.replication = to_node(json.object("replication").raw(), json.where());
  module.codes_of = json.text("codes_of", "");
  core::require(module.weight.covered(), "{}: {}.bits is {}, which has no codes. Write the checkpoint again.",
                json.where(), where, module.weight.bits);
  return module;
}

ordered_json to_json(const QuantizedInputs& inputs) {
  quant::ActivationConfig activation = inputs.activation;
  return {{"activation", to_json(core::to_node(activation))}, {"seed", inputs.seed}};
}

QuantizedInputs read_inputs(const core::JsonObject& json, const std::string& path) {
  QuantizedInputs inputs{{}, static_cast<uint64_t>(json.integer("seed", 0))};
  const std::string where = "inputs." + path + ".activation";
  core::bind(to_node(json.object("activation").raw(), json.where()), inputs.activation, where);
  core::require(inputs.activation.covered(), "{}: {}.bits is {}, which quantizes nothing. Write the checkpoint again.",
                json.where(), where, inputs.activation.bits);
  return inputs;
}

ordered_json to_json(const core::Step& step) {
  ordered_json json{{"block", step.block}, {"replica", step.replica}, {"kv", "own"}};
  if (step.kv != core::Step::kOwn) json["kv"] = step.kv;
  if (step.parallel != 1) json["parallel"] = step.parallel;
  if (step.only != core::Half::none) json["only"] = step.only == core::Half::attention ? "attention" : "feed_forward";
  return json;
}

core::Step read_step(const core::JsonObject& json) {
  core::Step step{
      .block = json.integer("block"), .replica = json.integer("replica", 0), .parallel = json.integer("parallel", 1)};
  if (json.has("kv") && json.raw()["kv"] != "own") step.kv = json.integer("kv");
  if (json.has("only")) {
    const std::string half = json.text("only");
    core::require(half == "attention" || half == "feed_forward",
                  "{}: only is `{}`; it must be attention or feed_forward. Write the checkpoint again.", json.where(),
                  half);
    step.only = half == "attention" ? core::Half::attention : core::Half::feed_forward;
  }
  return step;
}

core::Plan read_plan(const core::JsonObject& manifest) {
  const nlohmann::json& raw = manifest.raw();
  core::require(raw.contains("plan") && raw["plan"].is_array(),
                "{}: plan is missing or not a list. Write the checkpoint again.", manifest.where());
  core::Plan plan;
  for (const nlohmann::json& step : raw["plan"]) {
    plan.push_back(
        read_step(core::JsonObject::parse(step.dump(), fmt::format("{}: plan[{}]", manifest.where(), plan.size()))));
  }
  return plan;
}

Manifest without_plan(const core::JsonObject& json) {
  json.integer("schema");  // there at all
  json.require_value("schema", kSchema);
  Manifest manifest{json.where(), json.text("model"), json.text("commit", ""), {}, {}};
  const core::JsonObject modules = json.object("modules");
  for (const std::string& path : modules.keys()) manifest.modules[path] = read_module(modules.object(path), path);
  if (json.has("inputs")) {
    const core::JsonObject inputs = json.object("inputs");
    for (const std::string& path : inputs.keys()) manifest.inputs[path] = read_inputs(inputs.object(path), path);
  }
  manifest.untied = json.boolean("untied", false);
  if (json.has("records")) {
    const core::JsonObject records = json.object("records");
    for (const std::string& stage : records.keys()) manifest.records[stage] = records.text(stage);
  }
  return manifest;
}

ordered_json to_json(const Manifest& manifest, bool with_plan) {
  ordered_json json{{"schema", kSchema}, {"model", manifest.model}};
  if (!manifest.commit.empty()) json["commit"] = manifest.commit;
  if (with_plan) json["plan"] = ordered_json::array();
  for (const core::Step& step : manifest.plan) {
    if (with_plan) json["plan"].push_back(to_json(step));
  }
  json["modules"] = ordered_json::object();
  for (const auto& [path, module] : manifest.modules) json["modules"][path] = to_json(module);
  for (const auto& [path, inputs] : manifest.inputs) json["inputs"][path] = to_json(inputs);
  if (manifest.untied) json["untied"] = true;
  if (!manifest.records.empty()) json["records"] = manifest.records;
  return json;
}

// ---- in the keys of a sidecar ----

constexpr size_t kNumbersOfStep = 5;

core::Plan plan_of(const core::Gguf& sidecar) {
  const std::vector<int64_t>& numbers = sidecar.integers("refrain.plan");
  core::require(numbers.size() % kNumbersOfStep == 0,
                "{}: refrain.plan has {} numbers, not five a step. Export it again.", sidecar.where(), numbers.size());
  core::Plan plan;
  for (size_t i = 0; i < numbers.size(); i += kNumbersOfStep) {
    const int64_t only = numbers[i + 4];
    core::require(only >= 0 && only <= 2, "{}: refrain.plan runs half {} of a block. Export it again.", sidecar.where(),
                  only);
    plan.push_back({numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3],
                    only == 0   ? core::Half::none
                    : only == 1 ? core::Half::attention
                                : core::Half::feed_forward});
  }
  return plan;
}

}  // namespace

std::string shard_file(int64_t block) { return fmt::format("block-{:05}.safetensors", block); }
std::string description_file(int64_t block) { return fmt::format("block-{:05}.json", block); }

Manifest read_manifest(const std::string& file) {
  const auto json = core::JsonObject::read(file);
  Manifest manifest = without_plan(json);
  manifest.plan = read_plan(json);
  return manifest;
}

void write_manifest(const Manifest& manifest) {
  core::write_atomically(manifest.file, to_json(manifest, /*with_plan=*/true).dump(2) + "\n");
}

Manifest manifest_of(const std::string& model) {
  if (core::is_directory(model)) return read_manifest(model + "/" + kManifestFile);
  const core::Gguf sidecar = core::Gguf::open(model);
  Manifest manifest = without_plan(core::JsonObject::parse(sidecar.text("refrain.manifest"), model));
  manifest.plan = plan_of(sidecar);
  return manifest;
}

std::string manifest_in_sidecar(const Manifest& manifest) { return to_json(manifest, /*with_plan=*/false).dump(); }

std::vector<int32_t> plan_in_sidecar(const core::Plan& plan) {
  std::vector<int32_t> numbers;
  for (const core::Step& step : plan) {
    const int half = step.only == core::Half::none ? 0 : step.only == core::Half::attention ? 1 : 2;
    for (const int64_t number : {step.block, step.replica, step.kv, step.parallel, int64_t{half}})
      numbers.push_back(static_cast<int32_t>(number));
  }
  return numbers;
}

}  // namespace exports
