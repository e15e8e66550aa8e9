#include "quant/qat/trained_linear.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "quant/grids/affine.h"
#include "quant/qat/decoded_product.h"
#include "quant/qat/straight_through.h"

namespace quant {

namespace {

constexpr double kSmallestScale = 1e-30;

bool has_integer_zeros(const Parameters& parameters) {
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const Parameter& p) { return p.kind == core::Kind::zero_codes; });
}

}  // namespace

TrainedLinear::TrainedLinear(const QuantizedLinear& from, bool floats_zeros, const FormatFactory& format_factory,
                             std::shared_ptr<const TrainingStep> moment, const CodeTraining& codes)
    : Linear(from.out_features(), from.in_features()),
      format_(from.shared_format()),
      code_training_(codes),
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
  if (codes.trains) {
    TORCH_CHECK(codes_of_.empty() && format_->is_weight(), "codes that others use are not trained");
    const at::NoGradGuard no_gradient;
    const Parameters stored = as_stored(*format_, parameters_);
    u_ = codes_.unpack().to(at::kFloat);
    if (!is_affine())
      u_ = format_->decode(codes_.unpack(), stored) / scaled(at::ones_like(u_), stored).clamp_min(kSmallestScale);
    encoded_ = changes();
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

int64_t TrainedLinear::changes() const {
  int64_t sum = u_._version();
  for (const Parameter& p : parameters_) sum += p.tensor._version();
  return sum;
}

const core::Codes& TrainedLinear::codes(const Parameters& stored) const {
  const bool encodes = !step_in_training_->training || step_in_training_->step % code_training_.encode_every == 0;
  if (!u_.defined() || !encodes || encoded_ == changes()) return codes_;
  const at::NoGradGuard no_gradient;
  Parameters fixed = stored;
  for (Parameter& p : fixed) p.tensor = p.tensor.detach();
  const auto top = static_cast<double>((int64_t{1} << codes_.bits()) - 1);
  codes_ = core::Codes::pack(is_affine() ? at::round(u_.detach()).clamp_(0, top).to(at::kByte)
                                         : format_->encode(scaled(u_.detach(), fixed), fixed).codes,
                             codes_.bits());
  encoded_ = changes();
  return codes_;
}

bool TrainedLinear::is_affine() const { return dynamic_cast<const AffineGrid*>(format_.get()) != nullptr; }

at::Tensor TrainedLinear::scaled(const at::Tensor& x, const Parameters& parameters) const {
  const at::Tensor scale = format_->noise_scale(parameters, out_features(), in_features()).unsqueeze(-1);  // [O, G, 1]
  return (x.reshape({x.size(0), scale.size(1), -1}) * scale).reshape(x.sizes());
}

at::Tensor TrainedLinear::trained_weight(const Parameters& stored) const {
  const int64_t O = out_features(), I = in_features();
  if (const auto* affine = dynamic_cast<const AffineGrid*>(format_.get())) {
    const ElementGrid grid = affine->element_grid(stored, O, I);
    const at::Tensor k = straight_through(u_, at::round(u_.detach())).clamp(0, static_cast<double>(grid.top));
    const at::Tensor groups = k.reshape({O, -1, grid.group_size});
    return ((groups - grid.shift.unsqueeze(-1)) * grid.scale.unsqueeze(-1)).reshape({O, I});
  }
  Parameters fixed = stored;
  for (Parameter& p : fixed) p.tensor = p.tensor.detach();
  return format_->decode(codes(stored).unpack(), stored) + scaled(u_ - u_.detach(), fixed);
}

at::Tensor TrainedLinear::product(const at::Tensor& x, const Parameters& stored) const {
  const int64_t O = out_features(), I = in_features();
  if (u_.defined()) {
    at::Tensor w = trained_weight(stored);
    if (const at::Tensor draw = noise().draw(O, I, w.device()); draw.defined()) w = w + scaled(draw, stored);
    return at::linear(x, w.to(x.scalar_type()));
  }
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
  const Parameters stored = as_stored(*format_, parameters_);
  const at::Tensor decoded = format_->decode(codes(stored).unpack(), stored);
  return (rotation_ == nullptr ? decoded : rotation_->original(decoded)).to(compute_dtype_);
}

std::vector<core::State> TrainedLinear::state() const {
  std::vector<core::State> all = coded_state(codes_, parameters_, input_.get(), bias_);
  if (u_.defined()) all.push_back({"weight", u_, core::Kind::weight});
  return all;
}

int64_t TrainedLinear::stored_bits(const at::Tensor& parameter) const {
  for (const Parameter& p : parameters_) {
    if (p.tensor.is_same(parameter)) return p.stored_bits;
  }
  if (u_.is_same(parameter)) return codes_.bits();
  return 32;  // of the inputs
}

std::shared_ptr<QuantizedLinear> TrainedLinear::finished() const {
  const at::NoGradGuard no_gradient;
  Parameters stored = as_stored(*format_, parameters_);
  for (Parameter& p : stored) p.tensor = p.tensor.detach().clone();
  const core::Codes last = codes(stored);
  auto linear = std::make_shared<QuantizedLinear>(format_, last, std::move(stored), bias_, bias_bits_, compute_dtype_);
  linear->share_codes(codes_of_);
  linear->rotate(rotation_);
  if (input_ == nullptr) return linear;
  Parameters of_input = input_->parameters();
  for (Parameter& p : of_input) p.tensor = p.tensor.detach().clone();
  linear->quantize_input(input_->with(std::move(of_input)));
  return linear;
}

}  // namespace quant
