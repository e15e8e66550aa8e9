#include "quant/qat/trained_linear.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "quant/grids/affine.h"
#include "quant/qat/decoded_product.h"
#include "quant/qat/straight_through.h"

namespace quant {

namespace {

bool has_integer_zeros(const Parameters& parameters) {
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const Parameter& p) { return p.kind == core::Kind::zero_codes; });
}

}  // namespace

TrainedLinear::TrainedLinear(const QuantizedLinear& from, bool floats_zeros, const FormatFactory& format_factory,
                             std::shared_ptr<const TrainingStep> moment)
    : Linear(from.out_features(), from.in_features()),
      format_(from.shared_format()),
      codes_(from.codes()),
      codes_of_(from.codes_of()),
      rotation_(from.rotation()),
      bias_(from.bias()),
      bias_bits_(from.bias_bits()),
      compute_dtype_(from.compute_dtype()),
      step_in_training_(std::move(moment)) {
  floated_ = floats_zeros && has_integer_zeros(from.parameters());
  if (floated_) {
    WeightConfig config = format_->config();
    config.zero_point = "float";
    format_ = format_factory(*format_, config, from.in_features(), from.out_features());
  }
  parameters_ = format_->layout(from.out_features(), from.in_features());
  for (Parameter& p : parameters_) {
    const at::Tensor& before = from.parameters().at(p.name);
    p.tensor = core::is_codes(p.kind) ? before : before.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  }
  if (from.input() == nullptr) return;
  Parameters of_input = from.input()->parameters();
  for (Parameter& p : of_input) p.tensor = p.tensor.detach().clone();
  input_ = from.input()->with(std::move(of_input));
}

TrainNoise TrainedLinear::noise() const {
  const NoiseConfig& config = format_->config().noise;
  if (!step_in_training_->training || config.at != "train") return {};
  return {format_->place(), step_in_training_->step, config.sigma};
}

at::Tensor TrainedLinear::product(const at::Tensor& x, const Parameters& stored) const {
  const int64_t O = out_features(), I = in_features();
  if (const auto* affine = dynamic_cast<const AffineGrid*>(format_.get())) {
    const ElementGrid grid = affine->element_grid(stored, O, I);
    return affine_product(x, codes_, grid.scale, grid.shift, noise());
  }
  std::vector<at::Tensor> floats;
  for (const Parameter& p : stored) {
    if (!core::is_codes(p.kind)) floats.push_back(p.tensor);
  }
  const auto decode = [format = format_, codes = codes_, like = stored, O, I,
                       noise = noise()](const std::vector<at::Tensor>& values) {
    Parameters parameters = like;
    size_t next = 0;
    for (Parameter& p : parameters) {
      if (!core::is_codes(p.kind)) p.tensor = values[next++];
    }
    const at::Tensor w = format->decode(codes.unpack(), parameters);
    const at::Tensor draw = noise.draw(O, I, w.device());
    if (!draw.defined()) return w;
    const at::Tensor scale = format->noise_scale(parameters, O, I).unsqueeze(-1);  // [O, G, 1]
    return w + (draw.reshape({O, scale.size(1), -1}) * scale).reshape({O, I});
  };
  return decoded_product(x, floats, decode);
}

at::Tensor TrainedLinear::forward(const at::Tensor& x) {
  const at::Tensor coded = rotation_ == nullptr ? x : rotation_->input(x);
  const at::Tensor seen = input_ == nullptr ? coded : input_->trainable(coded);
  const Parameters stored = as_stored(*format_, parameters_);
  at::Tensor y;
  if (format_->is_weight()) {
    y = product(seen, stored);
  } else {
    const at::Tensor shared = format_->decode(codes_.unpack(), stored);
    y = format_->product(
        seen, [&](const at::Tensor& scaled) { return at::linear(scaled, shared); }, {}, stored);
  }
  if (rotation_ != nullptr) y = rotation_->output(y);
  return bias_.defined() ? y + bias_ : y;
}

at::Tensor TrainedLinear::weight() const {
  const at::Tensor decoded = format_->decode(codes_.unpack(), as_stored(*format_, parameters_));
  return (rotation_ == nullptr ? decoded : rotation_->original(decoded)).to(compute_dtype_);
}

std::vector<core::State> TrainedLinear::state() const { return coded_state(codes_, parameters_, input_.get(), bias_); }

int64_t TrainedLinear::stored_bits(const at::Tensor& parameter) const {
  for (const Parameter& p : parameters_) {
    if (p.tensor.is_same(parameter)) return p.stored_bits;
  }
  return 32;  // of the inputs
}

std::shared_ptr<QuantizedLinear> TrainedLinear::finished() const {
  const at::NoGradGuard no_gradient;
  Parameters stored = as_stored(*format_, parameters_);
  for (Parameter& p : stored) p.tensor = p.tensor.detach().clone();
  auto linear =
      std::make_shared<QuantizedLinear>(format_, codes_, std::move(stored), bias_, bias_bits_, compute_dtype_);
  linear->share_codes(codes_of_);
  linear->rotate(rotation_);
  if (input_ == nullptr) return linear;
  Parameters of_input = input_->parameters();
  for (Parameter& p : of_input) p.tensor = p.tensor.detach().clone();
  linear->quantize_input(input_->with(std::move(of_input)));
  return linear;
}

}  // namespace quant
