#include "experiments/results/results.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include "core/io/csv.h"
#include "core/machine.h"
#include "experiments/version.h"

namespace experiments {

namespace {

Json perplexity_json(const Perplexity& p) {
  Json json = {{"corpus", p.corpus},
               {"protocol", p.protocol},
               {"bos", p.bos},
               {"seq_len", p.seq_len},
               {"windows", p.windows},
               {"tokens", p.tokens},
               {"token_hash", p.token_hash},
               {"nll", p.nll()},
               {"ppl", p.ppl()},
               {"ppl_stderr", p.ppl_stderr()},
               {"ppl_stderr_tokens", p.ppl_stderr_tokens()}};
  if (const auto& distance = p.scores.distance) {
    json["kl_mean"] = p.kl_mean();
    json["kl_p99"] = distance->p99;
    json["kl_max"] = distance->max;
    json["top1_agreement"] = p.top1_agreement();
  }
  return json;
}

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

// full: null where there is nothing to compare with.
Json generation_json(const Prompts& prompts, const Continuations& written, const Continuations* full) {
  Json json = {{"corpus", prompts.corpus},         {"prompts", prompts.count},
               {"prompt_tokens", prompts.length},  {"new_tokens", written.new_tokens},
               {"token_hash", prompts.token_hash}, {"repeated_4grams", written.repeated_4grams()}};
  if (full == nullptr) return json;
  const Likeness like = likeness(*full, written);
  json["same_tokens"] = like.same_tokens;
  json["agreement"] = like.mean_agreement();
  json["agreement_by_position"] = like.agreement;
  return json;
}

Json latency_json(const Findings& f) {
  const Latency& latency = *f.latency;
  Json contexts = Json::array();
  for (const LatencyAt& at : latency.at) {
    const double rate = at.tokens_per_s.mean * static_cast<double>(f.bill.all.bytes_read);
    contexts.push_back({{"context", at.context},
                        {"ttft_ms", at.ttft_ms.mean},
                        {"ttft_ms_sd", at.ttft_ms.sd},
                        {"prompt_tokens_per_s", at.prompt_tokens_per_s.mean},
                        {"prompt_tokens_per_s_sd", at.prompt_tokens_per_s.sd},
                        {"tokens_per_s", at.tokens_per_s.mean},
                        {"tokens_per_s_sd", at.tokens_per_s.sd},
                        {"bandwidth_fraction", rate / latency.read_bandwidth}});
  }
  const double at_16_bits = 2.0 * static_cast<double>(f.bill.all.weights);
  return {{"contexts", std::move(contexts)},
          {"generate", f.spec->measure.latency.generate},
          {"repetitions", f.spec->measure.latency.repetitions},
          {"weight_bytes_per_token", f.bill.all.bytes_read},
          {"read_bandwidth", latency.read_bandwidth},
          {"peak_rss_bytes", latency.peak_rss_bytes},
          {"file_bytes", f.file_bytes},
          {"compression", at_16_bits / static_cast<double>(f.file_bytes)},
          {"load_average", latency.load_average},
          {"busy_cores_of_others", or_null(latency.others)}};
}

Json measured_json(const std::vector<Perplexity>& measurements) {
  Json list = Json::array();
  for (const Perplexity& p : measurements) list.push_back(perplexity_json(p));
  return {{"perplexity", std::move(list)}};
}

Json baseline_json(const Findings& f) {
  if (!f.baseline) return nullptr;
  Json json = measured_json(*f.baseline);
  if (f.written_by_full) json["generation"] = generation_json(*f.prompts, *f.written_by_full, nullptr);
  return json;
}

Json quantized_json(const Findings& f) {
  Json json = measured_json(f.quantized);
  if (f.written)
    json["generation"] = generation_json(*f.prompts, *f.written, f.written_by_full ? &*f.written_by_full : nullptr);
  if (f.latency) json["latency"] = latency_json(f);
  return json;
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

Json results_json(const Findings& f, int64_t bytes_on_disk) {
  Json swept = Json::object();
  for (const auto& [key, value] : f.swept) swept[key] = value;
  Json stages = Json::array();
  for (const StageRecord& s : f.stages) {
    stages.push_back({{"name", s.name},
                      {"version", s.version},
                      {"seconds", s.seconds},
                      {"peak_rss_bytes", s.peak_rss_bytes},
                      {"cached", s.cached}});
  }
  Json fallbacks = Json::array();
  for (const quant::ModuleReport& m : f.modules) {
    if (!m.fallback.empty()) fallbacks.push_back({{"module", m.path}, {"reason", m.fallback}});
  }
  return {{"schema", 1},
          {"name", f.spec->name},
          {"id", f.id},
          {"seed", f.spec->seed},
          {"swept", swept},
          {"commit", commit()},
          {"versions", {{"libtorch", TORCH_VERSION}}},
          {"machine", machine_json(*f.spec)},
          {"hashes",
           {{"config", f.config_hash},
            {"model", f.model_hash},
            {"tokenizer", f.tokenizer_hash},
            {"calibration_tokens", f.calibration_tokens.empty() ? Json(nullptr) : Json(f.calibration_tokens)},
            {"training_tokens", f.training_tokens.empty() ? Json(nullptr) : Json(f.training_tokens)},
            {"codes", f.bill.code_hash ? Json(*f.bill.code_hash) : Json(nullptr)}}},
          {"baseline", baseline_json(f)},
          {"quantized", quantized_json(f)},
          {"bits", bits_json(f.bill, bytes_on_disk)},
          {"macs_per_token", f.bill.all.macs},
          {"mac_multiplier", f.bill.mac_multiplier},
          {"weight_bytes_per_token", f.bill.all.bytes_read},
          {"kv_bytes_at_8192", f.bill.kv_bytes},
          {"runtime", f.runtime},
          {"replication", replication_json(f.spec->replication, f.efficiency)},
          {"qat", training_json(f.training, stored_bits(f.bill.all))},
          {"stages", stages},
          {"fallbacks", fallbacks}};
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

std::string windows_csv(const Findings& f) {
  core::CsvTable table({"model", "corpus", "protocol", "window", "tokens", "nll_sum", "kl_sum", "top1_agree"});
  const auto add = [&](const char* which, const std::vector<Perplexity>& measurements) {
    for (const Perplexity& p : measurements) {
      const auto& distance = p.scores.distance;
      for (size_t n = 0; n < p.scores.window_nll.size(); ++n) {
        table.row(which, p.corpus, p.protocol, n, p.tokens / p.windows, p.scores.window_nll[n],
                  distance ? core::csv_cell(distance->window_kl[n]) : "",
                  distance ? core::csv_cell(distance->window_top1[n]) : "");
      }
    }
  };
  if (f.baseline) add("baseline", *f.baseline);
  add("quantized", f.quantized);
  return table.text();
}

}  // namespace experiments
