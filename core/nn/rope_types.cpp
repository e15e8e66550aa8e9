// All arithmetic on frequencies is float32, because models were trained and published with frequencies rounded that
// way: at position 2,000 a frequency that is 1e-7 more exact already turns a pair by 1e-4.
#include "core/nn/rope_types.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>

#include "core/error.h"

namespace core {

namespace {

struct Request {
  const JsonObject& config;           // of the model
  std::optional<JsonObject> scaling;  // rope_scaling or rope_parameters
  int64_t head_width;                 // C
  double theta;                       // base of the wavelengths
  at::Tensor plain;                   // [C/2]: theta^(-2i/C), the original frequencies

  const JsonObject& keys() const { return *scaling; }
  double factor() const;
};

double Request::factor() const {
  const double value = keys().number("factor");
  require(value >= 1.0, "{}: {} is {}, must be at least 1. Use the config.json of the original model.", keys().where(),
          keys().path_of("factor"), value);
  return value;
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
  const int64_t model_context = request.config.positive("max_position_embeddings");
  const auto context = static_cast<double>(keys.positive("original_max_position_embeddings", model_context));
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
  const auto context = static_cast<double>(keys.positive("original_max_position_embeddings"));
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
  const char* key = scaling.has("type") ? "type" : "rope_type";  // `type` is the older spelling
  const std::string name = scaling.text(key);
  std::string known;
  for (const RopeType& type : kRopeTypes) {
    if (name == type.name) return type;
    known += (known.empty() ? "" : ", ") + std::string(type.name);
  }
  fail("{}: {} is {}, which is not implemented. Use a model with one of: {}.", scaling.where(), scaling.path_of(key),
       name, known);
}

}  // namespace

double yarn_temperature(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Frequencies rope_frequencies(const JsonObject& config, int64_t head_width) {
  require(head_width % 2 == 0, "{}: heads are {} wide, rotary embedding needs an even width. Check head_dim.",
          config.where(), head_width);
  config.require_value("partial_rotary_factor", 1.0);
  Request request{.config = config,
                  .scaling = {},
                  .head_width = head_width,
                  .theta = config.number("rope_theta", 10000.0),
                  .plain = {}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (config.has(key)) request.scaling = config.object(key);
  }
  if (request.scaling) {
    request.theta = request.keys().number("rope_theta", request.theta);
    request.keys().require_value("partial_rotary_factor", 1.0);
  }
  require(request.theta > 1, "{}: rope_theta is {}, must be above 1. Use the config.json of the original model.",
          config.where(), request.theta);
  request.plain =
      at::pow(request.theta, at::arange(0, head_width, 2, at::kFloat) / static_cast<double>(head_width)).reciprocal();
  return request.scaling ? find_type(request.keys()).frequencies(request) : keep(request);
}

}  // namespace core
