#include "quant/linear/quantized_linear.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "quant/grids/draws.h"

namespace quant {

QuantizedLinear::QuantizedLinear(std::shared_ptr<const WeightFormat> format, Encoded encoded, at::Tensor bias,
                                 int64_t bias_bits, at::ScalarType compute_dtype)
    : QuantizedLinear(format, core::Codes::pack(encoded.codes, format->code_bits()), std::move(encoded.parameters),
                      std::move(bias), bias_bits, compute_dtype) {}

QuantizedLinear::QuantizedLinear(std::shared_ptr<const WeightFormat> format, core::Codes codes, Parameters parameters,
                                 at::Tensor bias, int64_t bias_bits, at::ScalarType compute_dtype)
    : Linear(codes.rows(), codes.columns()),
      format_(std::move(format)),
      codes_(std::move(codes)),
      parameters_(std::move(parameters)),
      bias_bits_(bias_bits),
      compute_dtype_(compute_dtype) {
  for (const Parameter& p : parameters_) {
    if (core::is_codes(p.kind)) {
      register_buffer(p.name, p.tensor);
    } else {
      register_parameter(p.name, p.tensor, /*requires_grad=*/false);
    }
  }
  if (bias.defined()) bias_ = register_parameter("bias", std::move(bias), /*requires_grad=*/false);
}

void QuantizedLinear::quantize_input(std::shared_ptr<const InputQuantizer> input) {
  input_ = std::move(input);
  if (input_ == nullptr) return;
  for (const Parameter& p : input_->parameters()) register_parameter(p.name, p.tensor, /*requires_grad=*/false);
}

at::Tensor QuantizedLinear::forward(const at::Tensor& x) {
  const auto quantized = [&](const at::Tensor& input) { return input_ ? input_->apply(input) : input; };
  if (rotation_ == nullptr) return product(quantized(x), bias_);
  const at::Tensor y = rotation_->output(product(quantized(rotation_->input(x)), {}));
  return bias_.defined() ? y + bias_ : y;
}

at::Tensor QuantizedLinear::product(const at::Tensor& x, const at::Tensor& bias) const {
  if (packed_ != nullptr) return packed_product(x, bias);
  const at::Tensor w = decoded();
  if (format_->is_weight()) return at::linear(x, w, bias);
  return format_->product(
      x, [&](const at::Tensor& scaled) { return at::linear(scaled, w); }, bias, parameters_);
}

// ---- with packed codes ----

std::string QuantizedLinear::run_packed(const Execution& execution) {
  packed_ = nullptr;
  if (format_->config().noise.in_inference()) return "its noise is of every weight";
  if (compute_dtype_ != at::kFloat) return std::string("it computes in ") + c10::toString(compute_dtype_);
  std::string reason;
  packed_ = PackedWeight::make(*format_, codes_, parameters_, execution, reason);
  return reason;
}

at::Tensor QuantizedLinear::packed_product(const at::Tensor& x, const at::Tensor& bias) const {
  const at::Tensor flat = x.reshape({-1, in_features()});
  const bool is_small = flat.size(0) <= packed_->execution().most_rows;
  const at::Tensor input = is_small && packed_->rounds_itself() ? flat : packed_->rounded(flat);
  const auto multiply = [&](const at::Tensor& in) { return is_small ? packed_->product(in) : product_by_tile(in); };
  at::Tensor y;
  if (format_->is_weight()) {
    y = multiply(input);
    if (bias.defined()) y.add_(bias);
  } else {
    y = format_->product(input, multiply, bias, parameters_);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = out_features();
  return y.reshape(shape);
}

bool QuantizedLinear::reads_like(const core::Linear& other) const {
  const auto* it = dynamic_cast<const QuantizedLinear*>(&other);
  return it != nullptr && packed_ != nullptr && it->packed_ != nullptr && input_ == nullptr && it->input_ == nullptr &&
         rotation_ == nullptr && it->rotation_ == nullptr && format_->is_weight() && it->format_->is_weight() &&
         packed_->reads_like(*it->packed_);
}

std::vector<at::Tensor> QuantizedLinear::forward_each(const std::vector<core::Linear*>& all, const at::Tensor& x) {
  const auto joins = [&](const core::Linear* linear) { return reads_like(*linear); };
  const int64_t n = x.numel() / in_features();
  if (n == 0 || !std::all_of(all.begin(), all.end(), joins) || n > packed_->execution().most_rows)
    return Linear::forward_each(all, x);
  std::vector<const PackedWeight*> packed;
  for (const core::Linear* linear : all) packed.push_back(dynamic_cast<const QuantizedLinear&>(*linear).packed());
  const at::Tensor flat = x.reshape({n, in_features()});
  std::vector<at::Tensor> y =
      PackedWeight::product_each(packed, packed_->rounds_itself() ? flat : packed_->rounded(flat));
  std::vector<int64_t> shape = x.sizes().vec();
  for (size_t i = 0; i < all.size(); ++i) {
    if (const at::Tensor bias = all[i]->bias(); bias.defined()) y[i].add_(bias);
    shape.back() = all[i]->out_features();
    y[i] = y[i].view(shape);
  }
  return y;
}

bool QuantizedLinear::reads_once_beside(const core::Linear& other) const {
  const auto* it = dynamic_cast<const QuantizedLinear*>(&other);
  return it != nullptr && packed_ != nullptr && it->packed_ != nullptr && it->input_ == input_ &&
         rotation_ == nullptr && it->rotation_ == nullptr && format_->is_weight() && it->format_->is_weight() &&
         packed_->shares_codes_with(*it->packed_);
}

at::Tensor QuantizedLinear::forward_beside(const std::vector<core::Linear*>& all, const at::Tensor& x) {
  const auto joins = [&](const core::Linear* linear) { return reads_once_beside(*linear); };
  const int64_t n = x.numel() / x.size(0) / in_features();  // inputs of one linear
  if (!std::all_of(all.begin(), all.end(), joins) || n > packed_->execution().most_rows)
    return Linear::forward_beside(all, x);
  std::vector<const PackedWeight*> packed;
  for (const core::Linear* linear : all) packed.push_back(dynamic_cast<const QuantizedLinear&>(*linear).packed());
  const at::Tensor flat = (input_ ? input_->apply(x) : x).reshape({x.size(0), n, in_features()});
  at::Tensor y = PackedWeight::product_beside(packed, packed_->rounds_itself() ? flat : packed_->rounded(flat));
  for (size_t r = 0; r < all.size(); ++r) {
    if (const at::Tensor bias = all[r]->bias(); bias.defined()) y[static_cast<int64_t>(r)].add_(bias);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.front() = std::ssize(all);
  shape.back() = out_features();
  return y.reshape(shape);
}

// Decodes as many rows at a time as a core keeps near, so that there is never a dense copy.
at::Tensor QuantizedLinear::product_by_tile(const at::Tensor& x) const {
  constexpr int64_t kTileElements = 1 << 20;
  const int64_t O = out_features();
  const int64_t tile = std::max<int64_t>(64, kTileElements / in_features() / 64 * 64);  // whole tiles of 16 rows
  if (tile >= O) return at::linear(x, decoded());
  at::Tensor y = at::empty({x.size(0), O}, x.options());
  for (int64_t first = 0; first < O; first += tile) {
    const int64_t n = std::min(tile, O - first);
    const at::Tensor index = at::arange(first, first + n, at::TensorOptions(at::kLong).device(codes_.device()));
    y.narrow(1, first, n).copy_(at::linear(x, decoded_rows(index)));
  }
  return y;
}

at::Tensor QuantizedLinear::weight() const { return rotation_ == nullptr ? decoded() : rotation_->original(decoded()); }

at::Tensor QuantizedLinear::decoded() const {
  const at::Tensor decoded = format_->decode(codes_.unpack(), parameters_);
  return (format_->config().noise.in_inference() ? decoded + noise() : decoded).to(compute_dtype_);
}

// [O, …] -> [n, …]; what all rows share stays, whatever its size: the layout of one row has it with the same.
Parameters QuantizedLinear::parameters_of_rows(const at::Tensor& index) const {
  Parameters some = parameters_;
  const Parameters one = format_->layout(1, in_features());
  for (size_t i = 0; i < some.size(); ++i) {
    at::Tensor& own = some[i].tensor;
    if (one[i].shape != own.sizes().vec() && own.size(0) == out_features()) own = own.index_select(0, index);
  }
  return some;
}

at::Tensor QuantizedLinear::rows(const at::Tensor& index) const {
  TORCH_CHECK(rotation_ == nullptr, "a table that is looked up is not rotated");
  TORCH_CHECK(format_->is_weight(), "a table that is looked up is not multiplied: no format ", format_->name());
  const at::Tensor flat = index.reshape({-1});  // [n]
  at::Tensor decoded = decoded_rows(flat);
  if (format_->config().noise.in_inference()) decoded = decoded + noise().index_select(0, flat);
  std::vector<int64_t> shape = index.sizes().vec();
  shape.push_back(codes_.columns());
  return decoded.to(compute_dtype_).reshape(shape);
}

at::Tensor QuantizedLinear::decoded_rows(const at::Tensor& index) const {
  return format_->decode(codes_.unpack_rows(index), parameters_of_rows(index));
}

// The draw is kept while the linear lives, the scales that it is multiplied with may change.
at::Tensor QuantizedLinear::noise() const {
  const int64_t rows = codes_.rows(), columns = codes_.columns();
  if (!draw_.defined()) draw_ = normal_draw(format_->place(), "noise", 0, rows, columns).to(codes_.device());
  const at::Tensor per_group = format_->noise_scale(parameters_, rows, columns);     // [O, G]
  const at::Tensor scale = per_group.unsqueeze(-1) * format_->config().noise.sigma;  // [O, G, 1]
  return (draw_.reshape({rows, scale.size(1), -1}) * scale).reshape({rows, columns});
}

std::shared_ptr<QuantizedLinear> QuantizedLinear::with(std::shared_ptr<const WeightFormat> format,
                                                       Parameters parameters) const {
  auto other = std::make_shared<QuantizedLinear>(std::move(format), codes_, std::move(parameters), bias_, bias_bits_,
                                                 compute_dtype_);
  other->share_codes(codes_of_);
  other->quantize_input(input_);
  other->rotate(rotation_);
  return other;
}

std::vector<core::State> coded_state(const core::Codes& codes, const Parameters& parameters,
                                     const InputQuantizer* input, const at::Tensor& bias) {
  std::vector<core::State> all{{"codes", codes.packed(), core::Kind::codes}};
  for (const Parameter& p : parameters) all.push_back({p.name, p.tensor, p.kind});
  if (input != nullptr) {
    for (const Parameter& p : input->parameters()) all.push_back({p.name, p.tensor, p.kind});
  }
  if (bias.defined()) all.push_back({"bias", bias, core::Kind::bias});
  return all;
}

std::vector<core::State> QuantizedLinear::state() const {
  return coded_state(codes_, parameters_, input_.get(), bias_);
}

core::Cost QuantizedLinear::cost() const {
  const int64_t weights = codes_.rows() * codes_.columns();
  const int64_t bias = bias_.defined() ? bias_.numel() * bias_bits_ : 0;
  const int64_t inputs = input_ != nullptr ? parameter_bits(input_->parameters()) : 0;
  const int64_t parameters = parameter_bits(parameters_) + inputs;
  return {.weights = weights,
          .code_bits = codes_of_.empty() ? codes_.stored_bits() : 0,
          .parameter_bits = parameters,
          .dense_bits = bias,
          .macs = format_->macs(codes_.rows(), codes_.columns()) + (rotation_ == nullptr ? 0 : rotation_->macs()),
          .bytes_read = (codes_.stored_bits() + parameters + bias) / 8};
}

}  // namespace quant
