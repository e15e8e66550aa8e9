// Targets with statistics made by hand, for tests of methods: a weight, inputs, a format.
#pragma once

#include <ATen/ATen.h>

#include "quant/config.h"
#include "quant/grids/make_format.h"
#include "tests/support/toy_model.h"

namespace quant {

inline QuantConfig quant_config(const std::string& yaml) {
  QuantConfig config;
  core::bind(core::parse_yaml(yaml, "a.yaml"), config, "quant");
  return config;
}

// Everything known about inputs x: [m, I], as calibration finds it.
inline Statistics statistics_of(const at::Tensor& x) {
  return {.hessian = at::mm(x.t(), x) / x.size(0),
          .mean_square = at::square(x).mean(0),
          .absmax = x.abs().amax(0),
          .mean_abs = x.abs().mean(0),
          .kurtosis = 3,
          .tokens = x.size(0)};
}

inline Statistics statistics_with(const at::Tensor& hessian) {
  return {.hessian = hessian,
          .mean_square = hessian.diagonal().contiguous(),
          .absmax = hessian.diagonal().sqrt(),
          .kurtosis = 3,
          .tokens = 1};
}

// Correlated inputs whose columns differ in size: [m, I].
inline at::Tensor correlated_inputs(int64_t m, int64_t features) {
  at::manual_seed(17);
  const at::Tensor mixing = at::eye(features) + 0.6 * at::randn({features, features}) / std::sqrt(features);
  return at::mm(at::randn({m, features}), mixing) * at::logspace(-0.5, 0.5, features, 10.0);
}

// One linear of its own.
struct Single {
  core::Slot slot;
  std::shared_ptr<const WeightFormat> format;
  Statistics inputs;

  Single(const at::Tensor& w, const QuantConfig& config, Statistics statistics)
      : slot("model.layers.0.mlp.up_proj", core::Role::up_proj, w.size(0), w.size(1), false),
        format(make_format(config.weight, slot.path(), w.size(1))),
        inputs(std::move(statistics)) {
    slot.put(std::make_shared<core::DenseLinear>(w, at::Tensor(), 32));
  }

  Quantized by(const Method& method) {
    static toy::Toy toy;
    const core::Streams streams;
    core::BlockContext context{*toy.model, toy.model->block(0), 0, 0, streams};
    return method.quantize(context, {{.slot = &slot, .format = format, .input = nullptr, .inputs = inputs}}).at(0);
  }
};

// The weight [O, I] quantized as `yaml` (the quant section) says, knowing `statistics`.
inline Quantized quantized_as(const std::string& yaml, const at::Tensor& w, const Statistics& statistics) {
  const QuantConfig config = quant_config(yaml);
  return Single(w, config, statistics).by(*config.methods.at(config.method));
}

inline at::Tensor decoded_as(const std::string& yaml, const at::Tensor& w, const Statistics& statistics) {
  const QuantConfig config = quant_config(yaml);
  Single single(w, config, statistics);
  const Quantized result = single.by(*config.methods.at(config.method));
  return single.format->decode(result.encoded.codes, result.encoded.parameters);
}

// Of inputs x_q [n, I] and what full precision has in their place.
inline Statistics statistics_of_both(const at::Tensor& x_fp, const at::Tensor& x_q) {
  Statistics x = statistics_of(x_q);
  x.cross = at::mm((x_fp - x_q).t(), x_q) / x_q.size(0);
  return x;
}

// tr(ΔHΔᵀ) / tr(WHWᵀ).
inline double output_error(const at::Tensor& w, const at::Tensor& approximation, const at::Tensor& hessian) {
  const at::Tensor d = (w - approximation).to(at::kDouble), h = hessian.to(at::kDouble), wide = w.to(at::kDouble);
  return ((at::mm(d, h) * d).sum() / (at::mm(wide, h) * wide).sum()).item<double>();
}

}  // namespace quant
