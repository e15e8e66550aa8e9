// All arithmetic on frequencies is float32, because models were trained and published with frequencies rounded that
// way: at position 2,000 a frequency that is 1e-7 more exact already turns a pair by 1e-4.
#include "core/nn/rope_types.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/warn_once.h"

namespace core {

namespace {

constexpr double kDefaultTheta = 10000;

struct Request {
  const JsonObject& config;           // of the model
  std::optional<JsonObject> scaling;  // rope_keys
  int64_t head_width;                 // C
  double theta;                       // base of the wavelengths
  at::Tensor plain;                   // [C/2]: theta^(-2i/C), the original frequencies

  const JsonObject& keys() const { return *scaling; }
  double factor() const;
  double original_context() const;  // tokens that the model was trained on; absent: those that it is used on
};

double Request::factor() const {
  const double value = keys().number("factor");
  require(value >= 1.0, "{}: {} is {}, must be at least 1. Use the config.json of the original model.", keys().where(),
          keys().path_of("factor"), value);
  return value;
}

double Request::original_context() const {
  const char* key = "original_max_position_embeddings";
  return static_cast<double>(keys().has(key) ? keys().positive(key) : config.positive("max_position_embeddings"));
}

Frequencies keep(const Request& request) { return {request.plain, 1.0}; }

// Position interpolation (Chen 2023, arXiv 2306.15595): all positions divided by the factor.
Frequencies linear(const Request& request) { return {request.plain / request.factor(), 1.0}; }

// Index of the pair that turns `rotations` times over `context` tokens; not rounded.
double pair_with_rotations(double rotations, const Request& request, double context) {
  return static_cast<double>(request.head_width) * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(request.theta));
}

double yarn_attention_scale(const JsonObject& keys, double factor) {
  if (keys.has("attention_factor")) return keys.number("attention_factor");
  const double mscale = keys.number("mscale", 0), all_dim = keys.number("mscale_all_dim", 0);
  if (mscale == 0 || all_dim == 0) return yarn_temperature(factor, 1.0);
  return yarn_temperature(factor, mscale) / yarn_temperature(factor, all_dim);
}

// YaRN (Peng 2023, arXiv 2309.00071): fast pairs stay, slow pairs are interpolated, a ramp between.
Frequencies yarn(const Request& request) {
  const JsonObject& keys = request.keys();
  const double factor = request.factor();
  const double context = request.original_context();
  double low = pair_with_rotations(keys.number("beta_fast", 32), request, context);
  double high = pair_with_rotations(keys.number("beta_slow", 1), request, context);
  if (keys.boolean("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(request.head_width - 1));
  if (low == high) high += 0.001;
  const at::Tensor index = at::arange(request.head_width / 2, at::kFloat);
  const at::Tensor interpolated =
      ((index - low) / (high - low)).clamp(0, 1);  // share of the stretched frequency, [C/2]
  return {request.plain / factor * interpolated + request.plain * (1 - interpolated),
          yarn_attention_scale(keys, factor)};
}

// Llama 3.1 (Dubey 2024, arXiv 2407.21783): wavelengths beyond the old context divided by low_freq_factor are
// stretched, those below context / high_freq_factor stay, a ramp between.
Frequencies llama3(const Request& request) {
  const JsonObject& keys = request.keys();
  const double factor = request.factor();
  const double low = keys.number("low_freq_factor"), high = keys.number("high_freq_factor");
  const double context = request.original_context();
  require(0 < low && low < high,
          "{}: {} is {} and high_freq_factor is {}, the first must be positive and smaller. Use the "
          "config.json of the original model.",
          keys.where(), keys.path_of("low_freq_factor"), low, high);
  const at::Tensor wavelength = 2 * std::numbers::pi / request.plain;                 // [C/2], tokens
  const at::Tensor kept = ((context / wavelength - low) / (high - low)).clamp(0, 1);  // share of the original frequency
  return {(1 - kept) * request.plain / factor + kept * request.plain, 1.0};
}

// A factor per pair by which its frequency is divided, as GGUF files store Llama 3's stretching.
Frequencies factors(const Request& request) {
  const std::vector<double> values = request.keys().numbers("factors");
  const bool fits = std::ssize(values) == request.head_width / 2 &&
                    std::all_of(values.begin(), values.end(), [](double value) { return value > 0; });
  require(fits, "{}: {} must be {} positive numbers, one per pair. Use the original model.", request.keys().where(),
          request.keys().path_of("factors"), request.head_width / 2);
  return {request.plain / at::tensor(std::vector<float>(values.begin(), values.end())), 1.0};
}

struct RopeType {
  const char* name;
  Frequencies (*frequencies)(const Request&);
};
constexpr std::array kRopeTypes{RopeType{"default", keep}, RopeType{"linear", linear}, RopeType{"yarn", yarn},
                                RopeType{"llama3", llama3}, RopeType{"factors", factors}};

const RopeType& find_type(const JsonObject& scaling) {
  const std::string name = rope_type(scaling);
  const char* key = scaling.has("rope_type") ? "rope_type" : "type";
  std::string known;
  for (const RopeType& type : kRopeTypes) {
    if (name == type.name) return type;
    if (type.frequencies != factors) known += (known.empty() ? "" : ", ") + std::string(type.name);  // of GGUF alone
  }
  fail("{}: {} is {}, which is not implemented. Use a model with one of: {}.", scaling.where(), scaling.path_of(key),
       name, known);
}

// The keys of full_attention, where the object has an object per type of layer.
JsonObject of_full_attention(const JsonObject& keys) {
  for (const std::string& key : keys.keys()) {
    if (!keys.raw().at(key).is_object()) continue;
    require(keys.has("full_attention"), "{}: {} is not implemented. Use a model with full attention in every layer.",
            keys.where(), keys.path_of(key));
    return keys.object("full_attention");
  }
  return keys;
}

// As transformers completes the keys, so that two spellings of the same are equal.
nlohmann::json with_defaults(const JsonObject& keys, const JsonObject& config) {
  nlohmann::json all = keys.raw();
  all["rope_type"] = rope_type(keys);
  all["rope_theta"] = keys.number("rope_theta", config.number("rope_theta", kDefaultTheta));
  all.erase("type");
  return all;
}

}  // namespace

std::optional<JsonObject> rope_keys(const JsonObject& config) {
  std::optional<JsonObject> found;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key) || config.object(key).keys().empty()) continue;
    const JsonObject keys = of_full_attention(config.object(key));
    if (!found) {
      found = keys;
    } else if (with_defaults(*found, config) != with_defaults(keys, config)) {
      warn_once(
          fmt::format("{}: rope_scaling and rope_parameters disagree. rope_scaling is used, as transformers does.",
                      config.where()));
    }
  }
  return found;
}

