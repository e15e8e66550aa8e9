#include "experiments/run/record.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/machine.h"
#include "experiments/measure/measures.h"
#include "experiments/run/version.h"

namespace experiments {

namespace {

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

// The measurements of one model by measure: a list, or one object. A list is there although it is empty.
Json measured_json(const Run& run, const std::vector<std::optional<Found>>& found) {
  Json json = Json::object();
  for (const MeasureKind& kind : measure_kinds()) {
    if (kind.has_sections()) json[kind.name] = Json::array();
  }
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) continue;
    const Measurement& measurement = run.measurements[i];
    if (measurement.is_list) json[measurement.name].push_back(found[i]->values);
    if (!measurement.is_list) json[measurement.name] = found[i]->values;
  }
  return json;
}

// null: nothing stands in front of the texts.
Json prefix_json(const Run& run, const RunRecord& record) {
  if (record.prefix.empty()) return nullptr;
  return {{"tokens", record.prefix}, {"baseline_without", measured_json(run, record.without_prefix)}};
}

double ratio(int64_t bits, int64_t weights) { return static_cast<double>(bits) / static_cast<double>(weights); }

// Bits per weight; the denominator of `codes` and `with_parameters` is the weights that quantization covers.
Json bits_json(const Bill& bill, int64_t bytes_on_disk) {
  const core::Cost &all = bill.all, &covered = bill.covered;
  const int64_t original = all.weights;  // every parameter of the model, a tied embedding once
  Json bits = {{"codes", nullptr}, {"with_parameters", nullptr}, {"at_4096", nullptr}};
  if (covered.weights > 0) {
    bits["codes"] = ratio(covered.code_bits, covered.weights);
    bits["with_parameters"] = ratio(covered.code_bits + covered.parameter_bits, covered.weights);
    bits["at_4096"] = ratio(covered.code_bits, covered.weights) + bill.parameters_at_4096;
  }
  bits["with_head"] = ratio(stored_bits(all), original);
  bits["file"] = bytes_on_disk > 0 ? Json(ratio(8 * bytes_on_disk, original)) : Json(nullptr);
  return bits;
}

Json machine_json(const Spec& spec) {
  return {
      {"cpu", core::cpu_name()},         {"memory_bytes", core::memory_bytes()},   {"system", core::system_name()},
      {"device", device_of(spec).str()}, {"dtype", c10::toString(dtype_of(spec))}, {"threads", at::get_num_threads()}};
}

// null: every code is used once.
Json replication_json(const replication::ReplicationConfig& config, const std::optional<Efficiency>& efficiency) {
  if (!config.selected()) return nullptr;
  Json json = {{"strategy", config.strategy}, {"control", config.control}, {"collapsed", config.collapses()}};
  for (const char* key :
       {"linears", "extra_bits", "output_error", "single_output_error", "eta", "gain_bits", "eta_kl", "gain_bits_kl"})
    json[key] = nullptr;
  if (!efficiency) return json;
  json["extra_bits"] = efficiency->extra_bits;
  if (efficiency->linears == 0) return json;  // of whole blocks: no error of a linear tells what they do
  json["linears"] = efficiency->linears;
  json["output_error"] = efficiency->error;
  json["single_output_error"] = efficiency->single_error;
  json["eta"] = or_null(efficiency->eta());
  json["gain_bits"] = or_null(efficiency->gain_bits());
  return json;
}

}  // namespace

