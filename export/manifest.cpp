#include "export/manifest.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/config/scalar.h"
#include "core/error.h"
#include "core/io/files.h"
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

}  // namespace

std::string shard_file(int64_t block) { return fmt::format("block-{:05}.safetensors", block); }
std::string description_file(int64_t block) { return fmt::format("block-{:05}.json", block); }

Manifest read_manifest(const std::string& file) {
  const auto json = core::JsonObject::read(file);
  json.integer("schema");  // there at all
  json.require_value("schema", kSchema);
  Manifest manifest{json.where(), json.text("model"), json.text("commit", ""), read_plan(json), {}};
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

void write_manifest(const Manifest& manifest) {
  ordered_json json{{"schema", kSchema}, {"model", manifest.model}};
  if (!manifest.commit.empty()) json["commit"] = manifest.commit;
  json["plan"] = ordered_json::array();
  for (const core::Step& step : manifest.plan) json["plan"].push_back(to_json(step));
  json["modules"] = ordered_json::object();
  for (const auto& [path, module] : manifest.modules) json["modules"][path] = to_json(module);
  for (const auto& [path, inputs] : manifest.inputs) json["inputs"][path] = to_json(inputs);
  if (manifest.untied) json["untied"] = true;
  if (!manifest.records.empty()) json["records"] = manifest.records;
  core::write_atomically(manifest.file, json.dump(2) + "\n");
}

}  // namespace exports