std::string rope_type(const JsonObject& keys) {
  const std::string type = keys.text("rope_type", keys.text("type", "default"));
  if (keys.has("type") && keys.text("type") != type) {
    warn_once(fmt::format("{}: {} is {}, but rope_type is {}. rope_type is used, as transformers does.", keys.where(),
                          keys.path_of("type"), keys.text("type"), type));
  }
  if (type == "default" && keys.has("factor")) {
    warn_once(fmt::format("{}: {} is ignored, because the type is default. Set rope_type if the context was stretched.",
                          keys.where(), keys.path_of("factor")));
  }
  return type;
}

double yarn_temperature(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Frequencies rope_frequencies(const JsonObject& config, int64_t head_width) {
  require(head_width % 2 == 0, "{}: heads are {} wide, rotary embedding needs an even width. Check head_dim.",
          config.where(), head_width);
  config.require_value("partial_rotary_factor", 1.0);
  Request request{.config = config,
                  .scaling = rope_keys(config),
                  .head_width = head_width,
                  .theta = config.number("rope_theta", kDefaultTheta),
                  .plain = {}};
  if (request.scaling) {
    request.keys().require_value("partial_rotary_factor", 1.0);
    const double theta = request.keys().number("rope_theta", request.theta);
    if (config.has("rope_theta") && theta != request.theta) {
      warn_once(fmt::format("{}: rope_theta is {}, but {} is {}. The latter is used, as transformers does.",
                            config.where(), request.theta, request.keys().path_of("rope_theta"), theta));
    }
    request.theta = theta;
  }
  require(request.theta > 1, "{}: rope_theta is {}, must be above 1. Use the config.json of the original model.",
          config.where(), request.theta);
  request.plain =
      at::pow(request.theta, at::arange(0, head_width, 2, at::kFloat) / static_cast<double>(head_width)).reciprocal();
  return request.scaling ? find_type(request.keys()).frequencies(request) : keep(request);
}

}  // namespace core