Json results_json(const Run& run, const RunRecord& record, int64_t bytes_on_disk) {
  const Spec& spec = run.spec();
  Json swept = Json::object();
  for (const auto& [key, value] : run.point.swept) swept[key] = value;
  Json stages = Json::array();
  for (const StageRecord& s : record.stages) {
    Json& stage = stages.emplace_back(Json{{"name", s.name},
                                           {"version", s.version},
                                           {"seconds", s.seconds},
                                           {"peak_rss_bytes", s.peak_rss_bytes},
                                           {"cached", s.cached}});
    if (!s.parts.empty()) stage["parts"] = s.parts;
  }
  Json fallbacks = Json::array();
  for (const quant::ModuleReport& m : record.modules) {
    if (!m.fallback.empty()) fallbacks.push_back({{"module", m.path}, {"reason", m.fallback}});
  }
  Json imprecise = Json::array();
  for (const quant::ModuleReport& m : record.modules) {
    if (m.imprecise_scales > 0) imprecise.push_back({{"module", m.path}, {"scales", m.imprecise_scales}});
  }
  const auto& code_hash = record.bill.code_hash;
  return {{"schema", 1},
          {"name", spec.name},
          {"id", run.id},
          {"seed", spec.seed},
          {"swept", swept},
          {"commit", commit()},
          {"versions", {{"libtorch", TORCH_VERSION}}},
          {"machine", machine_json(spec)},
          {"hashes",
           {{"config", config_hash(spec)},
            {"model", record.model_hash},
            {"tokenizer", run.files->tokenizer->hash()},
            {"calibration_tokens", run.calibration != nullptr ? Json(run.calibration->token_hash) : Json(nullptr)},
            {"training_tokens", run.training != nullptr ? Json(run.training->token_hash()) : Json(nullptr)},
            {"codes", code_hash ? Json(*code_hash) : Json(nullptr)}}},
          {"baseline", run.files->quantized ? Json(nullptr) : measured_json(run, record.baseline)},
          {"quantized", measured_json(run, record.quantized)},
          {"prefix", prefix_json(run, record)},
          {"bits", bits_json(record.bill, bytes_on_disk)},
          {"macs_per_token", record.bill.all.macs},
          {"mac_multiplier", record.bill.mac_multiplier},
          {"weight_bytes_per_token", record.bill.all.bytes_read},
          {"kv_bytes_at_8192", record.bill.kv_bytes},
          {"runtime", record.runtime},
          {"replication", replication_json(spec.replication, record.efficiency)},
          {"qat", training_json(record.training, stored_bits(record.bill.all))},
          {"stages", stages},
          {"fallbacks", fallbacks},
          {"imprecise_scales", imprecise}};
}

std::string modules_csv(const std::vector<quant::ModuleReport>& modules) {
  core::CsvTable table({"path", "out_features", "in_features", "method", "bits", "groups", "weight_error",
                        "output_error", "tokens", "weight_absmax", "weight_kurtosis", "weight_outlier_columns",
                        "input_absmax", "input_kurtosis", "input_outlier_columns", "seconds", "fallback", "note"});
  const auto known = [](std::optional<double> value) { return value ? core::csv_cell(*value) : std::string(); };
  for (const quant::ModuleReport& m : modules) {
    const auto input = [&](double quant::WeightShape::*value) {
      return m.input ? core::csv_cell((*m.input).*value) : std::string();
    };
    table.row(m.path, m.out_features, m.in_features, m.method, m.bits, m.groups, m.weight_error, known(m.output_error),
              m.tokens ? std::to_string(*m.tokens) : "", m.weight.absmax, m.weight.kurtosis, m.weight.outlier_columns,
              input(&quant::WeightShape::absmax), input(&quant::WeightShape::kurtosis),
              input(&quant::WeightShape::outlier_columns), m.seconds, m.fallback, m.note);
  }
  return table.text();
}

std::vector<std::pair<std::string, std::string>> item_files(const Run& run, const RunRecord& record) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const MeasureKind& kind : measure_kinds()) {
    const ItemFile items = kind.make()->items();
    if (items.name.empty()) continue;
    std::vector<std::string> columns{"model"};
    columns.insert(columns.end(), items.columns.begin(), items.columns.end());
    core::CsvTable table(columns);
    bool asked = kind.has_sections();  // the file of a list is there although it is empty
    const auto add = [&](const char* model, const std::vector<std::optional<Found>>& found) {
      for (size_t i = 0; i < found.size(); ++i) {
        if (!found[i] || run.measurements[i].name != kind.name) continue;
        asked = true;
        for (const std::vector<std::string>& item : found[i]->items) {
          std::vector<std::string> cells{model};
          cells.insert(cells.end(), item.begin(), item.end());
          table.add(cells);
        }
      }
    };
    if (!run.files->quantized) add("baseline", record.baseline);
    add("quantized", record.quantized);
    if (asked) files.emplace_back(items.name, table.text());
  }
  return files;
}

}  // namespace experiments
